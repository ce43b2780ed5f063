"""The task of writing: rows with a prompt in, the same rows with a text out. The author of seed
descriptions uses it.

Reads `prompt` and `rng_seed`, fills `text` and `write_s`. A row with an empty prompt or an empty
answer gets an `error`; the others of its batch go on.
Limits: texts are not made distinct here, whoever asks for m different ones counts them;
`write_s` is the row's equal share of its batch.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from actors.backends.simulated import (
    SimulatedConfig,
    SimulatedTextEngine,
    simulated_identity,
)
from actors.engines import TextEngine
from actors.isolation import run_rows
from actors.models import ModelIdentity, identify_model, resolve_model
from actors.prompts import clean_text
from actors.reasons import Reason, RowError
from actors.records import Row
from actors.scenes.defaults import MAX_NEW_TOKENS
from actors.validation import DEVICES, DTYPES, check_choice, check_range

BACKENDS = ("hf_mllm", "simulated")


@dataclass(frozen=True, kw_only=True)
class TextToTextConfig:
    """What to write with. The default is the embedded captioner, asked without an image."""

    # hf_mllm: an image-text-to-text model of transformers; simulated: no model
    backend: str = "hf_mllm"
    model: str = "embedded"  # embedded, a folder, or a hub id owner/name[@revision]
    max_new_tokens: int = MAX_NEW_TOKENS  # a longer answer is cut there
    temperature: float = 1.0  # 0: the most likely answer, the same for every rng_seed
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

    def identity(self) -> ModelIdentity:
        """What the record says of the model; reads a local folder's every byte."""
        if self.backend == "simulated":
            return simulated_identity("write")
        return identify_model(resolve_model(self.model, "llava"))

    def sampling_params(self) -> dict[str, Any]:
        """What, besides model, prompt and rng_seed, decides the text."""
        names = ("max_new_tokens", "temperature", "top_p", "dtype")
        return {"backend": self.backend} | {name: asdict(self)[name] for name in names}


class TextToText:
    """A batch of rows in, the same rows with texts out."""

    def __init__(self, engine: TextEngine, config: TextToTextConfig) -> None:
        self._engine = engine
        self._config = config

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        return run_rows(
            rows, prepare=_read_prompt, call=self._write, finish=_clean, seconds_column="write_s"
        )

    def _write(self, items: list[tuple[str, int]]) -> list[str]:
        return self._engine.write(
            [prompt for prompt, _ in items], [rng_seed for _, rng_seed in items]
        )


def _read_prompt(row: Row) -> tuple[str, int]:
    prompt = row["prompt"]
    if not prompt or not prompt.strip():
        raise RowError(Reason.PROMPT_EMPTY, "nothing to answer")
    return prompt, row["rng_seed"]


def _clean(text: str) -> dict[str, Any]:
    if not clean_text(text):
        raise RowError(Reason.TEXT_EMPTY, f"the author answered {text[:80]!r}")
    return {"text": text}  # uncleaned: the lines of a list answer are needed to split it


def build_text_to_text(config: TextToTextConfig) -> TextToText:
    """Loads the model and returns the task; called in the process that will write."""
    if config.backend == "simulated":
        engine: TextEngine = SimulatedTextEngine(config.simulated)
    else:
        from actors.backends.hf_mllm import HfMllmEngine

        engine = HfMllmEngine(config)
    return TextToText(engine, config)
