"""Tiny random models of the production classes, saved and loaded as a user's folder would be.

Untrained, so they say nothing sensible; what they do not depend on is that the shipped weights are
there, or good.
"""

from pathlib import Path
from typing import Any

import pytest

TEMPLATE = (
    "{% for message in messages %}USER: "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %} ASSISTANT:{% endfor %}"
)


def _use_one_thread() -> None:
    """As Ray does for a replica of one CPU. Two threads on a busy machine: 6 s a batch, not .2."""
    import torch

    torch.set_num_threads(1)


def _clip_tokenizer() -> Any:
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=32)


def _text_config(tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _unet(cross_attention_dim: int, num_time_ids: int) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + num_time_ids * 8,
        cross_attention_dim=cross_attention_dim,
        norm_num_groups=8,
    )


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 64 px StableDiffusionXLPipeline with random weights, in float16 as checkpoints are."""
    import torch
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
    )
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    _use_one_thread()
    torch.manual_seed(0)
    tokenizer = _clip_tokenizer()
    config = _text_config(tokenizer)
    unet = _unet(cross_attention_dim=64, num_time_ids=6)
    vae = AutoencoderKL(
        block_out_channels=(16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )
    pipe = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(config),
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    )
    folder = tmp_path_factory.mktemp("models") / "sdxl"
    pipe.to(dtype=torch.float16, silence_dtype_warnings=True)
    pipe.save_pretrained(folder, safe_serialization=True)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# random\n")
    return folder


@pytest.fixture(scope="session")
def refiner_folder(sdxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shape of SDXL's refiner: one text encoder, a score of beauty instead of a target size."""
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(1)
    tokenizer = _clip_tokenizer()
    pipe = StableDiffusionXLImg2ImgPipeline(
        vae=AutoencoderKL.from_pretrained(sdxl_folder / "vae"),
        text_encoder=None,
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer)),
        tokenizer=None,
        tokenizer_2=tokenizer,
        unet=_unet(cross_attention_dim=32, num_time_ids=5),
        scheduler=EulerDiscreteScheduler(),
        requires_aesthetics_score=True,
        add_watermarker=False,
    )
    folder = tmp_path_factory.mktemp("models") / "refiner"
    pipe.to(dtype=torch.float16, silence_dtype_warnings=True)
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def lora_file(sdxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LoRA of rank 4 for every attention of the UNet, in kohya's spelling."""
    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file

    rng = torch.Generator().manual_seed(2)
    state = {}
    for name, module in UNet2DConditionModel.from_pretrained(sdxl_folder / "unet").named_modules():
        if isinstance(module, torch.nn.Linear) and ".attn" in name:
            key = "lora_unet_" + name.replace(".", "_")
            sizes = {"down": (4, module.in_features), "up": (module.out_features, 4)}
            for part, size in sizes.items():
                state[f"{key}.lora_{part}.weight"] = torch.randn(size, generator=rng)
            state[f"{key}.alpha"] = torch.tensor(2.0)
    path = tmp_path_factory.mktemp("lora") / "few-steps.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA with random weights, its processor and its chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    _use_one_thread()
    torch.manual_seed(0)
    special = ["<pad>", "<s>", "</s>", "<image>"]
    tokens = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )
    size = {"height": 64, "width": 64}
    images = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=size)
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                image_size=64,
                patch_size=16,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                projection_dim=32,
            ),
            text_config=LlamaConfig(
                vocab_size=len(tokens),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=256,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
            ),
            image_token_index=3,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
        )
    )
    folder = tmp_path_factory.mktemp("models") / "llava"
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
