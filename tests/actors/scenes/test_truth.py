"""actors/scenes/truth.py: on rendered scenes, whose truth is known."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from actors.scenes.grammar import SceneObject, caption, make_scene
from actors.scenes.render import render
from actors.scenes.truth import measure_truth

STAR = SceneObject("star", "red", "large", "top left")
SQUARE = SceneObject("square", "blue", "large", "bottom right")
GREEN = SceneObject("square", "green", "large", "bottom right")
BOTH = make_scene("white", [STAR, SQUARE])


def _pair(round_index: int, description: str, seed: str = "", picture: Any = BOTH) -> Any:
    buffer = io.BytesIO()
    Image.fromarray(render(picture, np.random.default_rng(0))).save(buffer, "PNG")
    return {
        "round_index": round_index,
        "seed": seed or caption(BOTH),
        "description": description,
        "image": {"bytes": buffer.getvalue(), "path": None},
    }


def test_a_true_caption_of_the_right_picture_is_right_throughout() -> None:
    (truth,) = measure_truth([_pair(0, caption(BOTH)), _pair(0, caption(BOTH, "short"))]).values()
    assert truth.num_pairs == 2
    assert truth.picture_precision == truth.picture_recall == 1.0
    assert truth.seed_precision == truth.seed_recall == 1.0


def test_an_object_that_is_not_said_costs_recall_and_one_that_is_not_there_precision() -> None:
    one = caption(make_scene("white", [STAR]))
    truth = measure_truth([_pair(0, one)])[0]
    # Of the object, the background and the number of objects only the number is wrong.
    assert truth.picture_precision == pytest.approx(5 / 6)
    assert truth.picture_recall == pytest.approx(5 / 10)
    wrong = measure_truth([_pair(0, caption(make_scene("white", [STAR, GREEN])))])[0]
    assert wrong.picture_precision == wrong.picture_recall == pytest.approx(9 / 10)


def test_a_caption_can_be_true_of_a_picture_that_lost_the_seed() -> None:
    left = make_scene("white", [STAR, GREEN])
    truth = measure_truth([_pair(3, caption(left), picture=left)])[3]
    assert truth.picture_precision == truth.picture_recall == 1.0
    assert truth.seed_precision == truth.seed_recall == pytest.approx(9 / 10)


def test_what_says_no_scene_claims_nothing() -> None:
    truth = measure_truth([_pair(0, "a lovely view")])[0]
    assert truth.picture_precision is None
    assert truth.seed_precision is None
    assert truth.picture_recall == truth.seed_recall == 0.0


def test_rounds_are_apart() -> None:
    pairs = [_pair(1, caption(BOTH)), _pair(0, "nothing"), _pair(1, "nothing")]
    truth = measure_truth(pairs)
    assert [(r, one.num_pairs, one.seed_recall) for r, one in truth.items()] == [
        (0, 1, 0.0),
        (1, 2, 0.5),
    ]
