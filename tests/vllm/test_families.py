"""Each family of models that conf/ names, of its own class at toy width, beside transformers."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from toy_models import build_llava_next, build_llm, build_qwen_vl
from vllm_shared import INSTRUCTION, RNG_SEEDS, SMALL

from actors.backends.hf_config import HfMllmConfig
from actors.backends.hf_mllm import HfMllmEngine
from actors.backends.vllm_engine import VllmEngine
from actors.engines import Answer
from actors.image_to_text import ImageToTextConfig
from actors.text_to_text import TextToTextConfig

pytestmark = pytest.mark.vllm

# Of the weights: narrower, all prompts have one answer, and every next token is a near tie.
SPREAD = 0.3
CAPTIONERS: dict[str, tuple[Callable[..., Path], str]] = {
    "llava_next": (build_llava_next, "image_first"),
    "qwen2_5_vl": (build_qwen_vl, "text_first"),
    "qwen3_vl": (partial(build_qwen_vl, kind="qwen3_vl"), "text_first"),
}


def _assert_same(said: list[Answer], transformers: list[Answer]) -> None:
    """Cut in the middle of a character, transformers writes a sign for it and vLLM nothing."""
    pairs = zip(said, transformers, strict=True)
    cut = [[(one.text.rstrip("\ufffd"), one.finish_reason) for one in pair] for pair in pairs]
    assert {i: pair for i, pair in enumerate(cut) if pair[0] != pair[1]} == {}
    assert len(set(said)) > 1


@pytest.mark.parametrize("family", CAPTIONERS)
def test_a_captioner_says_what_transformers_says(
    family: str, pictures: list[Image.Image], tmp_path: Path
) -> None:
    build, order = CAPTIONERS[family]
    folder = build(tmp_path / family, spread=SPREAD)
    shared = {"model": str(folder), "max_new_tokens": 12, "temperature": 0.0}
    images = [each.resize((112, 84)) for each in pictures[:16]]
    plain = HfMllmEngine(ImageToTextConfig(**shared, hf_mllm=HfMllmConfig(prompt_order=order)))
    expected = plain.describe(images, INSTRUCTION, RNG_SEEDS[:16])
    options = replace(SMALL, prompt_order=order)
    engine = VllmEngine(ImageToTextConfig(backend="vllm", **shared, vllm=options), has_images=True)
    try:
        _assert_same(engine.describe(images, INSTRUCTION, RNG_SEEDS[:16]), expected)
    finally:
        engine.close()


def test_an_author_that_reads_no_pictures_writes_what_transformers_writes(tmp_path: Path) -> None:
    shared = {"model": str(build_llm(tmp_path / "qwen2_5", spread=SPREAD)), "max_new_tokens": 12}
    prompts = [f"Write a scene with {number} things in it." for number in range(16)]
    plain = HfMllmEngine(TextToTextConfig(**shared, temperature=0.0))
    expected = plain.write(prompts, RNG_SEEDS[:16])
    config = TextToTextConfig(backend="vllm", **shared, temperature=0.0, vllm=SMALL)
    engine = VllmEngine(config, has_images=False)
    try:
        _assert_same(engine.write(prompts, RNG_SEEDS[:16]), expected)
    finally:
        engine.close()
