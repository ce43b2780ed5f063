"""The configs of full size, with folders of the same classes at toy width in the models' places."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy_models import build_llava_next, build_llm, build_qwen_vl

from actors.backends.chat import load_processor
from actors.backends.hf_config import HfMllmConfig
from actors.backends.hf_mllm import HfMllmEngine
from actors.image_to_text import ImageToTextConfig, build_image_to_text
from actors.images import decode_image, encode_image
from actors.models import check_folder
from actors.text_to_image import TextToImageConfig, build_text_to_image
from actors.text_to_text import TextToTextConfig, build_text_to_text
from cluster import config as config_files
from pipelines.synergy import SynergyConfig

CONF = Path(__file__).parents[2] / "conf"
RNG_SEEDS = [2**62 + i for i in range(4)]
BUILDERS = {
    "llava_next": build_llava_next,
    "qwen2_5_vl": build_qwen_vl,
    "qwen3_vl": lambda folder: build_qwen_vl(folder, "qwen3_vl"),
    "llm": build_llm,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("toys")
    return {name: build(root / name) for name, build in BUILDERS.items()}


def _images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    return [Image.fromarray(each).resize((96, 128)) for each in coarse]


def _load(name: str, *words: str) -> SynergyConfig:
    shared = ["output=/tmp/x", "seeds.path=null", "seeds.author.num_batches=1"]
    return config_files.load(SynergyConfig, str(CONF / f"synergy_{name}.yaml"), [*shared, *words])


@pytest.mark.parametrize("name", ["sdxl", "refiner", "turbo", "lightning"])
def test_the_generator_of_a_config_draws(
    name: str, sdxl_folder: Path, refiner_folder: Path, lora_file: Path
) -> None:
    words = [f"generator.model={sdxl_folder}", "generator.width_px=64", "generator.height_px=64"]
    # Nothing is compiled here: what compiles is tested by itself, and costs minutes.
    words += ["generator.sdxl.compile=none", "generator.sdxl.compile_cache=''"]
    words += ["generator.dtype=float32", "generator.num_steps=5"] if name == "refiner" else []
    words += [f"generator.sdxl.refiner={refiner_folder}"] if name == "refiner" else []
    words += [f"generator.sdxl.lora={lora_file}"] if name == "lightning" else []
    words += ["generator.num_steps=3"] if name == "sdxl" else []
    config = _load(name, *words).generator
    rows = build_text_to_image(config)([{"prompt": "a red star", "rng_seed_draw": 1}])
    assert rows[0].get("error") is None, rows[0]["error"]
    assert decode_image(rows[0]["image"]["bytes"]).size == (64, 64)


@pytest.mark.parametrize("plain", [[], ["vae"], ["vae", "text_encoder_2"]])
def test_half_precision_weights_alone_are_loaded(
    plain: list[str], sdxl_folder: Path, tmp_path: Path
) -> None:
    """As `models fetch variant=fp16` leaves them: a component without the variant is plain."""
    folder = tmp_path / "half"
    shutil.copytree(sdxl_folder, folder)
    for path in folder.rglob("*.safetensors"):
        if path.parent.name not in plain:
            path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    check_folder(folder)

    def draw(model: Path) -> str:
        config = TextToImageConfig(model=str(model), width_px=64, height_px=64, num_steps=2)
        (row,) = build_text_to_image(config)([{"prompt": "a red star", "rng_seed_draw": 1}])
        return row["image_sha256"]

    assert draw(folder) == draw(sdxl_folder)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sdxl", "llava"), ("refiner", "llava_next"), ("turbo", "qwen2_5_vl")],
)
def test_the_captioner_of_a_config_describes(
    name: str, kind: str, folders: dict[str, Path], llava_folder: Path
) -> None:
    folder = llava_folder if kind == "llava" else folders[kind]
    words = [f"captioner.model={folder}", "captioner.max_new_tokens=8", "captioner.dtype=float32"]
    task = build_image_to_text(_load(name, *words).captioner)
    rows = [
        {"image": {"bytes": encode_image(image).data, "path": None}, "rng_seed_describe": i}
        for i, image in enumerate(_images())
    ]
    described = task(rows)
    # What random weights say may be refused as a text; it is not refused as a call.
    assert all("description" in r or r["error"].startswith(("desc", "text_")) for r in described)


def test_the_author_of_a_config_writes(folders: dict[str, Path]) -> None:
    words = [f"seeds.author.model.model={folders['llm']}", "seeds.author.model.backend=hf_mllm"]
    words += ["seeds.author.model.max_new_tokens=8", "seeds.author.model.dtype=float32"]
    words += ["seeds.author.pool.calls_per_replica=1"]
    task = build_text_to_text(_load("lightning", *words).seeds.author.model)
    rows = task([{"prompt": text, "rng_seed": 1} for text in ("one", "another prompt")])
    assert all(row.get("text") or row["error"].startswith("text_empty") for row in rows)


@pytest.mark.parametrize("kind", ["llava_next", "qwen2_5_vl", "qwen3_vl"])
def test_a_text_does_not_depend_on_its_batch(kind: str, folders: dict[str, Path]) -> None:
    check_folder(folders[kind])
    config = ImageToTextConfig(model=str(folders[kind]), max_new_tokens=8, temperature=1.0)
    engine = HfMllmEngine(config)
    images = _images()
    together = engine.describe(images, "What is it?", RNG_SEEDS)
    alone = [
        engine.describe([image], "What is it?", [rng_seed])[0]
        for image, rng_seed in zip(images, RNG_SEEDS, strict=True)
    ]
    assert together == alone
    assert len(set(together)) > 1


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_qwen_reads_text_first_and_fewer_pixels(kind: str, folders: dict[str, Path]) -> None:
    def ids(**options: Any) -> list[int]:
        config = ImageToTextConfig(model=str(folders[kind]), hf_mllm=HfMllmConfig(**options))
        engine = HfMllmEngine(config)
        inputs = engine.preprocess(_images()[:1], "What is it?")
        assert engine.describe_preprocessed(inputs, [1])
        return inputs["input_ids"][0].tolist()

    plain, first = ids(), ids(prompt_order="text_first")
    assert sorted(plain) == sorted(first)
    assert plain != first
    assert len(ids(max_image_px=64)) < len(plain)


def test_a_pictures_tokens_are_those_of_the_processor_with_its_video_part(
    folders: dict[str, Path],
) -> None:
    """Without torchvision the video part is left out; the image part alone makes the tokens."""
    from transformers import AutoImageProcessor

    processor = load_processor(folders["qwen2_5_vl"])
    text = "<|vision_start|><|image_pad|><|vision_end|>"
    made = processor(text=[text], images=_images()[:1], return_tensors="pt")
    image = AutoImageProcessor.from_pretrained(folders["qwen2_5_vl"], local_files_only=True)
    own = image(_images()[:1], return_tensors="pt")
    assert made["pixel_values"].equal(own["pixel_values"])
    merged = int(own["image_grid_thw"].prod()) // 4
    assert (made["input_ids"] == processor.image_token_id).sum() == merged


def test_a_processor_that_needs_torchvision_says_so(tmp_path: Path) -> None:
    from transformers import SmolVLMConfig
    from transformers.utils import is_torchvision_available

    if is_torchvision_available():
        pytest.skip("torchvision is installed here")
    SmolVLMConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a smolvlm, whose processor needs torchvision"):
        load_processor(tmp_path)


def test_a_model_of_texts_is_no_captioner(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="it reads no pictures"):
        HfMllmEngine(ImageToTextConfig(model=str(folders["llm"])))
    engine = HfMllmEngine(TextToTextConfig(model=str(folders["llm"]), max_new_tokens=8))
    prompts = ["a", "a much longer prompt", "mid one"]
    together = engine.write(prompts, RNG_SEEDS[:3])
    assert together == [engine.write([p], [s])[0] for p, s in zip(prompts, RNG_SEEDS, strict=False)]
