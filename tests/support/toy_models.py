"""Folders of the production classes at toy width, laid out as their repositories on the hub are.

Random weights: they say nothing sensible. What has no torchvision here (a video processor) is
written as the file that the hub has.
"""

import json
from pathlib import Path
from typing import Any

LLAVA_TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %} ASSISTANT:{% endfor %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is "
    "string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if "
    "part['type'] in ['image', 'image_url'] %}<|vision_start|><|image_pad|><|vision_end|>{% elif "
    "part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT_TEMPLATE = (  # of texts: it would fail on parts
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>"]
_QWEN_SPECIAL += ["<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
CARD = "---\nlicense: apache-2.0\n---\n# random\n"


def _core(special: list[str]) -> tuple[Any, dict[str, int]]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    ids = {t: i for i, t in enumerate(special + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(ids, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core, ids


def _qwen_tokenizer(template: str) -> tuple[Any, dict[str, int]]:
    from transformers import Qwen2TokenizerFast

    core, ids = _core(_QWEN_SPECIAL)
    tokenizer = Qwen2TokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        extra_special_tokens=_QWEN_SPECIAL,
    )
    tokenizer.chat_template = template
    return tokenizer, ids


def _text(ids: dict[str, int], end: str, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(ids),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "eos_token_id": ids[end],
        "pad_token_id": 0,
        **more,
    }


def _seed() -> None:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)


def build_llava_next(folder: Path, spread: float = 0.02) -> Path:
    """As llava-hf/llava-v1.6-vicuna-7b-hf: pictures in up to four tiles and a whole."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
        PreTrainedTokenizerFast,
    )

    _seed()
    core, ids = _core(["<pad>", "<s>", "</s>", "<image>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )
    grid = [[64, 128], [128, 64], [128, 128]]
    vision = CLIPVisionConfig(
        image_size=64,
        patch_size=16,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=32,
    )
    config = LlavaNextConfig(
        vision_config=vision,
        text_config=LlamaConfig(**_text(ids, "</s>", bos_token_id=1, initializer_range=spread)),
        image_token_index=ids["<image>"],
        image_grid_pinpoints=grid,
    )
    images = LlavaNextImageProcessor(
        size={"shortest_edge": 64},
        crop_size={"height": 64, "width": 64},
        image_grid_pinpoints=grid,
    )
    processor = LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    LlavaNextForConditionalGeneration(config).half().save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return folder


def build_qwen_vl(folder: Path, kind: str = "qwen2_5_vl", spread: float = 0.02) -> Path:
    """As Qwen/Qwen2.5-VL-7B-Instruct, or with kind `qwen3_vl` as Qwen/Qwen3-VL-8B-Instruct."""
    import transformers

    _seed()
    tokenizer, ids = _qwen_tokenizer(QWEN_TEMPLATE)
    name = {"qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}[kind]
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    more = {"rope_parameters": rope, "initializer_range": spread}
    text = _text(ids, "<|im_end|>", bos_token_id=0, **more)
    vision: dict[str, Any] = {"depth": 2, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 64}
    vision |= {"intermediate_size": 64}
    if kind == "qwen3_vl":
        # As the hub's files say; vLLM believes them, transformers knows without.
        rope["mrope_interleaved"] = True
        text |= {"head_dim": 32}
        vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
    else:
        vision |= {"fullatt_block_indexes": [1]}
    config = getattr(transformers, f"{name}Config")(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    patch = config.vision_config.patch_size
    images = transformers.Qwen2VLImageProcessor(
        patch_size=patch, min_pixels=(2 * patch) ** 2, max_pixels=(8 * patch) ** 2
    )
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images.save_pretrained(folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings["processor_class"] = f"{name}Processor"
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    video = settings | {"video_processor_type": f"{name.replace('2_5_', '2')}VideoProcessor"}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video))
    (folder / "README.md").write_text(CARD)
    return folder


def build_llm(folder: Path, spread: float = 0.02) -> Path:
    """As Qwen/Qwen2.5-7B-Instruct: texts only, with a template that takes no parts."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    _seed()
    tokenizer, ids = _qwen_tokenizer(CHAT_TEMPLATE)
    config = Qwen2Config(**_text(ids, "<|im_end|>", initializer_range=spread))
    Qwen2ForCausalLM(config).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return folder
