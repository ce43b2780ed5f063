"""How much of a scene is still true: right / total per attribute.

Objects are matched by cell, so an object in the wrong place is wrong in all its attributes: the
strict reading. A text that says no scene (None) scores zero everywhere.

Limits: where in its cell an object lies, and its exact shade, are not compared.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from actors.scenes.grammar import Scene

ATTRIBUTES = ("position", "colour", "size", "shape", "background", "count")


@dataclass(frozen=True)
class SeenObject:
    """What a reader made out in one cell; None where it could not tell."""

    cell: str
    shape: str | None
    colour: str | None
    size: str | None

    @property
    def is_readable(self) -> bool:
        return None not in (self.shape, self.colour, self.size)


@dataclass(frozen=True)
class SeenScene:
    """What a reader made out in a picture; two entries for a cell mean something extra in it."""

    background: str | None
    objects: tuple[SeenObject, ...]


@dataclass(frozen=True)
class Tally:
    """Right and total per attribute, `whole` (the scene as one) included."""

    right: dict[str, int]
    total: dict[str, int]

    def rate(self, attribute: str) -> float:
        return self.right[attribute] / self.total[attribute]

    @property
    def attributes_rate(self) -> float:
        """Share of all single attributes that are right."""
        return sum(self.right[name] for name in ATTRIBUTES) / sum(
            self.total[name] for name in ATTRIBUTES
        )


def compare(expected: Scene | SeenScene, seen: Scene | SeenScene | None) -> Tally:
    """Count what `seen` got right of `expected`."""
    num_objects = len(expected.objects)
    total = dict.fromkeys(("position", "colour", "size", "shape"), num_objects)
    total |= {"background": 1, "count": 1, "whole": 1}
    right = dict.fromkeys(total, 0)
    if seen is None:
        return Tally(right, total)
    by_cell = {item.cell: item for item in reversed(seen.objects)}
    for item in expected.objects:
        found = by_cell.get(item.cell)
        if found is not None:
            right["position"] += 1
            right["colour"] += found.colour == item.colour
            right["size"] += found.size == item.size
            right["shape"] += found.shape == item.shape
    right["background"] = int(seen.background == expected.background)
    right["count"] = int(len(seen.objects) == num_objects)
    right["whole"] = int(all(right[name] == total[name] for name in ATTRIBUTES))
    return Tally(right, total)


def add_tallies(tallies: Iterable[Tally]) -> Tally:
    """The sum of many comparisons."""
    right = dict.fromkeys((*ATTRIBUTES, "whole"), 0)
    total = dict(right)
    for tally in tallies:
        for name in right:
            right[name] += tally.right[name]
            total[name] += tally.total[name]
    return Tally(right, total)
