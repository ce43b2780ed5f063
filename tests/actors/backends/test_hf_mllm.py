"""The captioner and author engine on a random LLaVA of the production class."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from answers import texts_of
from PIL import Image
from transformers import Qwen2VLImageProcessor

from actors.backends.hf_config import HfMllmConfig
from actors.backends.hf_mllm import HfMllmEngine, _size_kwargs
from actors.engines import PreprocessingEngine
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
    return HfMllmEngine(ImageToTextConfig(model=str(folder), max_new_tokens=12, **options))


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
    (answer,) = _engine(llava_folder).describe(_images()[:1], INSTRUCTION, [1])
    assert "USER" not in answer.text
    assert "<image>" not in answer.text
    assert len(answer.text) <= 12


def test_the_chat_template_is_rendered_byte_for_byte(llava_folder: Path) -> None:
    content = [{"type": "image"}, {"type": "text", "text": INSTRUCTION}]
    rendered = _engine(llava_folder)._processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    assert rendered == f"USER: <image>\n{INSTRUCTION} ASSISTANT:"


def test_weights_are_float32_on_a_cpu_whatever_the_file_holds(llava_folder: Path) -> None:
    assert _engine(llava_folder, device="cpu")._model.dtype == torch.float32


def test_describing_is_preprocessing_and_then_answering(llava_folder: Path) -> None:
    engine = _engine(llava_folder, temperature=1.0)
    assert isinstance(engine, PreprocessingEngine)
    images = [each.resize((200, 120)) for each in _images()[:3]]
    inputs = engine.preprocess(images, INSTRUCTION)
    before = {name: each.clone() for name, each in inputs.items()}
    first = engine.describe_preprocessed(inputs, SEEDS[:3])
    assert first == engine.describe_preprocessed(inputs, SEEDS[:3])
    assert first == engine.describe(images, INSTRUCTION, SEEDS[:3])
    assert all(torch.equal(inputs[name], each) for name, each in before.items())
    assert inputs["pixel_values"].shape == (3, 3, 64, 64)
    assert all(each.device.type == "cpu" for each in inputs.values())


def test_a_batch_is_preprocessed_while_another_is_described(llava_folder: Path) -> None:
    engine = _engine(llava_folder, stop_strings=["zz"])
    images = _images()
    expected = engine.describe(images, INSTRUCTION, SEEDS)
    inputs = engine.preprocess(images, INSTRUCTION)
    with ThreadPoolExecutor(2) as threads:
        beside = [threads.submit(engine.preprocess, images, INSTRUCTION) for _ in range(20)]
        beside += [threads.submit(engine.describe, images, INSTRUCTION, SEEDS)]
        answers = [engine.describe_preprocessed(inputs, SEEDS) for _ in range(5)]
    assert all(answer == expected for answer in answers)
    assert beside[-1].result() == expected
    for each in beside[:-1]:
        assert torch.equal(each.result()["input_ids"], inputs["input_ids"])


def test_a_picture_is_resized_once(llava_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = _engine(llava_folder)
    sizes: list[tuple[int, ...]] = []
    images = type(engine._processor.image_processor)
    own = images.resize

    def resize(self: object, image: torch.Tensor, *args: object, **options: object) -> object:
        sizes.append(tuple(image.shape[-2:]))
        return own(self, image, *args, **options)

    monkeypatch.setattr(images, "resize", resize)
    engine.preprocess([_images()[0].resize((320, 320))], INSTRUCTION)
    assert sizes == [(320, 320)]


def test_an_answer_ends_before_a_stop_string(llava_folder: Path) -> None:
    images = _images()
    free = texts_of(_engine(llava_folder).describe(images, INSTRUCTION, SEEDS))
    stop = free[0][4:6]
    stopped = _engine(llava_folder, stop_strings=[stop]).describe(images, INSTRUCTION, SEEDS)
    assert texts_of(stopped) == [text.partition(stop)[0] for text in free]
    assert stopped[0].text != free[0]
    assert {one.finish_reason for one, text in zip(stopped, free, strict=True) if stop in text} == {
        "stop"
    }


def test_a_static_cache_gives_the_same_texts(llava_folder: Path) -> None:
    images = _images()
    static = _engine(llava_folder, hf_mllm=HfMllmConfig(kv_cache="static"), temperature=0.7)
    dynamic = _engine(llava_folder, temperature=0.7)
    for size in (8, 3):
        given = (images[:size], INSTRUCTION, SEEDS[:size])
        assert static.describe(*given) == dynamic.describe(*given)


def test_the_instruction_comes_first_where_the_template_allows_it(
    llava_folder: Path, tmp_path: Path
) -> None:
    config = HfMllmConfig(prompt_order="text_first")
    engine = _engine(llava_folder, hf_mllm=config)
    picture = _images()[:1]
    ids = engine.preprocess(picture, INSTRUCTION)["input_ids"][0].tolist()
    text = engine._processor.tokenizer.decode(ids)
    assert text.index(INSTRUCTION) < text.index("<image>")
    first = _engine(llava_folder).preprocess(picture, INSTRUCTION)["input_ids"][0].tolist()
    assert sorted(first) == sorted(ids)
    assert first != ids
    assert engine.describe(picture, INSTRUCTION, [1])


def test_a_template_that_puts_pictures_first_refuses_another_order() -> None:
    config = ImageToTextConfig(hf_mllm=HfMllmConfig(prompt_order="text_first"))
    with pytest.raises(ValueError, match="puts pictures first whatever the order"):
        HfMllmEngine(config)


def test_a_limit_of_pixels_is_the_processors_where_it_has_one(llava_folder: Path) -> None:
    with pytest.raises(ValueError, match="reads every picture at"):
        _engine(llava_folder, hf_mllm=HfMllmConfig(max_image_px=128))
    qwen = Qwen2VLImageProcessor()
    kwargs = _size_kwargs(SimpleNamespace(image_processor=qwen), 224)
    picture = Image.new("RGB", (1024, 1024))
    (grid,) = qwen(picture, **kwargs)["image_grid_thw"].tolist()
    assert grid == [1, 16, 16]  # patches of 14 px
    (own,) = qwen(picture)["image_grid_thw"].tolist()
    assert own[1] > 60
    small = qwen(Image.new("RGB", (100, 100)), **kwargs)["image_grid_thw"].tolist()
    assert small == qwen(Image.new("RGB", (100, 100)))["image_grid_thw"].tolist()


def test_options_that_decide_the_answer_are_recorded() -> None:
    plain = ImageToTextConfig().sampling_params()
    changed = [
        ImageToTextConfig(stop_strings=["."]),
        ImageToTextConfig(hf_mllm=HfMllmConfig(prompt_order="text_first")),
        ImageToTextConfig(hf_mllm=HfMllmConfig(max_image_px=672)),
    ]
    assert all(config.sampling_params() != plain for config in changed)
    static = ImageToTextConfig(hf_mllm=HfMllmConfig(kv_cache="static"))
    assert static.sampling_params() == plain


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: HfMllmConfig(prompt_order="text"), "did you mean 'text_first'"),
        (lambda: HfMllmConfig(kv_cache="paged"), "'kv_cache' is 'paged'"),
        (lambda: HfMllmConfig(max_image_px=20), "less than two patches"),
        (lambda: ImageToTextConfig(stop_strings=["a", ""]), "would stop every answer"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


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
