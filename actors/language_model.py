"""The config that every task of a language model shares: describing an image, writing a text.

Limits: keys and checks only; how a model is loaded and asked is the backend's.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

from actors.backends.hf_config import HfMllmConfig
from actors.backends.simulated import SimulatedConfig, simulated_identity
from actors.backends.vllm_config import VllmEngineConfig
from actors.models import ModelIdentity, identify_model, pin_model, resolve_model
from actors.scenes.defaults import MAX_NEW_TOKENS
from actors.validation import DEVICES, DTYPES, check_choice, check_range

BACKENDS = ("hf_mllm", "vllm", "simulated")


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Which model answers, and how its tokens are chosen."""

    role: ClassVar[str]  # of the task, as a stand-in for the model is called

    # hf_mllm: an image-text-to-text model of transformers; vllm: a model that vLLM serves, which
    # has to be installed; simulated: no model
    backend: str = "hf_mllm"
    model: str = "embedded"  # embedded, a folder, or a hub id owner/name[@revision]
    max_new_tokens: int = MAX_NEW_TOKENS  # a longer answer is cut there
    # an answer ends before the first of these that it would hold, besides the model's own end
    stop_strings: list[str] = field(default_factory=list)
    temperature: float = 0.0  # 0: the most likely answer, whatever the rng_seed
    # below 1: sample from the most likely tokens that hold this much probability
    top_p: float = 1.0
    # auto: float32 on a CPU, bfloat16 on a GPU. Recorded as "auto", for the driver does not see a
    # replica's device: name one if a run may go on elsewhere
    dtype: str = "auto"
    device: str = "auto"  # auto: the GPU if torch sees one, else the CPU
    hf_mllm: HfMllmConfig = field(default_factory=HfMllmConfig)  # for backend: hf_mllm
    vllm: VllmEngineConfig = field(default_factory=VllmEngineConfig)  # for backend: vllm
    simulated: SimulatedConfig = field(default_factory=SimulatedConfig)  # for backend: simulated

    def __post_init__(self) -> None:
        check_choice("backend", self.backend, BACKENDS)
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("device", self.device, DEVICES)
        check_range("max_new_tokens", self.max_new_tokens, 1, 8192)
        check_range("temperature", self.temperature, 0.0, 10.0)
        check_range("top_p", self.top_p, 0.001, 1.0)
        if self.backend == "vllm" and self.temperature > 2:  # it would refuse every row
            raise ValueError(
                f"field 'temperature' is {self.temperature}: vLLM takes at most 2; lower it, or "
                "take backend 'hf_mllm'"
            )
        if "" in self.stop_strings:
            raise ValueError(
                f"field 'stop_strings' is {self.stop_strings!r}: an empty text would stop every "
                "answer before it begins; remove it"
            )

    def check_files(self) -> None:
        """Raises ValueError where a folder is missing or may not be loaded; in ms."""
        if self.backend != "simulated":
            resolve_model(self.model, "llava")

    def identity(self) -> ModelIdentity:
        """What the record says of the model; reads a local folder's every byte."""
        if self.backend == "simulated":
            return simulated_identity(self.role)
        return identify_model(resolve_model(self.model, "llava"))

    def pinned(self, identity: ModelIdentity) -> Self:
        """This config with the commit of `identity`, so that a hub model cannot move meanwhile."""
        return replace(self, model=pin_model(self.model, identity))

    def sampling_params(self) -> dict[str, Any]:
        """What, besides the model, what it is asked and the rng_seed, decides the answer."""
        names = ("max_new_tokens", "stop_strings", "temperature", "top_p", "dtype")
        params = {"backend": self.backend} | {name: asdict(self)[name] for name in names}
        options = {"hf_mllm": self.hf_mllm, "vllm": self.vllm}.get(self.backend)
        return params | ({self.backend: options.sampling_params()} if options else {})
