"""Attribute precision and recall by round with their standard errors: `actors/scenes/truth.py` over
a stream of pairs.

A rate is right / asked over all pairs, and its standard error that of a ratio of sums over pairs
(Cochran 1977, 6.4): the attributes of one picture are not independent.

Limits: for the embedded world, which is told by its seeds: one that the scene grammar reads, among
the first hundred.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from actors.records import Row
from actors.scenes.compare import ATTRIBUTES, Tally
from actors.scenes.grammar import parse
from actors.scenes.render import IMAGE_PX
from actors.scenes.truth import QUESTIONS, tally_pair

NUM_SEEDS_TRIED = 100
COLUMNS = ("seed", "description", "image")


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share from 0 to 1; `num_pairs` are those that it is over."""

    value: float
    error: float | None  # one standard error; None where it is over one pair
    num_pairs: int


@dataclass(frozen=True, kw_only=True)
class RoundTruth:
    """One round.

    Attributes:
        rates: by question: `picture_precision` (what is said is there), `picture_recall` (what is
            there is said), `seed_precision`, `seed_recall`; without what no pair answers.
        attributes: the same by attribute: `attributes["colour"]["seed_recall"]`.
        num_readable: descriptions that say a scene at all.
    """

    num_pairs: int
    num_readable: int
    rates: dict[str, Rate]
    attributes: dict[str, dict[str, float]]


def is_of_embedded_world(record: Row, seeds: Sequence[str | None]) -> bool:
    """Whether the oracle can judge the pairs of a run, by its config and its seeds."""
    generator: Row = record.get("generator") or {}
    is_its_size = (generator.get("width_px"), generator.get("height_px")) == (IMAGE_PX, IMAGE_PX)
    return is_its_size and any(parse(seed or "") is not None for seed in seeds[:NUM_SEEDS_TRIED])


class TruthOfRound:
    """Adds up pairs one by one; keeps sums only."""

    def __init__(self) -> None:
        self._num_pairs = 0
        self._num_readable = 0
        self._sums: defaultdict[str, RatioSums] = defaultdict(RatioSums)
        self._of_attribute: defaultdict[tuple[str, str], RatioSums] = defaultdict(RatioSums)

    def add(self, pair: Row) -> None:
        """A row with `seed`, `description` and `image`.

        Raises:
            ValueError: the picture is not of the embedded world's size.
        """
        tallies = tally_pair(pair)
        self._num_pairs += 1
        self._num_readable += "picture_precision" in tallies
        for question, tally in tallies.items():
            self._sums[question].add(*count_attributes(tally))
            for name in ATTRIBUTES:
                self._of_attribute[name, question].add(tally.right[name], tally.total[name])

    def measure(self) -> RoundTruth:
        """What the pairs so far come to."""
        asked = [name for name in QUESTIONS if self._sums[name].total]
        return RoundTruth(
            num_pairs=self._num_pairs,
            num_readable=self._num_readable,
            rates={name: self._sums[name].rate() for name in asked},
            attributes={
                name: {question: self._of_attribute[name, question].share for question in asked}
                for name in ATTRIBUTES
            },
        )


def count_attributes(tally: Tally) -> tuple[int, int]:
    """Right answers and questions, over all attributes."""
    return sum(tally.right[one] for one in ATTRIBUTES), sum(tally.total[one] for one in ATTRIBUTES)


@dataclass
class RatioSums:
    """Of right answers and questions, one pair after the other, with their squares; sums of two
    sets of pairs add up field by field."""

    num_pairs: int = 0
    right: int = 0
    total: int = 0
    right_right: int = 0
    right_total: int = 0
    total_total: int = 0

    def add(self, right: int, total: int) -> None:
        """One pair more."""
        self.num_pairs += 1
        self.right += right
        self.total += total
        self.right_right += right * right
        self.right_total += right * total
        self.total_total += total * total

    @property
    def share(self) -> float:
        """Right / asked."""
        return self.right / self.total

    def rate(self) -> Rate:
        """Right / asked, with its standard error."""
        p, n = self.share, self.num_pairs
        apart = self.right_right - 2 * p * self.right_total + p * p * self.total_total
        error = math.sqrt(max(0.0, apart) * n / (n - 1)) / self.total if n > 1 else None
        return Rate(value=p, error=error, num_pairs=n)
