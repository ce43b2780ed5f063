"""The task of describing: rows with an encoded image in, the same rows with a description out.

Every image is asked about with one fixed instruction, named by id and hash. A row whose image
does not decode, or whose answer is empty, too long or breaks a rule (actors/text_rules.py: what a
picture says is data and is never obeyed), gets an `error`; the others of its batch go on. Fills
`description`, `finish_reason` and `describe_s`.
Limits: the instruction is the run's, not the row's: the record takes it from
`config.instruction_used()`; `describe_s` is the row's equal share of its batch, decoding left out:
a replica decodes a batch, and resizes it where the engine can do that apart, while the engine
describes the one before.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from actors.backends.simulated import SimulatedCaptionEngine
from actors.engines import Answer, CaptionEngine, PreprocessingEngine, check_answer
from actors.images import decode_image
from actors.isolation import (
    Experience,
    PreparedRows,
    WorkedRows,
    finish_rows,
    is_about_rows,
    prepare_rows,
    work_rows,
)
from actors.language_model import LanguageModelConfig
from actors.prompts import Instruction, clean_text, find_instruction
from actors.reasons import Reason, RowError
from actors.records import Row
from actors.text_rules import TEXT_RULES_ID, find_rule
from actors.validation import check_range

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ImageToTextConfig(LanguageModelConfig):
    """What to describe with. The defaults fit the embedded model."""

    role = "describe"

    # a shipped instruction (actors/prompts.py), or the name of your own
    instruction_id: str = "describe-v1"
    instruction: str = ""  # your own text; empty: the shipped text of that id
    max_chars: int = 4000  # a longer answer becomes an error row: a model that cannot stop
    # an answer that a next model might obey (actors/text_rules.py) becomes one; switch it off where
    # pictures of text are the point
    has_text_rules: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("max_chars", self.max_chars, 1, 1_000_000)
        self.instruction_used()

    def instruction_used(self) -> Instruction:
        """The instruction with its id and hash, as the record wants it."""
        return find_instruction(self.instruction_id, self.instruction)

    def sampling_params(self) -> dict[str, Any]:
        """What decides the answer, and whether it becomes a row."""
        rules = {
            "max_chars": self.max_chars,
            "text_rules": TEXT_RULES_ID if self.has_text_rules else None,
        }
        return super().sampling_params() | rules


@dataclass(frozen=True, eq=False)
class _Picture:
    """What the engine is asked of one row; equal to itself only."""

    image: Image.Image
    rng_seed: int


@dataclass(kw_only=True)
class PreparedPictures(PreparedRows[_Picture]):
    """A batch before its engine."""

    inputs: dict[tuple[_Picture, int], Any]
    """What the engine made of the pictures ahead, by the first one and their number: it is of use
    for just that call, and a batch that is halved is described from its pictures."""


class ImageToText:
    """A batch of rows in, the same rows with descriptions out; also in steps (cluster's
    BatchSteps).
    """

    def __init__(self, engine: CaptionEngine, config: ImageToTextConfig) -> None:
        self._engine = engine
        self._instruction = config.instruction_used()
        self._max_chars = config.max_chars
        self._has_text_rules = config.has_text_rules
        self._has_told_of_cut = False
        self._experience = Experience()

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        return self.finish(self.work(self.prepare(rows)))

    def prepare(self, rows: Sequence[Row]) -> PreparedPictures:
        prepared = prepare_rows(rows, _read_image, self._experience)
        return PreparedPictures(
            rows=prepared.rows, live=prepared.live, inputs=self._preprocess(prepared.items)
        )

    def work(self, prepared: PreparedPictures) -> WorkedRows[Answer | RowError]:
        def describe(pictures: list[_Picture]) -> Sequence[Answer | RowError]:
            rng_seeds = [picture.rng_seed for picture in pictures]
            inputs = prepared.inputs.get((pictures[0], len(pictures)))
            if inputs is not None and isinstance(self._engine, PreprocessingEngine):
                return self._engine.describe_preprocessed(inputs, rng_seeds)
            images = [picture.image for picture in pictures]
            return self._engine.describe(images, self._instruction.text, rng_seeds)

        return work_rows(prepared, describe, self._experience)

    def finish(self, worked: WorkedRows[Answer | RowError]) -> list[Row]:
        return finish_rows(worked, self._check, "describe_s", self._experience)

    def _preprocess(self, pictures: list[_Picture]) -> dict[tuple[_Picture, int], Any]:
        """The engine's own work on the CPU for the calls that `work` will begin with."""
        inputs: dict[tuple[_Picture, int], Any] = {}
        if not pictures or not isinstance(self._engine, PreprocessingEngine):
            return inputs
        size = self._experience.next_size(len(pictures))
        for first in range(0, len(pictures), size):
            part = pictures[first : first + size]
            images = [picture.image for picture in part]
            try:
                inputs[part[0], len(part)] = self._engine.preprocess(images, self._instruction.text)
            except BaseException as error:
                if not is_about_rows(error):
                    raise
                # `work` meets it again, and tells which row it is of.
                _logger.info("%d pictures are left to the engine's thread: %r", len(part), error)
        return inputs

    def _check(self, result: object) -> dict[str, Any]:
        answer = check_answer(result)
        text, description = answer.text, clean_text(answer.text)
        if not description:
            raise RowError(Reason.DESCRIPTION_EMPTY, f"the captioner answered {text[:80]!r}")
        if len(description) > self._max_chars:
            message = f"{len(description)} characters, the limit is {self._max_chars}"
            raise RowError(Reason.DESCRIPTION_TOO_LONG, message)
        rule = (
            find_rule(text) if self._has_text_rules else None
        )  # as it came: cleaned text has no lines
        if rule is not None:
            raise RowError(Reason.TEXT_RULE, f"{rule}: {description[:80]!r}")
        if answer.finish_reason == "length" and not self._has_told_of_cut:
            self._has_told_of_cut = True
            _logger.warning(
                "an answer was cut at max_new_tokens, or at the model's own length; later ones are "
                "not logged: their finish_reason is 'length'"
            )
        return {"description": description, "finish_reason": answer.finish_reason}


def _read_image(row: Row) -> _Picture:
    image = row["image"]
    if not image or not image["bytes"]:
        raise RowError(Reason.IMAGE_MISSING, "nothing to describe")
    return _Picture(decode_image(image["bytes"]), row["rng_seed_describe"])


def build_image_to_text(
    config: ImageToTextConfig, expected_digest: str | None = None
) -> ImageToText:
    """Loads the model and returns the task; called in the process that will describe.

    Raises:
        ValueError: the model is not the one of `expected_digest`, which is an identity's.
    """
    if config.backend == "simulated":
        engine: CaptionEngine = SimulatedCaptionEngine(config.simulated)
    elif config.backend == "vllm":
        from actors.backends.vllm_engine import VllmEngine

        engine = VllmEngine(config, expected_digest, has_images=True)
    else:
        from actors.backends.hf_mllm import HfMllmEngine

        engine = HfMllmEngine(config, expected_digest)
    return ImageToText(engine, config)
