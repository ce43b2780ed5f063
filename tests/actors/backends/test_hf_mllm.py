"""The captioner and author engine on a random LLaVA of the production class."""

import math
import socket
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from actors.backends.hf_mllm import GumbelSampler, HfMllmEngine
from actors.image_to_text import ImageToTextConfig, build_image_to_text
from actors.images import encode_image
from actors.text_to_text import TextToTextConfig

INSTRUCTION = "Describe the image."
SEEDS = [2**62 + i for i in range(8)]


def _images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
    return [Image.fromarray(each).resize((64, 64)) for each in coarse]


def _engine(folder: Path, **options: object) -> HfMllmEngine:
    return HfMllmEngine(ImageToTextConfig(model=str(folder), max_new_tokens=12, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}])
def test_a_text_does_not_depend_on_its_batch(llava_folder: Path, options: dict) -> None:
    engine = _engine(llava_folder, **options)
    images = _images()
    together = engine.describe(images, INSTRUCTION, SEEDS)
    for size in (1, 4):
        parts: list[str] = []
        for i in range(0, 8, size):
            parts += engine.describe(images[i : i + size], INSTRUCTION, SEEDS[i : i + size])
        assert parts == together
    assert len(set(together)) > 1


def test_rng_seeds_matter_when_sampling_and_only_then(llava_folder: Path) -> None:
    images = [_images()[0]] * 4
    greedy = _engine(llava_folder).describe(images, INSTRUCTION, SEEDS[:4])
    assert len(set(greedy)) == 1
    sampled = _engine(llava_folder, temperature=1.0).describe(images, INSTRUCTION, SEEDS[:4])
    assert len(set(sampled)) == 4


def test_prompts_of_different_lengths_do_not_disturb_each_other(llava_folder: Path) -> None:
    engine = HfMllmEngine(TextToTextConfig(model=str(llava_folder), max_new_tokens=12))
    prompts = ["a", "a much longer prompt", "mid one"]
    together = engine.write(prompts, SEEDS[:3])
    alone = [engine.write([p], [s])[0] for p, s in zip(prompts, SEEDS[:3], strict=True)]
    assert together == alone


def test_the_answer_holds_no_part_of_the_prompt(llava_folder: Path) -> None:
    (text,) = _engine(llava_folder).describe(_images()[:1], INSTRUCTION, [1])
    assert "USER" not in text
    assert "<image>" not in text
    assert len(text) <= 12


def test_the_chat_template_is_rendered_byte_for_byte(llava_folder: Path) -> None:
    content = [{"type": "image"}, {"type": "text", "text": INSTRUCTION}]
    rendered = _engine(llava_folder)._processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    assert rendered == f"USER: <image>\n{INSTRUCTION} ASSISTANT:"


def test_weights_are_float32_on_a_cpu_whatever_the_file_holds(llava_folder: Path) -> None:
    assert _engine(llava_folder, device="cpu")._model.dtype == torch.float32


def test_gumbel_noise_samples_the_softmax() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    draws = 4000
    sampler = GumbelSampler(list(range(draws)), temperature=1.0, top_p=1.0)
    picks = sampler(torch.zeros(draws, 1), logits.expand(draws, -1)).argmax(dim=-1)
    counts = Counter(picks.tolist())
    for token, probability in enumerate(logits.softmax(-1)[0].tolist()):
        spread = math.sqrt(probability * (1 - probability) / draws)
        assert abs(counts[token] / draws - probability) < 4.5 * spread


def test_top_p_keeps_the_smallest_set_that_holds_it() -> None:
    logits = torch.tensor([[1.0, 3.0, 0.0, 2.9]])
    sampler = GumbelSampler(list(range(500)), temperature=1.0, top_p=0.8)
    picks = sampler(torch.zeros(500, 1), logits.expand(500, -1)).argmax(dim=-1)
    assert set(picks.tolist()) == {1, 3}


def test_a_folder_is_loaded_and_used_without_the_network(
    llava_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    task = build_image_to_text(ImageToTextConfig(model=str(llava_folder), max_new_tokens=12))
    image = {"bytes": encode_image(_images()[0]).data, "path": None}
    (row,) = task([{"image": image, "rng_seed_describe": 1}])
    assert "description" in row or row["error"].startswith("description_empty")
