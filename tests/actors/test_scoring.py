"""actors/scoring.py over simulated vectors: what is compared with what, and what fails closed."""

import hashlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from actors.backends.simulated import SimulatedConfig, SimulatedScoreEngine
from actors.engines import Scored
from actors.records import CHAIN_SCHEMA, SCORE_COLUMNS, Row
from actors.scoring import Scoring, cosine
from actors.scoring_config import ClassifierConfig, ScorerConfig

SIMULATED = ScorerConfig(backend="simulated")


def _png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _row(seed: int = 0, **columns: Any) -> Row:
    row: Row = dict.fromkeys(CHAIN_SCHEMA.names)
    row |= {"image": {"bytes": _png(seed), "path": None}, "description": f"said {seed} of it"}
    return row | {"prompt": f"asked {seed}", "is_stopped": False} | columns


def _vector(row: Row, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.frombuffer(row[name], "<f4")


def _score(*rows: Row, **fields: Any) -> list[Row]:
    config = SimulatedConfig(**fields)
    return Scoring(SimulatedScoreEngine(config), SIMULATED, "Say it.")(rows)


def _next(row: Row, seed: int, first: Row) -> Row:
    return _row(
        seed,
        parent_id="p",
        prompt=row["description"],
        image_embedding_first=first["image_embedding"],
        text_embedding_first=first["text_embedding"],
        image_embedding_previous=row["image_embedding"],
        text_embedding_previous=row["text_embedding"],
    )


def test_round_0_is_compared_with_its_prompt_and_is_its_own_first() -> None:
    (row,) = _score(_row())
    assert row["error"] is None
    assert row["image_similarity_first"] == row["text_similarity_first"] == 1.0
    assert row["image_similarity_previous"] is row["text_similarity_previous"] is None
    filled = {name for name, _, _ in SCORE_COLUMNS if row[name] is not None}
    assert filled == {name for name, _, _ in SCORE_COLUMNS} - {
        "image_similarity_previous",
        "text_similarity_previous",
        "aesthetic",
        "punsafe",
        "pwatermark",
    }
    (alone,) = _score(_row(prompt="asked 0", description="asked 0"))
    assert row["clip_similarity"] == alone["clip_similarity_description"]


def test_later_rounds_are_compared_with_the_first_and_the_one_before() -> None:
    (first,) = _score(_row(0))
    (second,) = _score(_next(first, 1, first))
    (third,) = _score(_next(second, 2, first))
    image, text = _vector(third, "image_embedding"), _vector(third, "text_embedding")
    for name, vector, of in (("image", image, first), ("text", text, first)):
        expected = cosine(vector, _vector(of, f"{name}_embedding"))
        assert third[f"{name}_similarity_first"] == expected
    for name, vector in (("image", image), ("text", text)):
        expected = cosine(vector, _vector(second, f"{name}_embedding"))
        assert third[f"{name}_similarity_previous"] == expected
    prompt = _vector(second, "text_embedding")
    assert third["clip_similarity"] == cosine(image, prompt)


class _Counting:
    """The simulated engine, with a list of the texts that it was asked for."""

    def __init__(self, change: Callable[[Scored], Scored] = lambda one: one) -> None:
        self._engine, self._change = SimulatedScoreEngine(SimulatedConfig()), change
        self.texts: list[list[str]] = []

    def preprocess(self, image: Image.Image) -> Any:
        return self._engine.preprocess(image)

    def score(self, pictures: list[Any], texts: list[list[str]]) -> list[Scored]:
        self.texts += texts
        return [self._change(one) for one in self._engine.score(pictures, texts)]


def test_a_prompt_that_was_encoded_as_a_description_is_not_encoded_again() -> None:
    engine = _Counting()
    task = Scoring(engine, SIMULATED)
    (first,) = task([_row(0)])
    task([_next(first, 1, first)])
    assert engine.texts == [["said 0 of it", "asked 0"], ["said 1 of it"]]


def test_every_row_costs_itself_only() -> None:
    rows = _score(
        _row(0), _row(1, image={"bytes": b"no picture"}), _row(2, image=None), _row(3, error="x: y")
    )
    reasons = [(row["error"] or "").partition(":")[0] for row in rows]
    assert reasons == ["", "image_unreadable", "image_missing", "x"]
    assert rows[0]["clip_similarity"] is not None


def test_a_vector_that_is_no_number_fails_its_row() -> None:
    (row,) = _score(_row(0), fault="nan", fault_rate=1.0)
    assert row["error"].startswith("score_missing")
    assert row["clip_similarity"] is None


@pytest.mark.parametrize("heads", [{}, {"punsafe": float("nan")}, {"punsafe": 1.5}])
def test_a_picture_that_the_safety_classifier_says_nothing_of_is_no_pair(
    heads: dict[str, float],
) -> None:
    def change(one: Scored) -> Scored:
        return Scored(image=one.image, texts=one.texts, heads=heads)

    asked = ClassifierConfig(model="/models/safety", label="nsfw")
    task = Scoring(_Counting(change), ScorerConfig(backend="clip", safety=asked))
    (row,) = task([_row(0)])
    assert row["error"].startswith("score_missing: punsafe")


def test_a_classifier_that_raises_leaves_no_unchecked_row() -> None:
    class Broken(_Counting):
        def score(self, pictures: list[Any], texts: list[list[str]]) -> list[Scored]:
            raise RuntimeError("the classifier is broken")

    rows = Scoring(Broken(), SIMULATED)([_row(0), _row(1)])
    assert all(row["error"].startswith("engine_error") for row in rows)


def test_scores_do_not_depend_on_the_batch() -> None:
    together = _score(*(_row(seed) for seed in range(6)))
    alone = [_score(_row(seed))[0] for seed in range(6)]
    names = [name for name, _, _ in SCORE_COLUMNS if name != "score_s"]
    assert [[row[name] for name in names] for row in together] == [
        [row[name] for name in names] for row in alone
    ]


def test_fields_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="label"):
        ClassifierConfig(model="/models/x")
    with pytest.raises(ValueError, match="no classifier is shipped"):
        ClassifierConfig(model="embedded", label="x")
    with pytest.raises(ValueError, match="aesthetic would not be asked"):
        ScorerConfig(backend="simulated", aesthetic="x.safetensors")
    with pytest.raises(ValueError, match="did you mean"):
        ScorerConfig(backend="clips")


def test_a_row_is_told_by_its_content() -> None:
    (one,), (other,) = _score(_row(0)), _score(_row(1))
    assert one["phash"] != other["phash"]
    digests = {hashlib.sha256(row["image_embedding"]).digest() for row in (one, other)}
    assert len(digests) == 2
