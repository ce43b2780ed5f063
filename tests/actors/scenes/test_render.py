"""Pictures: reproducible, varied, and never a lookup table."""

import numpy as np

from actors.scenes.grammar import SHAPES, SIZES, SceneObject, make_scene
from actors.scenes.render import CELL_PX, IMAGE_PX, render, render_with_mask

SCENE = make_scene("grey", [SceneObject("star", "red", "small", "top left")])


def test_a_picture_is_a_function_of_scene_and_rng_seed() -> None:
    first, again, other = (render(SCENE, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (IMAGE_PX, IMAGE_PX, 3)
    assert first.dtype == np.uint8
    assert (first == again).all()
    assert (first != other).any()


def test_small_objects_wander() -> None:
    places = [
        np.argwhere(render_with_mask(SCENE, np.random.default_rng(seed))[1] > 0.5).mean(0)
        for seed in range(40)
    ]
    assert (np.std(places, axis=0) > 2.0).all()


def test_objects_stay_clear_of_the_edges_of_their_cell() -> None:
    for shape in SHAPES:
        for size in SIZES:
            scene = make_scene("white", [SceneObject(shape, "blue", size, "bottom left")])
            for seed in range(20):
                mask = render_with_mask(scene, np.random.default_rng(seed))[1] > 0
                inside = mask[CELL_PX + 1 : 2 * CELL_PX - 1, 1 : CELL_PX - 1]
                assert mask.sum() == inside.sum() > 0


def test_rims_are_anti_aliased() -> None:
    mask = render_with_mask(SCENE, np.random.default_rng(0))[1]
    assert ((mask > 0.05) & (mask < 0.95)).sum() > 10
