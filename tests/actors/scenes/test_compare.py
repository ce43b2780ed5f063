"""Counting what is still true of a scene."""

from actors.scenes.compare import ATTRIBUTES, SeenObject, SeenScene, add_tallies, compare
from actors.scenes.grammar import SceneObject, make_scene

STAR = SceneObject("star", "red", "large", "top left")
SQUARE = SceneObject("square", "blue", "small", "bottom right")
SCENE = make_scene("grey", [STAR, SQUARE])


def test_the_same_scene_is_all_right() -> None:
    tally = compare(SCENE, SCENE)
    assert tally.right == tally.total
    assert tally.attributes_rate == tally.rate("whole") == 1.0


def test_one_wrong_colour_costs_one_colour_and_the_whole() -> None:
    seen = make_scene("grey", [STAR, SceneObject("square", "pink", "small", "bottom right")])
    tally = compare(SCENE, seen)
    wrong = {name: tally.total[name] - tally.right[name] for name in tally.total}
    assert wrong == dict.fromkeys(ATTRIBUTES, 0) | {"colour": 1, "whole": 1}


def test_an_object_in_the_wrong_cell_is_wrong_in_everything_but_the_count() -> None:
    seen = make_scene("grey", [STAR, SceneObject("square", "blue", "small", "bottom left")])
    tally = compare(SCENE, seen)
    assert [tally.right[name] for name in ("position", "colour", "size", "shape")] == [1] * 4
    assert tally.right["count"] == 1


def test_something_extra_costs_the_count() -> None:
    seen = SeenScene(
        "grey",
        (
            SeenObject("top left", "star", "red", "large"),
            SeenObject("top left", None, None, None),
            SeenObject("bottom right", "square", "blue", "small"),
        ),
    )
    tally = compare(SCENE, seen)
    assert tally.right["count"] == tally.right["whole"] == 0
    assert tally.right["shape"] == 2


def test_an_unreadable_text_scores_nothing() -> None:
    tally = compare(SCENE, None)
    assert set(tally.right.values()) == {0}
    assert tally.total["shape"] == 2


def test_tallies_add_up() -> None:
    both = add_tallies([compare(SCENE, SCENE), compare(SCENE, None)])
    assert both.rate("shape") == both.rate("whole") == 0.5
