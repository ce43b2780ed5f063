"""The task of describing: rows with an encoded image in, the same rows with a description out.

Every image is asked about with one fixed instruction, named by id and hash. A row whose image
does not decode or whose answer is empty gets an `error`; the others of its batch go on. Fills
`description` and `describe_s`.
Limits: the instruction is the run's, not the row's: the record takes it from
`config.instruction_used()`; `describe_s` is the row's equal share of its batch.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from PIL import Image

from actors.backends.simulated import (
    SimulatedCaptionEngine,
    SimulatedConfig,
    simulated_identity,
)
from actors.engines import CaptionEngine
from actors.images import decode_image
from actors.isolation import run_rows
from actors.models import ModelIdentity, identify_model, resolve_model
from actors.prompts import Instruction, clean_text, find_instruction
from actors.reasons import Reason, RowError
from actors.records import Row
from actors.scenes.defaults import MAX_NEW_TOKENS
from actors.validation import DEVICES, DTYPES, check_choice, check_range

BACKENDS = ("hf_mllm", "simulated")


@dataclass(frozen=True, kw_only=True)
class ImageToTextConfig:
    """What to describe with. The defaults fit the embedded model."""

    # hf_mllm: an image-text-to-text model of transformers; simulated: no model
    backend: str = "hf_mllm"
    model: str = "embedded"  # embedded, a folder, or a hub id owner/name[@revision]
    # a shipped instruction (actors/prompts.py), or the name of your own
    instruction_id: str = "describe-v1"
    instruction: str = ""  # your own text; empty: the shipped text of that id
    max_new_tokens: int = MAX_NEW_TOKENS  # a longer answer is cut there
    temperature: float = 0.0  # 0: the most likely answer, whatever the rng_seed
    # below 1: sample from the most likely tokens that hold this much probability
    top_p: float = 1.0
    dtype: str = "auto"  # auto: float32 on a CPU, bfloat16 on a GPU
    device: str = "auto"  # auto: the GPU if torch sees one, else the CPU
    simulated: SimulatedConfig = field(default_factory=SimulatedConfig)  # for backend: simulated

    def __post_init__(self) -> None:
        check_choice("backend", self.backend, BACKENDS)
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("device", self.device, DEVICES)
        check_range("max_new_tokens", self.max_new_tokens, 1, 8192)
        check_range("temperature", self.temperature, 0.0, 10.0)
        check_range("top_p", self.top_p, 0.001, 1.0)
        self.instruction_used()

    def instruction_used(self) -> Instruction:
        """The instruction with its id and hash, as the record wants it."""
        return find_instruction(self.instruction_id, self.instruction)

    def identity(self) -> ModelIdentity:
        """What the record says of the model; reads a local folder's every byte."""
        if self.backend == "simulated":
            return simulated_identity("describe")
        return identify_model(resolve_model(self.model, "llava"))

    def sampling_params(self) -> dict[str, Any]:
        """What, besides model, instruction and rng_seed, decides the description."""
        names = ("max_new_tokens", "temperature", "top_p", "dtype")
        return {"backend": self.backend} | {name: asdict(self)[name] for name in names}


class ImageToText:
    """A batch of rows in, the same rows with descriptions out."""

    def __init__(self, engine: CaptionEngine, config: ImageToTextConfig) -> None:
        self._engine = engine
        self._instruction = config.instruction_used()

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        return run_rows(
            rows,
            prepare=_read_image,
            call=self._describe,
            finish=_clean,
            seconds_column="describe_s",
        )

    def _describe(self, items: list[tuple[Image.Image, int]]) -> list[str]:
        images = [image for image, _ in items]
        rng_seeds = [rng_seed for _, rng_seed in items]
        return self._engine.describe(images, self._instruction.text, rng_seeds)


def _read_image(row: Row) -> tuple[Image.Image, int]:
    image = row["image"]
    if not image or not image["bytes"]:
        raise RowError(Reason.IMAGE_MISSING, "nothing to describe")
    return decode_image(image["bytes"]), row["rng_seed_describe"]


def _clean(text: str) -> dict[str, Any]:
    description = clean_text(text)
    if not description:
        raise RowError(Reason.DESCRIPTION_EMPTY, f"the captioner answered {text[:80]!r}")
    return {"description": description}


def build_image_to_text(config: ImageToTextConfig) -> ImageToText:
    """Loads the model and returns the task; called in the process that will describe."""
    if config.backend == "simulated":
        engine: CaptionEngine = SimulatedCaptionEngine(config.simulated)
    else:
        from actors.backends.hf_mllm import HfMllmEngine

        engine = HfMllmEngine(config)
    return ImageToText(engine, config)
