"""Embeddings from memory are those that encoding would give, to the last bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from actors.backends.sdxl_text import CHUNK, PromptEncoder

TEXTS = [f"a {name} star" for name in ("red", "blue", "green", "grey", "pink", "black", "white")]


@pytest.fixture(scope="module")
def pipe(sdxl_folder: Path) -> Any:
    return StableDiffusionXLPipeline.from_pretrained(sdxl_folder, dtype=torch.float32)


def test_an_embedding_is_the_same_alone_among_others_and_from_memory(pipe: Any) -> None:
    together = PromptEncoder(pipe).encode(TEXTS)
    remembering = PromptEncoder(pipe)
    for i in (3, 0, 3, 6):
        alone = remembering.encode([TEXTS[i]])
        assert torch.equal(alone.embeds[0], together.embeds[i])
        assert torch.equal(alone.pooled[0], together.pooled[i])


def test_it_is_what_the_pipeline_encodes(pipe: Any) -> None:
    padded = TEXTS + [""] * (CHUNK - len(TEXTS))
    with torch.no_grad():
        embeds, negative, pooled, _ = pipe.encode_prompt(padded, negative_prompt=["grey"] * CHUNK)
    ours = PromptEncoder(pipe).condition(TEXTS, "grey", guidance_scale=5.0)
    assert torch.equal(ours["prompt_embeds"], embeds[: len(TEXTS)])
    assert torch.equal(ours["pooled_prompt_embeds"], pooled[: len(TEXTS)])
    assert torch.allclose(ours["negative_prompt_embeds"], negative[: len(TEXTS)], atol=1e-5)


def test_a_text_is_encoded_once_until_it_is_forgotten(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    own = pipe.encode_prompt

    def encode_prompt(prompt: list[str], **options: Any) -> Any:
        asked.append([text for text in prompt if text])
        return own(prompt=prompt, **options)

    monkeypatch.setattr(pipe, "encode_prompt", encode_prompt)
    encoder = PromptEncoder(pipe, max_remembered=3)
    encoder.encode(["a", "b", "a"])
    encoder.encode(["a", "c"])  # b is now the one not used for longest
    encoder.encode(["d", "a"])
    encoder.encode(["a", "b"])
    assert asked == [["a", "b"], ["c"], ["d"], ["b"]]


def test_guidance_asks_for_what_the_model_takes_for_nothing(pipe: Any) -> None:
    encoder = PromptEncoder(pipe)
    assert pipe.config.force_zeros_for_empty_prompt
    assert not encoder.condition(TEXTS[:2], "", 5.0)["negative_prompt_embeds"].any()
    assert encoder.condition(TEXTS[:2], "grey", 5.0)["negative_prompt_embeds"].any()
    assert "negative_prompt_embeds" not in encoder.condition(TEXTS[:2], "grey", 1.0)
