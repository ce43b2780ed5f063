"""Reads a scene back from pixels, by measuring and matching, with no learned part.

Per cell: which pixels differ from the background, what colour they are, and which shape, drawn
anew with the very centre and area measured, covers them best. Exact on clean renders; on drawn
pictures it is strict, so that it never flatters a model: what matches no shape well is an
unreadable object, and what is left over beside a match is one more object.

Limits: sees at most one readable object a cell, and none of the grammar's phrasing choices; specks
of fewer than `SPECK_PX` pixels are taken for noise.
"""

from dataclasses import dataclass

import numpy as np

from actors.scenes.compare import SeenObject, SeenScene
from actors.scenes.grammar import (
    BACKGROUNDS,
    CELLS,
    COLOURS,
    SHAPES,
    Scene,
    SceneObject,
    make_scene,
)
from actors.scenes.render import BACKGROUND_RGB, CELL_PX, COLOUR_RGB, IMAGE_PX, coverage

# The two nearest backgrounds, black and navy, are 75 apart; shade moves one by at most 10.
BACKGROUND_REACH = 36.0
# Objects are at least 84 from any background and from each other (yellow and orange: 95).
FOREIGN_REACH = 42.0
COLOUR_REACH = 50.0
SPECK_PX = 10
MIN_OVERLAP = 0.72
RADIUS_REACH_PX = (6.3, 15.0)
SMALL_BELOW_PX = 10.2

_GROUNDS = np.array([BACKGROUND_RGB[name] for name in BACKGROUNDS], np.float32)
_PAINTS = np.array([COLOUR_RGB[name] for name in COLOURS], np.float32)
_UNIT_PX = 12.0
# Area and centre of mass of each shape at radius 12, from which any size follows.
_AREA = {
    shape: float(coverage(shape, (CELL_PX / 2, CELL_PX / 2), _UNIT_PX).sum()) / _UNIT_PX**2
    for shape in SHAPES
}


def _centre_of_mass(weights: np.ndarray) -> tuple[float, float]:
    total = weights.sum()
    rows, columns = np.indices(weights.shape, dtype=np.float32) + 0.5
    return float((columns * weights).sum() / total), float((rows * weights).sum() / total)


def _mass_offsets() -> dict[str, tuple[float, float]]:
    """How far a shape's centre of mass lies from its drawing centre, in radii."""
    half = CELL_PX / 2
    offsets = {}
    for shape in SHAPES:
        x, y = _centre_of_mass(coverage(shape, (half, half), _UNIT_PX))
        offsets[shape] = ((x - half) / _UNIT_PX, (y - half) / _UNIT_PX)
    return offsets


_OFFSET = _mass_offsets()


@dataclass(frozen=True)
class _Match:
    shape: str
    radius: float
    overlap: float
    alpha: np.ndarray


def _nearest(
    rgb: np.ndarray, palette: np.ndarray, names: tuple[str, ...], reach: float
) -> str | None:
    distance = np.linalg.norm(palette - rgb, axis=-1)
    best = int(distance.argmin())
    return names[best] if distance[best] <= reach else None


def _best_match(alpha: np.ndarray) -> _Match:
    """The shape that, drawn with the measured area and centre of mass, overlaps most."""
    area = float(alpha.sum())
    x, y = _centre_of_mass(alpha)
    matches = []
    for shape in SHAPES:
        radius = (area / _AREA[shape]) ** 0.5
        dx, dy = _OFFSET[shape]
        drawn = coverage(shape, (x - dx * radius, y - dy * radius), radius)
        overlap = np.minimum(alpha, drawn).sum() / np.maximum(alpha, drawn).sum()
        matches.append(_Match(shape, radius, float(overlap), drawn))
    return max(matches, key=lambda match: match.overlap)


def _grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    padded = np.pad(mask, pixels)
    side = range(2 * pixels + 1)
    height, width = mask.shape
    return np.any([padded[r : r + height, c : c + width] for r in side for c in side], axis=0)


def _read_cell(cell: str, pixels: np.ndarray, ground: np.ndarray) -> list[SeenObject]:
    """No object, one, or a readable one with something extra beside it."""
    distance = np.linalg.norm(pixels - ground, axis=-1)
    is_foreign = distance > FOREIGN_REACH
    if is_foreign.sum() < SPECK_PX:
        return []
    # The paint is the median of the pixels that differ most: rims are mixed with background.
    is_core = is_foreign & (distance >= 0.7 * np.quantile(distance[is_foreign], 0.8))
    paint = np.median(pixels[is_core], axis=0)
    colour = _nearest(paint, _PAINTS, COLOURS, COLOUR_REACH)
    toward = paint - ground
    alpha = np.clip(((pixels - ground) @ toward) / float(toward @ toward), 0.0, 1.0)
    alpha = np.where(alpha < 0.15, 0.0, alpha)
    # Pixels of a third colour belong neither to the object nor to the background.
    strange = np.linalg.norm(pixels - (ground + alpha[..., None] * toward), axis=-1) > 60.0
    match = _best_match(alpha)
    is_shape = (
        match.overlap >= MIN_OVERLAP and RADIUS_REACH_PX[0] <= match.radius <= RADIUS_REACH_PX[1]
    )
    size = "small" if match.radius < SMALL_BELOW_PX else "large"
    seen = [SeenObject(cell, match.shape if is_shape else None, colour, size if is_shape else None)]
    left_over = (is_foreign & ~_grow(match.alpha > 0.1, 1)) | strange
    if is_shape and left_over.sum() >= SPECK_PX:
        seen.append(SeenObject(cell, None, None, None))
    return seen


def look(picture: np.ndarray) -> SeenScene:
    """What a picture, uint8 [64, 64, 3], shows, as far as it can be made out."""
    if picture.shape != (IMAGE_PX, IMAGE_PX, 3):
        raise ValueError(f"the oracle reads {IMAGE_PX} px RGB pictures, got {picture.shape}")
    pixels = picture.astype(np.float32)
    ground = np.median(pixels.reshape(-1, 3), axis=0)
    background = _nearest(ground, _GROUNDS, BACKGROUNDS, BACKGROUND_REACH)
    seen: list[SeenObject] = []
    for index, cell in enumerate(CELLS):
        row, column = divmod(index, 2)
        top, left = row * CELL_PX, column * CELL_PX
        seen += _read_cell(cell, pixels[top : top + CELL_PX, left : left + CELL_PX], ground)
    return SeenScene(background, tuple(seen))


def read(picture: np.ndarray) -> Scene | None:
    """The scene a picture shows, or None if any part of it is not exactly one of the grammar."""
    seen = look(picture)
    cells = [item.cell for item in seen.objects]
    if seen.background is None or not 1 <= len(cells) <= 2 or len(set(cells)) != len(cells):
        return None
    objects = []
    for item in seen.objects:
        if item.shape is None or item.colour is None or item.size is None:
            return None
        objects.append(SceneObject(item.shape, item.colour, item.size, item.cell))
    return make_scene(seen.background, objects)
