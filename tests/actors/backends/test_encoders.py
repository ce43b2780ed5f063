"""actors/backends/encoders.py over the embedded CLIP, and over further models of random weights.

Reference: `CLIPModel` and its processor, called directly, one row at a time.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from actors.records import CHAIN_SCHEMA, Row
from actors.scenes.defaults import EMBEDDED_MODELS
from actors.scenes.grammar import caption, sample_scene
from actors.scenes.render import render
from actors.scoring import Scoring, build_scoring
from actors.scoring_config import ClassifierConfig, ScorerConfig

FOLDER = str(EMBEDDED_MODELS["clip"])
CLIP = ScorerConfig(backend="clip", device="cpu")


def _rows(number: int) -> list[Row]:
    rng = np.random.default_rng(5)
    scenes = [sample_scene(rng) for _ in range(number)]
    rows: list[Row] = []
    for scene in scenes:
        picture = Image.fromarray(render(scene, rng)).resize((80, 96))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        row: Row = dict.fromkeys(CHAIN_SCHEMA.names)
        row |= {"image": {"bytes": buffer.getvalue(), "path": None}, "is_stopped": False}
        rows.append(row | {"prompt": caption(scene), "description": caption(scene, "short")})
    return rows


@pytest.fixture(scope="module")
def clip() -> Scoring:
    return build_scoring(CLIP, CLIP.identity().digest)


@torch.no_grad()
def _directly(row: Row) -> dict[str, Any]:
    model: Any = CLIPModel.from_pretrained(FOLDER, dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(FOLDER)
    picture = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
    pixels = CLIPImageProcessorPil.from_pretrained(FOLDER)(images=picture, return_tensors="pt")
    vectors = []
    for text in (row["prompt"], row["description"]):
        out = model(**tokenizer(text, return_tensors="pt"), **pixels)
        vectors.append(out.text_embeds[0] / out.text_embeds[0].norm())
        image = out.image_embeds[0] / out.image_embeds[0].norm()
    return {
        "clip_similarity": float(vectors[0] @ image),
        "clip_similarity_description": float(vectors[1] @ image),
        "image_embedding": image.numpy(),
        "text_embedding": vectors[1].numpy(),
    }


def test_scores_are_those_of_the_model_asked_directly(clip: Scoring) -> None:
    for row, scored in zip(_rows(4), clip(_rows(4)), strict=True):
        expected = _directly(row)
        for name in ("clip_similarity", "clip_similarity_description"):
            assert scored[name] == pytest.approx(expected[name], abs=1e-5)
        for name in ("image_embedding", "text_embedding"):
            np.testing.assert_allclose(
                np.frombuffer(scored[name], "<f4"), expected[name], atol=1e-5
            )


def test_scores_do_not_depend_on_the_batch(clip: Scoring) -> None:
    rows = _rows(6)
    rows[3]["description"] = "a star " * 30  # pads the others, and is cut at 40 tokens
    together = clip(rows)
    alone = [clip([row])[0] for row in rows]
    for one, other in zip(together, alone, strict=True):
        for name in ("clip_similarity", "clip_similarity_description"):
            assert one[name] == pytest.approx(other[name], abs=1e-6)


def test_a_picture_fits_its_own_caption_best(clip: Scoring) -> None:
    own = clip(_rows(12))
    rows = _rows(12)
    turned = [row | {"prompt": rows[at - 1]["prompt"]} for at, row in enumerate(rows)]
    others = clip(turned)
    pairs = zip(own, others, strict=True)
    assert sum(a["clip_similarity"] > b["clip_similarity"] for a, b in pairs) >= 11


def test_another_model_than_the_recorded_one_is_refused() -> None:
    with pytest.raises(ValueError, match="digest"):
        build_scoring(CLIP, "sha256:other")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT of random weights that knows two labels."""
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=16, id2label={0: "normal", 1: "nsfw"},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_classifiers_and_the_aesthetic_head_fill_their_columns(
    classifier: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    layers = {
        "layers.10.weight": rng.standard_normal((1, 8)), "layers.10.bias": rng.standard_normal(1),
        "layers.2.weight": rng.standard_normal((8, 128)), "layers.2.bias": rng.standard_normal(8),
    }  # fmt: skip
    head = tmp_path / "aesthetic.safetensors"
    save_file({name: torch.from_numpy(value) for name, value in layers.items()}, str(head))
    config = ScorerConfig(
        backend="clip", device="cpu", aesthetic=str(head),
        safety=ClassifierConfig(model=str(classifier), label="nsfw"),
        watermark=ClassifierConfig(model=str(classifier), label="normal"),
    )  # fmt: skip
    identity = config.identity()
    assert identity.id.count(" + ") == len(identity.parts) - 1 == 3
    (row,) = build_scoring(config.pinned(identity), identity.digest)(_rows(1))
    picture = Image.open(io.BytesIO(_rows(1)[0]["image"]["bytes"]))
    pixels = ViTImageProcessorPil.from_pretrained(classifier)(images=picture, return_tensors="pt")
    model = ViTForImageClassification.from_pretrained(classifier).eval()
    expected = model(**pixels).logits.softmax(-1)[0]
    assert row["punsafe"] == pytest.approx(float(expected[1]), abs=1e-6)
    assert row["pwatermark"] == pytest.approx(float(expected[0]), abs=1e-6)
    vector = np.frombuffer(row["image_embedding"], "<f4").astype(np.float64)
    for name in ("layers.2", "layers.10"):
        vector = layers[f"{name}.weight"] @ vector + layers[f"{name}.bias"]
    assert row["aesthetic"] == pytest.approx(float(vector[0]), abs=1e-4)


def test_heads_that_do_not_fit_are_refused_when_they_are_loaded(
    classifier: Path, tmp_path: Path
) -> None:
    wrong = ClassifierConfig(model=str(classifier), label="unsafe")
    with pytest.raises(ValueError, match=r"unsafe.*normal"):
        build_scoring(ScorerConfig(backend="clip", device="cpu", safety=wrong))
    head = tmp_path / "aesthetic.safetensors"
    save_file({"0.weight": torch.zeros(1, 64), "0.bias": torch.zeros(1)}, str(head))
    with pytest.raises(ValueError, match="from 128 numbers to 1"):
        build_scoring(ScorerConfig(backend="clip", device="cpu", aesthetic=str(head)))


def test_a_folder_without_a_clip_is_refused(classifier: Path) -> None:
    with pytest.raises(ValueError, match="CLIPModel"):
        build_scoring(ScorerConfig(backend="clip", device="cpu", model=str(classifier)))


def test_a_folder_with_a_pickle_is_refused(classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    config = ScorerConfig(
        backend="clip", safety=ClassifierConfig(model=str(tmp_path), label="nsfw")
    )
    with pytest.raises(ValueError, match="never loaded"):
        config.identity()
