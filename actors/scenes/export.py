"""Writes the trained nets as fp16 model folders that any unmodified `from_pretrained` loads.

Limits: throw-away heads and optimiser states are left behind, so training cannot go on from an
export; half precision moves a pixel by less than one level of 255.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    GenerationConfig,
    LlavaProcessor,
)

from actors.scenes.cards import write_cards
from actors.scenes.defaults import MAX_NEW_TOKENS
from actors.scenes.loop import RunSettings, load_trained
from actors.scenes.mllm import load_mllm
from actors.scenes.text_encoders import PROJECTION, load_text
from actors.scenes.unet import build_scheduler, build_unet
from actors.scenes.vae import load_vae
from actors.scenes.vision import PATCH_PX, load_vision

# One line: Jinja's trim_blocks would eat a newline that follows a block, and the model reads bytes.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ASSISTANT: ' }}{% else %}{{ 'USER: ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] in ['image', 'image_url'] %}{{ '<image>\n' }}{% endif %}"
    "{% endfor %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)


def _image_processor(folder: Path) -> Any:
    """CLIP's, for 64 px; through the auto class, which finds the backend that is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "CLIPImageProcessor",
                "do_convert_rgb": True,
                "do_resize": True,
                "size": {"height": 64, "width": 64},
                "resample": 3,
                "do_center_crop": True,
                "crop_size": {"height": 64, "width": 64},
                "do_rescale": True,
                "rescale_factor": 1 / 255,
                "do_normalize": True,
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5],
            },
            indent=2,
        )
    )
    return AutoImageProcessor.from_pretrained(folder)


def export_sdxl(settings: RunSettings, folder: Path) -> None:
    """The drawing pipeline, from the UNet's newest (maybe interim) averaged weights."""
    towers, tokenizer = load_text(settings)
    unet = build_unet()
    load_trained(settings, "unet", unet)
    pipe = StableDiffusionXLPipeline(
        vae=load_vae(settings),
        text_encoder=towers.first,
        text_encoder_2=towers.second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet.eval(),
        scheduler=build_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipe.to(torch.float16).save_pretrained(folder, safe_serialization=True)


def _older_tower_keys(path: Path) -> None:
    """Give the vision tower the key layout vLLM reads; transformers takes both alike."""
    renamed = {}
    for name, value in load_file(path).items():
        if "vision_tower." in name and "vision_tower.vision_model." not in name:
            name = name.replace("vision_tower.", "vision_tower.vision_model.")
        renamed[name] = value.contiguous()
    save_file(renamed, path, metadata={"format": "pt"})


def export_llava(settings: RunSettings, folder: Path) -> None:
    """The captioner, its processor and chat template."""
    model, tokenizer = load_mllm(settings)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    model.half().save_pretrained(folder)
    _older_tower_keys(folder / "model.safetensors")
    processor = LlavaProcessor(
        image_processor=_image_processor(folder),
        tokenizer=tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(folder)


def export_clip(settings: RunSettings, folder: Path) -> None:
    """CLIP, put together from the vision tower and SDXL's second text encoder."""
    towers, tokenizer = load_text(settings)
    seen = load_vision(settings)
    config = CLIPConfig(
        text_config=towers.second.config.to_dict(),
        vision_config=seen.tower.config.to_dict(),
        projection_dim=PROJECTION,
    )
    clip = CLIPModel(config)
    clip.text_model.load_state_dict(towers.second.text_model.state_dict())
    clip.text_projection.load_state_dict(towers.second.text_projection.state_dict())
    clip.vision_model.load_state_dict(seen.tower.vision_model.state_dict())
    clip.visual_projection.load_state_dict(seen.tower.visual_projection.state_dict())
    with torch.no_grad():
        clip.logit_scale.copy_(seen.logit_scale.clamp(max=4.605))
    clip.half().save_pretrained(folder)
    CLIPProcessor(_image_processor(folder), tokenizer).save_pretrained(folder)


def export_all(settings: RunSettings, target: Path) -> None:
    """All three model folders and their cards."""
    cpu = RunSettings(settings.out, settings.seed, "cpu")
    export_sdxl(cpu, target / "sdxl")
    export_llava(cpu, target / "llava")
    export_clip(cpu, target / "clip")
    write_cards(settings.out, target)
