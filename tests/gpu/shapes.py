"""The models of the GPU benchmarks: the numbers of the public ones, random weights, no download.

SDXL base 1.0: config.json of unet/, vae/, text_encoder/ and text_encoder_2/. LLaVA-1.5-7B: CLIP-L
at 336 px, 24 layers, 576 patches; Llama 7B, 32 layers of 4096. Speed does not depend on the values
of the weights; they are those of torch's own initialisation, never zero, made where the model runs.
Limits: tokenizers are of bytes, in the public vocabularies' sizes: prompts are more tokens than
with the real ones, and always cut or filled up to 77 for SDXL.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

UNET: Final[dict[str, Any]] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE: Final[dict[str, Any]] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
}
CLIP_L: Final[dict[str, Any]] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
CLIP_BIGG: Final[dict[str, Any]] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
VISION: Final[dict[str, Any]] = {
    "image_size": 336,
    "patch_size": 14,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "projection_dim": 768,
}
LLAMA: Final[dict[str, Any]] = {
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
}
TINY_UNET: Final = UNET | {
    "sample_size": 8,
    "block_out_channels": (32, 32, 64),
    "layers_per_block": 1,
    "transformer_layers_per_block": (1, 1, 1),
    "attention_head_dim": (2, 2, 4),
    "cross_attention_dim": 64,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 32 + 6 * 8,
    "norm_num_groups": 8,
}
TINY_VAE: Final = VAE | {
    "block_out_channels": (16, 16, 16, 16),
    "layers_per_block": 1,
    "sample_size": 64,
    "norm_num_groups": 8,
}
TINY_CLIP: Final = CLIP_L | {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 32,
}
TINY_VISION: Final = VISION | TINY_CLIP | {"image_size": 56}
TINY_LLAMA: Final = LLAMA | {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
TEMPLATE: Final = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %} ASSISTANT:{% endfor %}"
)


@contextmanager
def made_on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Parameters begin where they stay and in their dtype: 7B in float32 on a CPU takes minutes."""
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def build_unet(is_tiny: bool) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**(TINY_UNET if is_tiny else UNET)).eval()


def build_vae(is_tiny: bool) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(**(TINY_VAE if is_tiny else VAE)).eval()


def build_sdxl(is_tiny: bool, device: torch.device, dtype: torch.dtype) -> Any:
    """A StableDiffusionXLPipeline as a checkpoint's folder would give it; the VAE in float32."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = _clip_tokenizer()
    ids = {
        "vocab_size": len(tokenizer) if is_tiny else 49408,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    first, second = (TINY_CLIP, TINY_CLIP) if is_tiny else (CLIP_L, CLIP_BIGG)
    with made_on(device, dtype):
        unet = build_unet(is_tiny)
        towers = (
            CLIPTextModel(CLIPTextConfig(**first | ids)).eval(),
            CLIPTextModelWithProjection(CLIPTextConfig(**second | ids)).eval(),
        )
    with made_on(device, torch.float32):
        vae = build_vae(is_tiny)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=towers[0],
        text_encoder_2=towers[1],
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )


def build_llava(is_tiny: bool, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """A processor and a LlavaForConditionalGeneration."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    vision, llama = (TINY_VISION, TINY_LLAMA) if is_tiny else (VISION, LLAMA)
    tokenizer = _chat_tokenizer(llama["vocab_size"])
    size = vision["image_size"]
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}),
        tokenizer,
        patch_size=vision["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=LlamaConfig(**llama, bos_token_id=1, eos_token_id=2, pad_token_id=0),
        image_token_index=3,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    with made_on(device, dtype):
        model = LlavaForConditionalGeneration(config).eval()
    processor.tokenizer.padding_side = "left"
    return processor, model


def _clip_tokenizer() -> Any:
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def _chat_tokenizer(vocab_size: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<pad>", "<s>", "</s>", "<image>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [f"w{i}" for i in range(vocab_size - len(tokens))]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )
