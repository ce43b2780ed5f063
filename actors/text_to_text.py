"""The task of writing: rows with a prompt in, the same rows with a text out. The author of seed
descriptions uses it.

Reads `prompt` and `rng_seed`, fills `text`, `finish_reason` and `write_s`. A row with an empty
prompt or an empty answer gets an `error`; the others of its batch go on.
Limits: texts are not made distinct here, whoever asks for m different ones counts them;
`write_s` is the row's equal share of its batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actors.backends.simulated import SimulatedTextEngine
from actors.engines import Answer, TextEngine, check_answer
from actors.isolation import Experience, run_rows
from actors.language_model import LanguageModelConfig
from actors.prompts import clean_text
from actors.reasons import Reason, RowError
from actors.records import Row


@dataclass(frozen=True, kw_only=True)
class TextToTextConfig(LanguageModelConfig):
    """What to write with. The default is the embedded captioner, asked without an image."""

    role = "write"

    temperature: float = 1.0  # 0: the most likely answer, the same for every rng_seed


class TextToText:
    """A batch of rows in, the same rows with texts out."""

    def __init__(self, engine: TextEngine, config: TextToTextConfig) -> None:
        self._engine = engine
        self._config = config
        self._experience = Experience()

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        return run_rows(
            rows,
            prepare=_read_prompt,
            call=self._write,
            finish=_check_text,
            seconds_column="write_s",
            experience=self._experience,
        )

    def _write(self, items: list[tuple[str, int]]) -> Sequence[Answer | RowError]:
        return self._engine.write(
            [prompt for prompt, _ in items], [rng_seed for _, rng_seed in items]
        )


def _read_prompt(row: Row) -> tuple[str, int]:
    prompt = row["prompt"]
    if not prompt or not prompt.strip():
        raise RowError(Reason.PROMPT_EMPTY, "nothing to answer")
    return prompt, row["rng_seed"]


def _check_text(result: object) -> dict[str, Any]:
    answer = check_answer(result)
    if not clean_text(answer.text):
        raise RowError(Reason.TEXT_EMPTY, f"the author answered {answer.text[:80]!r}")
    # uncleaned: the lines of a list answer are needed to split it
    return {"text": answer.text, "finish_reason": answer.finish_reason}


def build_text_to_text(config: TextToTextConfig, expected_digest: str | None = None) -> TextToText:
    """Loads the model and returns the task; called in the process that will write.

    Raises:
        ValueError: the model is not the one of `expected_digest`, which is an identity's.
    """
    if config.backend == "simulated":
        engine: TextEngine = SimulatedTextEngine(config.simulated)
    elif config.backend == "vllm":
        from actors.backends.vllm_engine import VllmEngine

        engine = VllmEngine(config, expected_digest, has_images=False)
    else:
        from actors.backends.hf_mllm import HfMllmEngine

        engine = HfMllmEngine(config, expected_digest)
    return TextToText(engine, config)
