"""Loads SDXL pipelines and makes them fast: the order in which that works is written down here.

LoRA into the weights, then the VAE's dtype, the scheduler, the memory layout, the fused
projections, 8 bits and last the compiler, each of which sees what the ones before it made.
Limits: one device; what is compiled is compiled at the first batch (minutes for `full` at full
size) unless the cache folder has it. Compiled code depends on PyTorch, the GPU and the shapes.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from actors.backends.devices import (
    forbid_remote_code,
    hide_progress_bars,
    pick_device,
    pick_dtype,
)
from actors.backends.lora import merge_lora
from actors.backends.sdxl_config import SCHEDULERS, SdxlConfig, fetch_sdxl
from actors.backends.sdxl_vae import prepare_vae

if TYPE_CHECKING:
    from actors.text_to_image import TextToImageConfig

# A size of batch and a width of block are one variant each; 8, the default, are soon used up, and
# what asks for a whole graph fails then.
_MAX_VARIANTS = 64
# Not cudagraphs: they keep memory for every shape, and a batch of 8 hides the launches anyway.
_MODE = "max-autotune-no-cudagraphs"
_OWN_CACHE = "~/.cache/pairloom/compiled"


@dataclass(frozen=True, kw_only=True)
class SdxlPipes:
    """What draws: the base pipeline and, if the last steps are another expert's, its pipeline."""

    base: Any
    refiner: Any = None

    def all(self) -> list[Any]:
        return [self.base] if self.refiner is None else [self.base, self.refiner]


def load_pipes(config: "TextToImageConfig", expected_digest: str | None) -> SdxlPipes:
    """The pipelines of a config, on their device and prepared to draw.

    Raises:
        ValueError: a part is missing, not the one of `expected_digest`, or cannot be loaded.
    """
    forbid_remote_code()
    import diffusers
    from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

    hide_progress_bars()
    diffusers.utils.logging.disable_progress_bar()
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    files = fetch_sdxl(config.model, config.sdxl, expected_digest)
    base = _load(StableDiffusionXLPipeline, files.base, dtype)
    if files.lora is not None:
        merge_lora(base, files.lora, config.sdxl.lora_scale)
    refiner = None
    if files.refiner is not None:
        refiner = _load(StableDiffusionXLImg2ImgPipeline, files.refiner, dtype)
        # The base's VAE decodes: a second one would only take memory.
        refiner.register_modules(vae=base.vae)
    pipes = SdxlPipes(base=base, refiner=refiner)
    for pipe in pipes.all():
        pipe.to(device)
    prepare_pipes(pipes, config.sdxl, config.num_steps)
    return pipes


def _load(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    has_only_fp16 = not (folder / "unet" / "diffusion_pytorch_model.safetensors").exists() and any(
        folder.glob("unet/*.fp16.safetensors")
    )
    return cls.from_pretrained(
        str(folder),
        dtype={"default": dtype, "vae": torch.float32},
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        variant="fp16" if has_only_fp16 else None,
        add_watermarker=False,  # else the pixels would depend on which packages are installed
    )


def prepare_pipes(pipes: SdxlPipes, config: SdxlConfig, num_steps: int) -> None:
    """Everything after loading, once; the pipelines are on their device.

    Raises:
        ValueError: what is asked for is not installed, or leaves one expert without a step.
    """
    vae = pipes.base.vae  # the refiner's as well
    prepare_vae(vae, pick_dtype(config.vae_dtype, vae.device))
    for pipe in pipes.all():
        pipe.set_progress_bar_config(disable=True)
        set_scheduler(pipe, config)
        if config.is_channels_last:
            pipe.unet.to(memory_format=torch.channels_last)
            pipe.vae.to(memory_format=torch.channels_last)
        if config.is_qkv_fused:
            pipe.fuse_qkv_projections(vae=pipe is pipes.base)
        if config.quantization == "fp8":
            quantize_blocks(pipe.unet)
    if pipes.refiner is not None:
        _check_split(pipes.base.scheduler, num_steps, config.refiner_start)
    _compile(pipes, config)


def set_scheduler(pipe: Any, config: SdxlConfig) -> None:
    """Puts the scheduler of the config into the pipeline, with the noise schedule of the model."""
    import diffusers

    if config.scheduler == "own" and config.timestep_spacing == "own":
        return
    own, name, spacing = pipe.scheduler, config.scheduler, config.timestep_spacing
    cls: Any = type(own) if name == "own" else getattr(diffusers, SCHEDULERS[name])
    options = {} if spacing == "own" else {"timestep_spacing": spacing}
    pipe.scheduler = cls.from_config(own.config, **options)
    if options and pipe.scheduler.config.get("timestep_spacing") != spacing:
        raise ValueError(
            f"field 'timestep_spacing' is {spacing!r}: {cls.__name__} has none; take 'own'"
        )


def _check_split(scheduler: Any, num_steps: int, start: float) -> None:
    """Counts as the pipelines do: they would leave an expert out without a word."""
    scheduler.set_timesteps(num_steps)
    num_train = scheduler.config.num_train_timesteps
    cutoff = round(num_train - start * num_train)
    num_base = int((scheduler.timesteps >= cutoff).sum())
    if not 0 < num_base < num_steps:
        raise ValueError(
            f"field 'refiner_start' is {start}: of {num_steps} steps the base draws {num_base} and "
            f"the refiner {num_steps - num_base}; move it, or take more steps"
        )


def quantize_blocks(unet: Any) -> None:
    """The linear layers of the transformer blocks in 8 bits, activations scaled row by row.

    Convolutions and the embeddings of time and text stay as they are: torchao has no convolution,
    and the embeddings are too few rows to gain.

    Raises:
        ValueError: torchao is not installed, or the device has no such arithmetic.
    """
    try:
        from torchao.quantization import (
            Float8DynamicActivationFloat8WeightConfig,
            PerRow,
            quantize_,
        )
    except ImportError as error:
        raise ValueError(
            "field 'quantization' is 'fp8': needs the package torchao, which is not installed; "
            "run pip install torchao, or take 'none'"
        ) from error
    _check_fp8(unet.device)
    scheme = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
    quantize_(unet, scheme, filter_fn=_is_in_block)


def _check_fp8(device: torch.device) -> None:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise ValueError(
            f"field 'quantization' is 'fp8': {device} has no 8-bit floats, an H100, an L40S or a "
            "later GPU has; take 'none'"
        )


def _is_in_block(module: torch.nn.Module, name: str) -> bool:
    is_linear = isinstance(module, torch.nn.Linear) and ".transformer_blocks." in name
    # The kernels want multiples of 16.
    return is_linear and module.in_features % 16 == 0 and module.out_features % 16 == 0


def _compile(pipes: SdxlPipes, config: SdxlConfig) -> None:
    if config.compile == "none":
        return
    _check_compiler(config.compile)
    if config.compile_cache or "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        folder = _cache_folder(config.compile_cache or _OWN_CACHE)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    torch._dynamo.config.recompile_limit = _MAX_VARIANTS
    # dynamic=False: a second batch size would otherwise make kernels for every size, which are
    # slower; the engine fills batches up, so that there seldom is a second one.
    for pipe in pipes.all():
        if config.compile == "regional":
            pipe.unet.compile_repeated_blocks(fullgraph=True, dynamic=False)
        else:
            pipe.unet.compile(fullgraph=True, dynamic=False, mode=_MODE)
    if config.compile == "full":
        decoder = pipes.base.vae.decoder
        decoder.compile(fullgraph=True, dynamic=False, mode=_MODE)


def _check_compiler(mode: str) -> None:
    """Triton builds its launchers with one, at the first batch: a slim image would fail there."""
    names = [os.environ.get("CC", ""), "gcc", "clang", "cc"]
    if not any(name and shutil.which(name) for name in names):
        raise ValueError(
            f"field 'compile' is {mode!r}: needs a C compiler, which is not installed; install "
            "gcc, name one in CC, or take 'none'"
        )


def _cache_folder(path: str) -> Path:
    folder = Path(path).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_mode & 0o002:
        raise ValueError(
            f"field 'compile_cache' is {path!r}: anyone may write there, and what lies there is "
            f"run; chmod o-w {str(folder)!r}"
        )
    if found.st_uid not in (os.getuid(), 0):  # a mounted volume is root's
        raise ValueError(
            f"field 'compile_cache' is {path!r}: the folder is that of the user with the id "
            f"{found.st_uid}, and what lies there is run; take one of your own"
        )
    return folder
