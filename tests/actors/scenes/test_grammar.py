"""The language of scenes: every saying is read back exactly, and nothing else is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.scenes.grammar import (
    BACKGROUNDS,
    CELLS,
    COLOURS,
    PHRASINGS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    all_captions,
    caption,
    is_held_out,
    make_scene,
    parse,
    sample_caption,
    sample_scene,
)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    cells = draw(st.lists(st.sampled_from(CELLS), min_size=1, max_size=2, unique=True))
    objects = [
        SceneObject(
            draw(st.sampled_from(SHAPES)),
            draw(st.sampled_from(COLOURS)),
            draw(st.sampled_from(SIZES)),
            cell,
        )
        for cell in cells
    ]
    return make_scene(draw(st.sampled_from(BACKGROUNDS)), objects)


@given(scenes())
def test_parse_inverts_every_phrasing(scene: Scene) -> None:
    said = all_captions(scene)
    assert len(set(said)) == len(said)
    assert [parse(text) for text in said] == [scene] * len(said)


@given(scenes(), st.integers(0, 200), st.sampled_from(["", "a ", "red", ",", " ", "small "]))
def test_an_edited_saying_is_never_read_as_the_same_scene(
    scene: Scene, place: int, letters: str
) -> None:
    text = caption(scene)
    place %= len(text)
    edited = text[:place] + letters + text[place + 1 :]
    read_back = parse(edited)
    assert read_back is None or edited.strip() in all_captions(read_back)


def test_the_phrasings_by_example() -> None:
    star = SceneObject("star", "red", "large", "top left")
    square = SceneObject("square", "blue", "small", "top right")
    scene = make_scene("grey", [square, star])
    assert caption(scene, "short") == (
        "large red star top left, small blue square top right, grey background"
    )
    assert caption(scene) == (
        "a large red star at the top left and a small blue square at the top right "
        "on a grey background"
    )
    assert caption(scene, "long") == (
        "The picture has a grey background. There is a large red star in the top left corner. "
        "There is a small blue square in the top right corner."
    )
    assert caption(scene, "relational") == (
        "at the top, a large red star to the left of a small blue square, on a grey background"
    )
    assert set(PHRASINGS) == {"short", "medium", "long", "relational"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a cat on a mat",
        "a red star at the top left on a grey background",
        "a large red star at the top left on a grey background!",
        "a large red star at the top left",
        "large red star top left, small blue star top left, grey background",
        "a large red star at the top left and a small blue star at the top left on a grey ground",
        "at the top, a large red star above a small blue square, on a grey background",
        "A large red star at the top left on a grey background",
        "a large red star at the top left on a grey background on a grey background",
    ],
)
def test_what_no_phrasing_says_is_not_read(text: str) -> None:
    assert parse(text) is None


def test_a_relation_is_told_both_ways() -> None:
    below = "on the left, a small pink cross below a large cyan circle, on a navy background"
    above = "on the left, a large cyan circle above a small pink cross, on a navy background"
    assert parse(below) == parse(above) is not None


def test_the_training_side_has_no_held_out_pair_and_all_words() -> None:
    rng = np.random.default_rng(0)
    drawn = [sample_scene(rng) for _ in range(5_000)]
    assert not any(is_held_out(scene) for scene in drawn)
    items = [item for scene in drawn for item in scene.objects]
    assert {item.shape for item in items} == set(SHAPES)
    assert {item.colour for item in items} == set(COLOURS)
    assert {item.cell for item in items} == set(CELLS)


def test_held_out_depends_on_colours_and_shapes_only() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        scene = sample_scene(rng, "held_out")
        assert is_held_out(scene)
        first, second = scene.objects
        swapped = make_scene(
            "white",
            [
                SceneObject(second.shape, second.colour, "small", "top left"),
                SceneObject(first.shape, first.colour, "large", "bottom right"),
            ],
        )
        assert is_held_out(swapped)


def test_about_a_tenth_of_the_pairs_is_held_out() -> None:
    kinds = [(shape, colour) for shape in SHAPES for colour in COLOURS]
    pairs = [(a, b) for index, a in enumerate(kinds) for b in kinds[index:]]
    count = sum(
        is_held_out(
            make_scene(
                "white",
                [SceneObject(*a, "small", "top left"), SceneObject(*b, "small", "top right")],
            )
        )
        for a, b in pairs
    )
    assert 0.07 < count / len(pairs) < 0.13


def test_sampling_is_a_function_of_the_rng_seed() -> None:
    def draw(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [sample_caption(sample_scene(rng), rng) for _ in range(20)]

    assert draw(3) == draw(3) != draw(4)


def test_bad_words_and_crowded_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="mauve"):
        SceneObject("star", "mauve", "small", "top left")
    star = SceneObject("star", "red", "small", "top left")
    with pytest.raises(ValueError, match="different cells"):
        make_scene("grey", [star, star])
    with pytest.raises(ValueError, match="beige"):
        Scene("beige", (star,))
