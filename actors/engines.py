"""What a task asks of a model: lists in, lists out, one result per input, in order.

An engine owns its model and its device. It may raise on a batch: the task tries again, then halves
the batch until the bad row is alone. It raises `EngineDeadError` once no later call can succeed:
that ends the replica.
Limits: order is the engine's promise; a task cannot tell results that changed places. Engines are
not thread-safe (diffusers schedulers keep state; vLLM's is, and takes several calls at a time) and
are built where they run, never pickled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from actors.reasons import Reason, RowError

# Backends whose engine takes several calls at a time. In any other one two calls meet in the state
# that it keeps (a scheduler's place in its steps, say), and mix.
THREAD_SAFE_BACKENDS: Final = ("vllm", "simulated")


class EngineDeadError(RuntimeError):
    """The engine or its device cannot serve another call: the replica has to be replaced."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One result of `ImageEngine.draw`; `image` is None when `problem` says why there is none."""

    image: Image.Image | None
    is_prompt_truncated: bool = False
    problem: RowError | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One text of a language model, and how it ended."""

    text: str
    finish_reason: Literal["stop", "length"] | None = None
    """`stop`: by itself, or at a stop string; `length`: cut at `max_new_tokens` or at the model's
    own length; None where the engine cannot tell."""


def check_answer(result: object) -> Answer:
    """Takes what an engine returned for one row as an answer.

    Raises:
        RowError: it is none, or its text is no text.
    """
    text = result.text if isinstance(result, Answer) else result
    if isinstance(result, Answer) and isinstance(text, str):
        return result
    raise RowError(Reason.TEXT_MISSING, f"the engine returned {type(text).__name__}, no answer")


class ImageEngine(Protocol):
    """Draws one image per prompt. Equal (prompt, rng_seed) give equal images up to float noise, in
    any batch.
    """

    def draw(self, prompts: list[str], rng_seeds: list[int]) -> list[Drawn]: ...


class CaptionEngine(Protocol):
    """Answers one instruction about each image. `rng_seeds` count only where the engine samples. An
    engine that batches by itself may put a RowError in the place of an answer: it knows which row
    failed, and the others need not be asked again.
    """

    def describe(
        self, images: list[Image.Image], instruction: str, rng_seeds: list[int]
    ) -> Sequence[Answer | RowError]: ...


@runtime_checkable
class PreprocessingEngine(Protocol):
    """What a CaptionEngine may have besides: its work on the CPU apart from that on the device.

    `describe(images, instruction, rng_seeds)` then says the same as
    `describe_preprocessed(preprocess(images, instruction), rng_seeds)`.
    """

    def preprocess(self, images: list[Image.Image], instruction: str) -> Any:
        """Resizes to the model's grid, normalises and tokenizes, into tensors of the CPU.

        Called on a thread of its own, one batch at a time, while another batch is described: it
        leaves the device alone and shares nothing with `describe_preprocessed` that the other may
        change. Where it raises, `describe` is asked instead: that one finds out which row it was.
        """
        ...

    def describe_preprocessed(self, inputs: Any, rng_seeds: list[int]) -> list[Answer]:
        """One answer per image of `inputs`, which is not altered: a batch is tried twice."""
        ...


class TextEngine(Protocol):
    """Answers each prompt with a text, or a RowError, as a CaptionEngine does."""

    def write(self, prompts: list[str], rng_seeds: list[int]) -> Sequence[Answer | RowError]: ...


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One result of `ScoreEngine.score`; vectors are float32, of length 1."""

    image: np.ndarray
    texts: tuple[np.ndarray, ...]
    """In the order of the texts that came with the picture."""
    heads: dict[str, float]
    """Scores of further models, by the name of their column."""


class ScoreEngine(Protocol):
    """Embeds pictures and texts in one space, and asks further models about the pictures."""

    def preprocess(self, image: Image.Image) -> Any:
        """The work on the CPU for one picture; on a thread of its own, while a batch is scored."""
        ...

    def score(self, pictures: list[Any], texts: list[list[str]]) -> list[Scored]:
        """One result for every preprocessed picture with its texts; what comes twice in a batch is
        embedded once."""
        ...
