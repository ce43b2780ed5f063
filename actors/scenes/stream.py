"""Training data, made on the fly: batches of scenes that depend only on (seed, phase, step).

A resumed phase asks for the step it stopped at and sees the very batches it would have seen.
Held-out object pairs never appear: everything passes through `sample_scene(rng, "train")`.

Limits: rendering takes about 0.3 ms a scene on one core, so phases faster than 1,000 scenes/s are
bound by it.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.scenes.grammar import Scene, sample_scene
from actors.scenes.render import render_with_mask


@dataclass(frozen=True)
class PictureBatch:
    """Scenes with their pictures, uint8 [n, 64, 64, 3], and object masks, float32 [n, 64, 64]."""

    scenes: Sequence[Scene]
    pictures: np.ndarray
    masks: np.ndarray


def step_rng(seed: int, phase: str, step: int) -> np.random.Generator:
    """The generator of one step of one phase."""
    return np.random.default_rng([seed, zlib.crc32(phase.encode()), step])


def draw_scenes(rng: np.random.Generator, count: int) -> list[Scene]:
    """Training scenes."""
    return [sample_scene(rng) for _ in range(count)]


def draw_pictures(rng: np.random.Generator, count: int) -> PictureBatch:
    """Training scenes, rendered."""
    scenes = draw_scenes(rng, count)
    drawn = [render_with_mask(scene, rng) for scene in scenes]
    return PictureBatch(
        scenes, np.stack([picture for picture, _ in drawn]), np.stack([mask for _, mask in drawn])
    )
