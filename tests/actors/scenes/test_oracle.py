"""The oracle: exact on clean renders, strict on everything else."""

import numpy as np
import pytest

from actors.scenes.compare import compare
from actors.scenes.grammar import Scene, SceneObject, make_scene, sample_scene
from actors.scenes.oracle import look, read
from actors.scenes.render import render

STAR = SceneObject("star", "red", "large", "top left")
CIRCLE = SceneObject("circle", "blue", "small", "bottom right")
SCENE = make_scene("grey", [STAR, CIRCLE])


def picture(scene: Scene = SCENE, seed: int = 0) -> np.ndarray:
    return render(scene, np.random.default_rng(seed))


@pytest.mark.parametrize("num_scenes", [500, pytest.param(5_000, marks=pytest.mark.slow)])
def test_reads_clean_renders_without_an_error(num_scenes: int) -> None:
    rng = np.random.default_rng(11)
    for index in range(num_scenes):
        scene = sample_scene(rng, "held_out" if index % 4 == 0 else "train")
        assert read(render(scene, rng)) == scene


def test_reads_through_noise_and_blur() -> None:
    rng = np.random.default_rng(12)
    right = 0
    for _ in range(200):
        scene = sample_scene(rng)
        clean = render(scene, rng).astype(float)
        blurred = (clean + np.roll(clean, 1, 0) + np.roll(clean, 1, 1)) / 3
        noisy = np.clip(blurred + rng.normal(0, 6, clean.shape), 0, 255).astype(np.uint8)
        right += read(noisy) == scene
    assert right >= 190


def test_a_smudge_is_not_an_object() -> None:
    soiled = picture(make_scene("grey", [STAR]))
    rows, columns = np.indices((64, 64))
    smear = np.exp(-(((rows - 48) / 9) ** 2 + ((columns - 48) / 4) ** 2))[..., None]
    soiled = (soiled * (1 - smear) + np.array([35, 90, 235]) * smear).astype(np.uint8)
    seen = look(soiled)
    assert read(soiled) is None
    assert [item.shape for item in seen.objects] == ["star", None]


def test_an_extra_blob_in_an_empty_cell_counts_as_an_object() -> None:
    soiled = picture()
    soiled[40:45, 8:13] = (250, 230, 50)
    assert read(soiled) is None
    assert len(look(soiled).objects) == 3


def test_an_extra_blob_beside_an_object_counts_as_an_object() -> None:
    soiled = picture(make_scene("grey", [CIRCLE]), seed=3)
    clear = next(
        (row, column)
        for row in (34, 58)
        for column in (34, 58)
        if (np.ptp(soiled[row - 1 : row + 5, column - 1 : column + 5], axis=(0, 1)) == 0).all()
    )
    soiled[clear[0] : clear[0] + 4, clear[1] : clear[1] + 4] = (250, 230, 50)
    assert read(soiled) is None
    assert compare(make_scene("grey", [CIRCLE]), look(soiled)).right["count"] == 0


def test_a_shape_of_a_size_between_is_still_told_by_measure_not_by_wish() -> None:
    huge = picture(make_scene("grey", [STAR]))
    huge[:34, :34] = (215, 30, 35)
    assert read(huge) is None


def test_two_colours_in_one_object_are_not_readable() -> None:
    soiled = picture(make_scene("grey", [SceneObject("square", "red", "large", "top left")]))
    is_red = soiled[..., 0] > 190
    is_red[:, 16:] = False
    soiled[is_red] = (35, 90, 235)
    assert read(soiled) is None


def test_an_unknown_background_is_not_the_nearest_one() -> None:
    soiled = picture()
    is_ground = np.abs(soiled.astype(int) - 128).max(-1) < 12
    soiled[is_ground] = (180, 230, 180)
    assert look(soiled).background is None
    assert read(soiled) is None


@pytest.mark.parametrize("value", [0, 128, 240])
def test_an_empty_picture_is_no_scene(value: int) -> None:
    assert read(np.full((64, 64, 3), value, np.uint8)) is None


def test_noise_is_no_scene() -> None:
    rng = np.random.default_rng(0)
    assert all(read(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)) is None for _ in range(50))


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="64 px"):
        look(np.zeros((32, 32, 3), np.uint8))
