"""How an SDXL pipeline draws and how it is made fast, and which models it is made of.

Limits: keys, checks and files only; nothing here imports torch. A LoRA is a local file or folder,
for a hub repository of one holds many. What a distilled checkpoint needs (steps, guidance,
scheduler, spacing) is told in conf/synergy_sdxl.yaml and not guessed from its name.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from actors.models import (
    ModelIdentity,
    ModelSource,
    check_digest,
    digest_file,
    fetch_model,
    identify_model,
    resolve_model,
    resolve_weights,
)
from actors.parts import combine_digests, combine_identities, digest_fetched, identify_file
from actors.validation import check_choice, check_range

# Names to classes of diffusers: what is not here is not built, whatever a config says.
SCHEDULERS: Final = {
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "ddim": "DDIMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "lcm": "LCMScheduler",
}
SPACINGS: Final = ("own", "leading", "trailing", "linspace")
VAE_DTYPES: Final = ("float32", "bfloat16", "float16")
COMPILES: Final = ("none", "regional", "full")
QUANTIZATIONS: Final = ("none", "fp8")

# Components live in folders of their own: the hub's all-in-one copies at the root, and a second
# set in fp16, would treble the download.
_HUB_PATTERNS = ("*/*.safetensors", "*/*.json", "*/*.txt", "model_index.json", "README.md")
_HUB_IGNORED = ("*.fp16.*", "*.non_ema.*")


@dataclass(frozen=True, kw_only=True)
class SdxlConfig:
    """Options of the engine `sdxl`. The defaults draw what the model's folder says, uncompiled."""

    # These decide the picture and are recorded.
    scheduler: str = "own"  # own: the model's; euler, euler_a, ddim, dpmpp_2m, lcm
    # own: the scheduler's; distilled models want trailing, so that the first step is at full noise
    timestep_spacing: str = "own"
    lora: str = ""  # a *.safetensors file, or a folder with one; added to the weights when loaded
    lora_scale: float = 1.0  # how much of it
    refiner: str = ""  # a folder or a hub id: draws the last steps (ensemble of experts)
    refiner_start: float = 0.8  # the share of the noise schedule after which the refiner takes over
    # float32 is safe with every VAE. bfloat16 cannot overflow either, but has 8 bits: faint bands.
    # float16 has 11 bits; the decoder is rescaled first, as SDXL's overflows in it
    vae_dtype: str = "float32"
    # fp8: the transformer blocks' matrix products in 8 bits (needs torchao and an H100-class GPU);
    # only pays together with compile
    quantization: str = "none"

    # These move the last bits only, as another batch size does, and are not recorded.
    compile: str = "none"  # regional: the UNet's transformer blocks, once each; full: UNet and VAE
    # a folder where compiled code is kept for the next replica; what lies there is run. Empty:
    # TORCHINDUCTOR_CACHE_DIR, else ~/.cache/pairloom/compiled (PyTorch's own is one below /tmp,
    # which another user of the machine can make first)
    compile_cache: str = ""
    is_channels_last: bool = False  # convolutions in NHWC, as tensor cores read them
    is_qkv_fused: bool = False  # one matrix product instead of three in every attention
    vae_batch: int = 1  # pictures decoded at once; 1024 px take some GB each at the peak

    def __post_init__(self) -> None:
        check_choice("scheduler", self.scheduler, ("own", *SCHEDULERS))
        check_choice("timestep_spacing", self.timestep_spacing, SPACINGS)
        check_choice("vae_dtype", self.vae_dtype, VAE_DTYPES)
        check_choice("quantization", self.quantization, QUANTIZATIONS)
        check_choice("compile", self.compile, COMPILES)
        check_range("lora_scale", self.lora_scale, -10.0, 10.0)
        check_range("refiner_start", self.refiner_start, 0.01, 0.99)
        check_range("vae_batch", self.vae_batch, 1, 64)
        if self.scheduler == "lcm" and self.timestep_spacing != "own":
            raise ValueError(
                f"field 'timestep_spacing' is {self.timestep_spacing!r}: the scheduler 'lcm' has "
                "its own time steps; take 'own'"
            )
        if self.compile_cache and self.compile == "none":
            raise ValueError(
                f"field 'compile_cache' is {self.compile_cache!r}: nothing is compiled; set "
                "'compile' to regional or full"
            )

    def sampling_params(self) -> dict[str, Any]:
        """What decides the picture; which LoRA and which refiner, the model's identity says."""
        names = ["scheduler", "timestep_spacing", "vae_dtype", "quantization"]
        names += ["lora_scale"] if self.lora else []
        names += ["refiner_start"] if self.refiner else []
        return {name: asdict(self)[name] for name in names}


@dataclass(frozen=True, kw_only=True)
class SdxlFiles:
    """Where the parts of a generator lie once they are here."""

    base: Path
    refiner: Path | None
    lora: Path | None


def check_sdxl(model: str, config: SdxlConfig) -> None:
    """Raises ValueError where a part that is not on the hub is missing or may not be loaded."""
    _sources(model, config)
    if config.lora:
        resolve_weights("lora", config.lora)


def identify_sdxl(model: str, config: SdxlConfig) -> ModelIdentity:
    """What the record says of the generator; the digest covers the base, the refiner and the LoRA.

    Raises:
        ValueError: a part is missing or may not be loaded.
    """
    parts = [identify_model(source) for source in _sources(model, config)]
    if config.lora:
        parts.append(identify_file(resolve_weights("lora", config.lora)))
    return combine_identities(parts)


def fetch_sdxl(model: str, config: SdxlConfig, expected_digest: str | None = None) -> SdxlFiles:
    """The files to load; downloads what is not cached.

    Raises:
        ValueError: they are not what the identity with `expected_digest` was made of.
    """
    sources = _sources(model, config)
    is_one = len(sources) == 1 and not config.lora
    fetched = [
        fetch_model(
            source,
            allowed=_HUB_PATTERNS,
            ignored=_HUB_IGNORED,
            expected_digest=expected_digest if is_one else None,
        )
        for source in sources
    ]
    lora = resolve_weights("lora", config.lora) if config.lora else None
    if expected_digest is not None and not is_one:
        check_digest(fetched[0][0], _digest_parts(fetched, lora), expected_digest)
    return SdxlFiles(
        base=fetched[0][0], refiner=fetched[1][0] if config.refiner else None, lora=lora
    )


def _sources(model: str, config: SdxlConfig) -> list[ModelSource]:
    return [resolve_model(each, "sdxl") for each in (model, config.refiner) if each]


def _digest_parts(fetched: Sequence[tuple[Path, str | None]], lora: Path | None) -> str:
    digests = [digest_fetched(folder, commit) for folder, commit in fetched]
    return combine_digests(digests + ([f"sha256:{digest_file(lora)}"] if lora else []))
