"""A LoRA is what its definition says, in every spelling, or it is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from actors.backends.lora import merge_lora

ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA = "lora_unet_" + ATTENTION.replace(".", "_")


@pytest.fixture
def pipe(sdxl_folder: Path) -> Any:
    return StableDiffusionXLPipeline.from_pretrained(sdxl_folder, dtype=torch.float32)


def _factors(layer: Any, rank: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    down = torch.randn(rank, *layer.weight.shape[1:], generator=rng)
    up = torch.randn(layer.weight.shape[0], rank, *[1] * (layer.weight.ndim - 2), generator=rng)
    return down, up


@pytest.mark.parametrize(
    ("down_key", "up_key"),
    [
        (f"{KOHYA}.lora_down.weight", f"{KOHYA}.lora_up.weight"),
        (f"unet.{ATTENTION}.lora_A.weight", f"unet.{ATTENTION}.lora_B.weight"),
        (f"{ATTENTION}.lora_A.weight", f"{ATTENTION}.lora_B.weight"),
        (
            f"base_model.model.{ATTENTION}.lora_A.weight",
            f"base_model.model.{ATTENTION}.lora_B.weight",
        ),
        (f"unet.{ATTENTION}.lora.down.weight", f"unet.{ATTENTION}.lora.up.weight"),
        # the original UNet counts all layers of a level: with one block a level, its fourth is ours
        (
            "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q.lora_down.weight",
            "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q.lora_up.weight",
        ),
    ],
)
def test_every_spelling_adds_up_times_down(
    pipe: Any, tmp_path: Path, down_key: str, up_key: str
) -> None:
    layer = pipe.unet.get_submodule(ATTENTION)
    before = layer.weight.clone()
    others = pipe.unet.conv_in.weight.clone()
    down, up = _factors(layer)
    save_file({down_key: down, up_key: up}, tmp_path / "one.safetensors")
    assert merge_lora(pipe, tmp_path / "one.safetensors", 0.5) == 1
    assert torch.allclose(layer.weight, before + 0.5 * up @ down, atol=1e-6)
    assert torch.equal(pipe.unet.conv_in.weight, others)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("lora_unet_input_blocks_0_0", "conv_in"),
        ("lora_unet_out_2", "conv_out"),
        ("lora_unet_input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.0.conv1"),
        ("lora_unet_input_blocks_1_0_emb_layers_1", "down_blocks.0.resnets.0.time_emb_proj"),
        ("lora_unet_input_blocks_2_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("lora_unet_middle_block_0_out_layers_3", "mid_block.resnets.0.conv2"),
        ("lora_unet_output_blocks_0_0_skip_connection", "up_blocks.0.resnets.0.conv_shortcut"),
        ("lora_unet_output_blocks_1_2_conv", "up_blocks.0.upsamplers.0.conv"),
        ("lora_unet_time_embed_2", "time_embedding.linear_2"),
        ("lora_unet_label_emb_0_0", "add_embedding.linear_1"),
    ],
)
def test_the_original_names_reach_every_kind_of_layer(
    pipe: Any, tmp_path: Path, key: str, name: str
) -> None:
    layer = pipe.unet.get_submodule(name)
    before = layer.weight.clone()
    down, up = _factors(layer, rank=2)
    state = {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
    save_file(state | {f"{key}.alpha": torch.tensor(1.0)}, tmp_path / "one.safetensors")
    merge_lora(pipe, tmp_path / "one.safetensors", 1.0)
    change = torch.einsum("or,r...->o...", up.flatten(1), down) / 2  # alpha 1 of rank 2
    assert torch.allclose(layer.weight, before + change, atol=1e-5)


def test_text_encoders_are_changed_too(pipe: Any, tmp_path: Path) -> None:
    name = next(
        name
        for name, module in pipe.text_encoder_2.named_modules()
        if isinstance(module, torch.nn.Linear) and "q_proj" in name
    )
    layer = pipe.text_encoder_2.get_submodule(name)
    before = layer.weight.clone()
    down, up = _factors(layer)
    key = "lora_te2_" + name.replace(".", "_")
    save_file(
        {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up},
        tmp_path / "tower.safetensors",
    )
    merge_lora(pipe, tmp_path / "tower.safetensors", 1.0)
    assert torch.allclose(layer.weight, before + up @ down, atol=1e-5)


def test_a_lora_of_another_model_or_kind_is_refused(
    pipe: Any, lora_file: Path, tmp_path: Path
) -> None:
    state = load_file(lora_file)
    name = next(iter(state)).partition(".")[0]
    cases = {
        "has no lora_down": {},
        "no such layer": state | {"lora_unet_nowhere.lora_down.weight": torch.zeros(4, 3)},
        "this kind of adapter": state | {f"{name}.dora_scale": torch.zeros(4)},
        "is for another model": state | {f"{name}.lora_down.weight": torch.zeros(4, 3)},
    }
    for said, broken in cases.items():
        save_file(broken, tmp_path / "broken.safetensors")
        with pytest.raises(ValueError, match=re.escape(said)):
            merge_lora(pipe, tmp_path / "broken.safetensors", 1.0)
