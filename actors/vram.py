"""What a replica takes of a GPU's memory, estimated before anything is loaded.

Weights are counted from the safetensors headers in the dtype of the run. The rest is reckoned, by
what was counted on PyTorch's meta device at full size (`tests/actors/test_models_vram.py` counts it
again). In values, of which each is of the run's dtype:

    UNet      rows x H/8 x W/8 x [(n + 1) C0 + C1 + 3 (C0 + C1) + 2 C0], rows: batch, twice that if
              guided. Its last block: n + 1 skips, the upsampled input, that joined with a skip,
              normed, activated, and two of the output (Ci: block_out_channels, n: layers_per_block)
    VAE       pictures x H x W x 3 C1. The widest block at full size: upsampled, normed, activated
    language  rows x tokens x (3 I + 4 D) while the prompt is read (D wide, I in the MLP); the cache
              2 x layers x rows x tokens x KV width (Kwon et al. 2023, PagedAttention)
    vision    patches x [(layers + 1) D + 3 I + D]. Hidden states are kept

To this come CUDA's context with its libraries, and for the allocator a tenth of what is no weight:
both are assumptions. Attention is taken to be a fused kernel, which holds no matrix of scores.
Limits: no GPU has confirmed any of it; workspaces of convolutions, and what a compiler holds, are
not in it. A prompt is taken to be PROMPT_TOKENS besides its picture. Of vLLM the least is told that
it starts with; it fills what it is given. A model on the hub is not known until it is fetched.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors.language_model import LanguageModelConfig
from actors.models import resolve_model
from actors.models_headers import TensorHeader, read_headers
from actors.text_to_image import TextToImageConfig

CONTEXT_BYTES: Final = 800 << 20  # assumed: CUDA's context, cuBLAS, cuDNN
ALLOCATOR_SHARE: Final = 0.1  # assumed
PROMPT_TOKENS: Final = 128
_FLOAT_BYTES: Final = {"auto": 2, "float32": 4, "bfloat16": 2, "float16": 2}  # auto: on a GPU
_OTHER_BYTES: Final = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes on one GPU; of an engine that is spread over several, on each of them."""

    weights_bytes: int
    working_bytes: int  # activations at their peak
    cache_bytes: int = 0  # keys and values

    @property
    def other_bytes(self) -> int:
        """CUDA's own, and what the allocator loses."""
        return CONTEXT_BYTES + round(ALLOCATOR_SHARE * (self.working_bytes + self.cache_bytes))

    @property
    def total_bytes(self) -> int:
        """Of all."""
        return self.weights_bytes + self.working_bytes + self.cache_bytes + self.other_bytes


def estimate_generator(config: TextToImageConfig, batch_size: int) -> MemoryNeed | None:
    """What a replica that draws needs; None where the model is not on this machine.

    Raises:
        ValueError: a folder is missing or may not be loaded.
    """
    if config.backend != "sdxl":
        return None
    sources = [resolve_model(each, "sdxl") for each in (config.model, config.sdxl.refiner) if each]
    folders = [source.folder for source in sources if source.folder is not None]
    if len(folders) < len(sources):
        return None
    size, is_fp8 = _FLOAT_BYTES[config.dtype], config.sdxl.quantization == "fp8"
    weights = 0
    for folder in folders:
        for part in ("unet", "text_encoder", "text_encoder_2"):
            weights += _weights_bytes(read_headers(folder / part), size, is_fp8=is_fp8)
    vae_size = _FLOAT_BYTES[config.sdxl.vae_dtype]
    weights += _weights_bytes(read_headers(folders[0] / "vae"), vae_size)
    pixels = config.width_px * config.height_px
    rows = batch_size * (2 if config.guidance_scale > 1 else 1)
    unet = max(_unet_values(folder) for folder in folders) * rows * pixels // 64 * size
    wide = _read(folders[0] / "vae" / "config.json")["block_out_channels"]
    decoded = min(config.sdxl.vae_batch, batch_size) * pixels * 3 * wide[min(1, len(wide) - 1)]
    return MemoryNeed(weights_bytes=weights, working_bytes=max(unet, decoded * vae_size))


def estimate_language_model(
    config: LanguageModelConfig, batch_size: int, image_px: tuple[int, int] | None
) -> MemoryNeed | None:
    """What a replica that describes pictures of that width and height, or writes texts, needs;
    None where the model is not on this machine, or is of a kind whose pictures or layers are not
    known.

    Raises:
        ValueError: a folder is missing or may not be loaded.
    """
    if config.backend == "simulated":
        return None
    folder = resolve_model(config.model, "llava").folder
    if folder is None:
        return None
    headers, about = read_headers(folder), _read(folder / "config.json")
    picture = _Picture(0, 0) if image_px is None else _count_picture(about, config, image_px)
    if picture is None:
        return None
    size, text, vision = _FLOAT_BYTES[config.dtype], *_split(headers)
    if not (text.width and text.kv_width and (vision.width or not picture.num_patches)):
        return None  # layers of other names: fused projections, experts
    weights = _weights_bytes(headers, size)
    tokens = picture.num_tokens + PROMPT_TOKENS + config.max_new_tokens
    rows, num_gpus = batch_size, 1
    if config.backend == "vllm":  # the least that it starts with: one row of the longest
        rows, num_gpus = 1, config.vllm.tensor_parallel_size
        tokens = max(tokens, config.vllm.max_model_len or 0)
    read = rows * tokens * (3 * text.hidden + 4 * text.width) * size
    seen = rows * picture.num_patches * vision.values_a_patch * size
    logits = rows * text.vocabulary * 4 * 3  # float32: as they come, with the noise, sorted
    return MemoryNeed(
        weights_bytes=weights // num_gpus,
        working_bytes=max(read, seen, logits) // num_gpus,
        cache_bytes=2 * text.num_layers * rows * tokens * text.kv_width * size // num_gpus,
    )


@dataclass(frozen=True)
class _Picture:
    """What a picture is to a model."""

    num_tokens: int
    num_patches: int


@dataclass(frozen=True)
class _Tower:
    """The sizes of a transformer, as its weights have them."""

    num_layers: int = 0
    width: int = 0
    hidden: int = 0
    kv_width: int = 0
    vocabulary: int = 0

    @property
    def values_a_patch(self) -> int:
        return (self.num_layers + 1) * self.width + 3 * self.hidden + self.width


def _split(headers: Sequence[TensorHeader]) -> tuple[_Tower, _Tower]:
    """The language model and the vision tower."""
    is_vision = re.compile(r"(^|\.)(vision_tower|vision_model|visual)\.")
    vision = [each for each in headers if is_vision.search(each.name)]
    names = {each.name for each in vision}
    return _tower([each for each in headers if each.name not in names]), _tower(vision)


def _tower(headers: Sequence[TensorHeader]) -> _Tower:
    layers = {
        int(n) for each in headers for n in re.findall(r"\.(?:layers|blocks)\.(\d+)\.", each.name)
    }

    def rows(*endings: str) -> tuple[int, ...]:
        return next((each.shape for each in headers if each.name.endswith(endings)), (0, 0))

    up = rows("mlp.up_proj.weight", "mlp.fc1.weight", "mlp.linear_fc1.weight")
    return _Tower(
        num_layers=len(layers),
        width=up[1],
        hidden=up[0],
        kv_width=rows("self_attn.k_proj.weight")[0],
        vocabulary=rows("embed_tokens.weight")[0],
    )


def _count_picture(
    about: dict[str, Any], config: LanguageModelConfig, image_px: tuple[int, int]
) -> _Picture | None:
    kind, vision = about.get("model_type", ""), about.get("vision_config") or {}
    if kind in ("llava", "llava_next"):
        edge = vision.get("image_size", 336)
        patches = (edge // vision.get("patch_size", 14)) ** 2
        grid = about.get("image_grid_pinpoints") or [] if kind == "llava_next" else []
        tiles = 1 + max((h // edge * (w // edge) for h, w in grid), default=0)
        return _Picture(tiles * patches, tiles * patches)
    if kind in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        patch = vision.get("patch_size", 16 if kind == "qwen3_vl" else 14)
        merge = vision.get("spatial_merge_size", 2)
        most = config.hf_mllm.max_image_px if config.backend == "hf_mllm" else 0
        shrink = min(1.0, most / math.sqrt(math.prod(image_px))) if most else 1.0
        tokens = math.prod(math.ceil(px * shrink / (patch * merge)) for px in image_px)
        return _Picture(tokens, tokens * merge**2)
    return None


def _unet_values(folder: Path) -> int:
    """Per latent position of a row, at the peak."""
    about = _read(folder / "unet" / "config.json")
    first, second = about["block_out_channels"][:2]
    per_block = about.get("layers_per_block", 2)
    layers = per_block if isinstance(per_block, int) else per_block[0]
    return (layers + 1) * first + second + 3 * (first + second) + 2 * first


def _weights_bytes(
    headers: Sequence[TensorHeader], float_bytes: int, *, is_fp8: bool = False
) -> int:
    total = 0
    for each in headers:
        size = float_bytes if each.is_float else _OTHER_BYTES.get(each.dtype, 1)
        is_in_block = ".transformer_blocks." in each.name and len(each.shape) == 2
        total += each.num_values * (1 if is_fp8 and is_in_block else size)
    return total


def _read(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"model file {str(path)!r} is missing or no JSON: {error}") from error
    return content
