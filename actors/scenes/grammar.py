"""The language of the embedded world: scenes, how they are said, and how sayings are read back.

A scene has a background and one or two objects, each alone in one of four cells. Every phrasing
says the whole scene, so `parse` is an exact inverse: it accepts what a phrasing can say and nothing
else. Object pairs are split by hash into a training and a held-out part.

Limits: no third object, no rotation, no overlap; only two-object scenes are ever held out (each
single colour and shape must be learned somewhere); the language is lower-case apart from the long
phrasings, and a synonym is a parse failure.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("small", "large")
BACKGROUNDS = ("white", "grey", "black", "brown", "navy")
CELLS = ("top left", "top right", "bottom left", "bottom right")

Split = Literal["train", "held_out"]
Style = Literal["short", "medium", "long", "relational"]

PAIR_SHARE = 0.8
HELD_OUT_ONE_IN = 10


@dataclass(frozen=True, order=True)
class SceneObject:
    """One object, alone in its cell."""

    shape: str
    colour: str
    size: str
    cell: str

    def __post_init__(self) -> None:
        for value, words in (
            (self.shape, SHAPES),
            (self.colour, COLOURS),
            (self.size, SIZES),
            (self.cell, CELLS),
        ):
            if value not in words:
                raise ValueError(
                    f"not a word of the scene grammar: {value!r}, expected one of {words}"
                )

    @property
    def noun(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """A background and one or two objects in reading order of their cells."""

    background: str
    objects: tuple[SceneObject, ...]

    def __post_init__(self) -> None:
        if self.background not in BACKGROUNDS:
            raise ValueError(
                f"unknown background {self.background!r}, expected one of {BACKGROUNDS}"
            )
        if not 1 <= len(self.objects) <= 2:
            raise ValueError(f"a scene has one or two objects, got {len(self.objects)}")
        cells = [CELLS.index(item.cell) for item in self.objects]
        if cells != sorted(set(cells)):
            raise ValueError(f"objects must stand in different cells, in reading order: {cells}")


def make_scene(background: str, objects: Sequence[SceneObject]) -> Scene:
    """A scene from objects in any order; ValueError if two share a cell."""
    return Scene(background, tuple(sorted(objects, key=lambda item: CELLS.index(item.cell))))


# --- sampling ---------------------------------------------------------------------------------


def is_held_out(scene: Scene) -> bool:
    """Whether the pair of (colour, shape) is kept from training, whatever sizes and places."""
    if len(scene.objects) != 2:
        return False
    pair = "+".join(sorted(f"{item.colour} {item.shape}" for item in scene.objects))
    return hashlib.sha256(pair.encode()).digest()[0] % HELD_OUT_ONE_IN == 0


def _draw_scene(rng: np.random.Generator, num_objects: int) -> Scene:
    cells = rng.permutation(len(CELLS))[:num_objects]
    objects = [
        SceneObject(
            SHAPES[rng.integers(len(SHAPES))],
            COLOURS[rng.integers(len(COLOURS))],
            SIZES[rng.integers(len(SIZES))],
            CELLS[cell],
        )
        for cell in cells
    ]
    return make_scene(BACKGROUNDS[rng.integers(len(BACKGROUNDS))], objects)


def sample_scene(rng: np.random.Generator, split: Split = "train") -> Scene:
    """A random scene of one side of the split; held-out scenes always have two objects."""
    while True:
        is_pair = split == "held_out" or rng.random() < PAIR_SHARE
        scene = _draw_scene(rng, 2 if is_pair else 1)
        if is_held_out(scene) == (split == "held_out"):
            return scene


# --- saying -----------------------------------------------------------------------------------

Phrasing = Callable[[str, Sequence[SceneObject]], str | None]


def _short(background: str, objects: Sequence[SceneObject]) -> str:
    said = ", ".join(f"{item.noun} {item.cell}" for item in objects)
    return f"{said}, {background} background"


def _short_ground_first(background: str, objects: Sequence[SceneObject]) -> str:
    said = ", ".join(f"{item.noun} {item.cell}" for item in objects)
    return f"{background} background: {said}"


def _medium(background: str, objects: Sequence[SceneObject]) -> str:
    said = " and ".join(f"a {item.noun} at the {item.cell}" for item in objects)
    return f"{said} on a {background} background"


def _medium_ground_first(background: str, objects: Sequence[SceneObject]) -> str:
    said = " and ".join(f"a {item.noun} at the {item.cell}" for item in objects)
    return f"on a {background} background, {said}"


def _long(background: str, objects: Sequence[SceneObject]) -> str:
    said = " ".join(f"There is a {item.noun} in the {item.cell} corner." for item in objects)
    return f"The picture has a {background} background. {said}"


def _long_counted(background: str, objects: Sequence[SceneObject]) -> str:
    count = "one object" if len(objects) == 1 else "two objects"
    said = ", and ".join(f"a {item.noun} in the {item.cell} corner" for item in objects)
    return f"This image shows {count} on a {background} background: {said}."


def _relational(background: str, objects: Sequence[SceneObject]) -> str | None:
    """The second place is told by the first and the relation, so nothing is left open."""
    if len(objects) != 2:
        return None
    first, second = objects
    row, column = first.cell.split()
    other_row, other_column = second.cell.split()
    ground = f"on a {background} background"
    if row == other_row:
        relation = "to the left of" if column == "left" else "to the right of"
        return f"at the {row}, a {first.noun} {relation} a {second.noun}, {ground}"
    if column == other_column:
        relation = "above" if row == "top" else "below"
        return f"on the {column}, a {first.noun} {relation} a {second.noun}, {ground}"
    return f"a {first.noun} at the {first.cell}, diagonally across from a {second.noun}, {ground}"


PHRASINGS: dict[Style, tuple[Phrasing, ...]] = {
    "short": (_short, _short_ground_first),
    "medium": (_medium, _medium_ground_first),
    "long": (_long, _long_counted),
    "relational": (_relational,),
}


def caption(scene: Scene, style: Style = "medium") -> str:
    """The canonical caption of a style: its first phrasing, objects in reading order.

    A one-object scene has no relation to tell: its relational caption is the medium one.
    """
    said = PHRASINGS[style][0](scene.background, scene.objects)
    return caption(scene, "medium") if said is None else said


def all_captions(scene: Scene) -> list[str]:
    """Every way to say the scene, both orders of the objects included."""
    orders = [scene.objects, scene.objects[::-1]][: len(scene.objects)]
    said = [
        phrasing(scene.background, order)
        for phrasings in PHRASINGS.values()
        for phrasing in phrasings
        for order in orders
    ]
    return [text for text in said if text is not None]


def sample_caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of `all_captions`, each equally likely."""
    said = all_captions(scene)
    return said[rng.integers(len(said))]


# --- reading ----------------------------------------------------------------------------------

_NOUN = re.compile(rf"\b({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b")
_CELL = re.compile(rf"\b(?:{'|'.join(CELLS)})\b")
_GROUND = re.compile(rf"\b({'|'.join(BACKGROUNDS)}) background\b")
_ROW = re.compile(r"^at the (top|bottom), ")
_COLUMN = re.compile(r"^on the (left|right), ")
_OPPOSITE = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}


def _relational_cells(text: str) -> list[str]:
    """The two cells a relational phrasing names, in order of mention; [] if it is none."""
    row, column = _ROW.match(text), _COLUMN.match(text)
    if row:
        first = "left" if " to the left of " in text else "right"
        return [f"{row[1]} {first}", f"{row[1]} {_OPPOSITE[first]}"]
    if column:
        first = "top" if " above " in text else "bottom"
        return [f"{first} {column[1]}", f"{_OPPOSITE[first]} {column[1]}"]
    cells = _CELL.findall(text)
    if " diagonally across from " in text and len(cells) == 1:
        across = " ".join(_OPPOSITE[word] for word in cells[0].split())
        return [cells[0], across]
    return []


def parse(text: str) -> Scene | None:
    """The scene a text says, or None if it is not exactly a saying of one.

    Reads the words first, then insists that some phrasing of the scene read is the very text:
    this keeps reader and phrasings from drifting apart.
    """
    text = text.strip()
    nouns = _NOUN.findall(text)
    ground = _GROUND.findall(text)
    cells = _relational_cells(text) or _CELL.findall(text)
    if not 1 <= len(nouns) <= 2 or len(ground) != 1 or len(cells) != len(nouns):
        return None
    if len(set(cells)) != len(cells):
        return None
    objects = [
        SceneObject(shape, colour, size, cell)
        for (size, colour, shape), cell in zip(nouns, cells, strict=True)
    ]
    scene = make_scene(ground[0], objects)
    return scene if text in all_captions(scene) else None
