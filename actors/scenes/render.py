"""Draws a scene: 64 x 64 RGB, anti-aliased, with placement, radius and shade that vary.

Cells are 32 px: shapes of radius 8 and 12.5 span about 4 and 6 latents of an f4 autoencoder (at
radius 5.5 a first attempt got half of the shapes wrong). A small object may wander 7 px within its
cell, so equal captions have visibly different pictures.

Limits: flat colours, no texture, no rotation, objects never leave their cell.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

from actors.scenes.grammar import CELLS, Scene, SceneObject

IMAGE_PX = 64
CELL_PX = 32
SUPERSAMPLING = 8
MARGIN_PX = 1.0

RADIUS_PX = {"small": (7.5, 8.5), "large": (12.0, 13.5)}
COLOUR_RGB = {
    "red": (215, 30, 35),
    "orange": (250, 140, 20),
    "yellow": (250, 230, 50),
    "green": (30, 165, 60),
    "cyan": (50, 215, 225),
    "blue": (35, 90, 235),
    "purple": (140, 45, 190),
    "pink": (250, 135, 195),
}
BACKGROUND_RGB = {
    "white": (240, 240, 240),
    "grey": (128, 128, 128),
    "black": (16, 16, 16),
    "brown": (100, 62, 35),
    "navy": (20, 30, 90),
}
OBJECT_SHADE = 8
BACKGROUND_SHADE = 6


def _star() -> list[tuple[float, float]]:
    corners = []
    for corner in range(10):
        reach = 1.08 if corner % 2 == 0 else 0.45
        angle = math.pi * corner / 5
        corners.append((reach * math.sin(angle), 0.06 - reach * math.cos(angle)))
    return corners


_ARM = 0.33
POLYGONS: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0.0, -0.98), (1.0, 0.82), (-1.0, 0.82)],
    "star": _star(),
    "cross": [
        (-_ARM, -1.0), (_ARM, -1.0), (_ARM, -_ARM), (1.0, -_ARM), (1.0, _ARM), (_ARM, _ARM),
        (_ARM, 1.0), (-_ARM, 1.0), (-_ARM, _ARM), (-1.0, _ARM), (-1.0, -_ARM), (-_ARM, -_ARM),
    ],
}  # fmt: skip


def coverage(shape: str, centre: tuple[float, float], radius: float) -> np.ndarray:
    """How much of each pixel of a cell the shape covers, float32 [32, 32]; centre is (x, y)."""
    side = CELL_PX * SUPERSAMPLING
    canvas = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(canvas)
    x, y = centre[0] * SUPERSAMPLING - 0.5, centre[1] * SUPERSAMPLING - 0.5
    reach = radius * SUPERSAMPLING
    if shape == "circle":
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=255)
    else:
        pen.polygon([(x + reach * u, y + reach * v) for u, v in POLYGONS[shape]], fill=255)
    return np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32) / 255.0


def _shaded(rgb: tuple[int, int, int], amount: int, rng: np.random.Generator) -> np.ndarray:
    return np.array(rgb, np.float32) + rng.uniform(-amount, amount, 3).astype(np.float32)


def _place(item: SceneObject, rng: np.random.Generator) -> tuple[tuple[float, float], float]:
    radius = rng.uniform(*RADIUS_PX[item.size])
    room = CELL_PX / 2 - MARGIN_PX - radius * 1.08
    dx, dy = rng.uniform(-room, room, 2)
    return (CELL_PX / 2 + dx, CELL_PX / 2 + dy), radius


def render_with_mask(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The picture, uint8 [64, 64, 3], and what the objects cover, float32 [64, 64]."""
    ground = _shaded(BACKGROUND_RGB[scene.background], BACKGROUND_SHADE, rng)
    picture = np.broadcast_to(ground, (IMAGE_PX, IMAGE_PX, 3)).copy()
    mask = np.zeros((IMAGE_PX, IMAGE_PX), np.float32)
    for item in scene.objects:
        centre, radius = _place(item, rng)
        alpha = coverage(item.shape, centre, radius)
        colour = _shaded(COLOUR_RGB[item.colour], OBJECT_SHADE, rng)
        row, column = divmod(CELLS.index(item.cell), 2)
        window = (
            slice(row * CELL_PX, (row + 1) * CELL_PX),
            slice(column * CELL_PX, (column + 1) * CELL_PX),
        )
        picture[window] += alpha[..., None] * (colour - ground)
        mask[window] = alpha
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), mask


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The picture of a scene, uint8 [64, 64, 3]."""
    return render_with_mask(scene, rng)[0]
