"""Adds a LoRA to the weights of a pipeline: W + scale * alpha / rank * up @ down (Hu et al. 2021).

Merged once, before anything is fused or compiled, so that drawing costs nothing more and no other
library is needed. Read are the spellings in which distilled SDXL checkpoints come: kohya's, with
the names of diffusers or of the original UNet, and PEFT's.
Limits: Linear and Conv2d layers; a key that fits no layer is an error (DoRA, LoKr and the like), as
half a LoRA would draw something nobody asked for. The merged weights are rounded to their dtype.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file

# Endings of the two factors and of alpha, in kohya's spelling and in PEFT's.
_DOWN, _UP, _ALPHA = "lora_down.weight", "lora_up.weight", "alpha"
_PEFT: Final = {
    ".lora_A.weight": f".{_DOWN}",
    ".lora_B.weight": f".{_UP}",
    ".lora.down.weight": f".{_DOWN}",
    ".lora.up.weight": f".{_UP}",
}
_PREFIXES: Final = {
    "lora_unet_": "unet",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
# The original UNet's names, as its blocks have been numbered like those of diffusers.
_ORIGINAL: Final = {
    "input_blocks_0_0": "conv_in",
    "input_blocks": "down_blocks",
    "middle_block": "mid_block",
    "output_blocks": "up_blocks",
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
    "samplers_0_op": "samplers_0_conv",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
    "lora_unet_out_2": "lora_unet_conv_out",
}


def merge_lora(pipe: Any, path: Path, scale: float) -> int:
    """Adds the LoRA in `path` to the pipeline's weights; returns how many layers changed.

    Raises:
        ValueError: a key of the file fits no layer, a factor is missing, or a shape does not fit.
    """
    layers = dict(_layers(pipe))
    factors = _factors(load_file(path), pipe.unet.config)
    if not factors:
        raise ValueError(f"LoRA file {str(path)!r} has no lora_down, lora_A or the like: no LoRA")
    for name, parts in factors.items():
        if name not in layers or not {_DOWN, _UP} <= parts.keys() <= {_DOWN, _UP, _ALPHA}:
            raise ValueError(
                f"LoRA file {str(path)!r} has {sorted(parts)} for {name!r}: the model has no such "
                "layer, or this kind of adapter is not supported; merge it with its own tool"
            )
        try:
            _add(layers[name], parts, scale)
        except RuntimeError as error:
            raise ValueError(
                f"LoRA file {str(path)!r} does not fit the layer {name!r}, it is for another "
                f"model: {error}"
            ) from error
    return len(factors)


def _layers(pipe: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    """Every layer that a LoRA may change, by kohya's name, which keeps apart what has dots."""
    for prefix, component in _PREFIXES.items():
        model = getattr(pipe, component, None)
        if model is not None:
            for name, module in model.named_modules():
                if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                    yield prefix + name.replace(".", "_"), module


def _factors(state: dict[str, torch.Tensor], unet_config: Any) -> dict[str, dict[str, Any]]:
    """Tensors by layer, then by what they are."""
    from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers

    renamed = {_to_kohya(key): value for key, value in state.items()}
    renamed = _maybe_map_sgm_blocks_to_diffusers(renamed, unet_config)
    factors: dict[str, dict[str, Any]] = {}
    for key, value in renamed.items():
        name, _, part = key.partition(".")
        for old, new in _ORIGINAL.items():
            name = name.replace(old, new)
        factors.setdefault(name, {})[part] = value
    return factors


def _to_kohya(key: str) -> str:
    for ending, ours in _PEFT.items():
        if key.endswith(ending):
            name = key.removesuffix(ending).removeprefix("base_model.model.")
            component, _, rest = name.partition(".")
            known = {component_: prefix for prefix, component_ in _PREFIXES.items()}
            # A LoRA of the UNet alone may leave its name out.
            prefix, rest = (known[component], rest) if component in known else ("lora_unet_", name)
            return prefix + re.sub(r"\W", "_", rest) + ours
    return key


@torch.no_grad()
def _add(layer: Any, parts: dict[str, torch.Tensor], scale: float) -> None:
    weight: torch.Tensor = layer.weight
    down, up = (parts[name].to(weight.device, torch.float32) for name in (_DOWN, _UP))
    rank = down.shape[0]
    factor = scale * float(parts.get(_ALPHA, torch.tensor(float(rank)))) / rank
    change = (up.flatten(1) @ down.flatten(1)).view_as(weight)
    weight.copy_((weight.float() + factor * change).to(weight.dtype))
