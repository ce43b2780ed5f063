"""A Qwen2-VL of the production class at toy width, which lets the instruction come first."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from vllm_shared import INSTRUCTION, RNG_SEEDS, SMALL

from actors.backends.hf_config import HfMllmConfig
from actors.backends.hf_mllm import HfMllmEngine
from actors.backends.vllm_engine import VllmEngine
from actors.image_to_text import ImageToTextConfig

pytestmark = pytest.mark.vllm

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is "
    "string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if "
    "part['type'] in ['image', 'image_url'] %}<|vision_start|><|image_pad|><|vision_end|>{% elif "
    "part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
SPECIAL += ["<|image_pad|>", "<|video_pad|>"]


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        Qwen2TokenizerFast,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    torch.manual_seed(0)
    tokens = SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: i for i, token in enumerate(tokens)}
    core = Tokenizer(models.BPE(ids, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = Qwen2TokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        extra_special_tokens=SPECIAL,
    )
    sizes = {"min_pixels": 56 * 56, "max_pixels": 112 * 112}
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(**sizes),
        tokenizer,
        Qwen2VLVideoProcessor(**sizes),
        chat_template=TEMPLATE,
    )
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokens),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [8, 12, 12],
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
        },
        vision_config={"depth": 2, "embed_dim": 64, "hidden_size": 128, "num_heads": 2},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    folder = tmp_path_factory.mktemp("models") / "qwen"
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_qwen_reads_the_instruction_first_and_says_what_transformers_says(
    qwen_folder: Path, pictures: list[Image.Image]
) -> None:
    shared = {"model": str(qwen_folder), "max_new_tokens": 12}
    images = [each.resize((112, 84)) for each in pictures[:16]]
    ours = HfMllmEngine(
        ImageToTextConfig(**shared, hf_mllm=HfMllmConfig(prompt_order="text_first"))
    ).describe(images, INSTRUCTION, RNG_SEEDS[:16])
    config = ImageToTextConfig(
        backend="vllm", **shared, vllm=replace(SMALL, prompt_order="text_first")
    )
    engine = VllmEngine(config, has_images=True)
    try:
        said = engine.describe(images, INSTRUCTION, RNG_SEEDS[:16])
    finally:
        engine.close()
    # Cut in the middle of a character, transformers writes a sign for it and vLLM nothing.
    pairs = zip(said, (text.rstrip("\ufffd") for text in ours), strict=True)
    assert {i: pair for i, pair in enumerate(pairs) if pair[0].rstrip("\ufffd") != pair[1]} == {}
    assert len(set(said)) > 1
