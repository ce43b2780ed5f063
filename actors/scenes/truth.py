"""Whether captions are true, round by round: attribute precision and recall by the oracle.

Two questions of a pair of the embedded world. *Of the picture*: what the description says, is it
there (precision), and what is there, is it said (recall)? *Of the seed*: what the description says,
did the seed ask for it (precision), and what the seed asked for, is it still said (recall)? An
attribute is a position, colour, size, shape, background or the number of objects (`compare.py`).

Limits: a description that is no saying of a scene claims nothing: it has no precision, and a recall
of 0. Of a picture what the oracle cannot make out is neither there nor missing.
"""

import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from actors.scenes.compare import SeenScene, Tally, add_tallies, compare
from actors.scenes.grammar import parse
from actors.scenes.oracle import look

Row = dict[str, Any]
QUESTIONS = ("picture_precision", "picture_recall", "seed_precision", "seed_recall")


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Rates from 0 to 1 over the attributes of all pairs of a round; None where there are none."""

    num_pairs: int
    picture_precision: float | None
    picture_recall: float | None
    seed_precision: float | None
    seed_recall: float | None


def measure_truth(pairs: Iterable[Row]) -> dict[int, Truth]:
    """The truth of each round, by `round_index`.

    Args:
        pairs: rows with `round_index`, `seed`, `description` and `image` (64 px, encoded).

    Raises:
        ValueError: a picture is not of the embedded world's size.
    """
    rounds: defaultdict[int, list[Row]] = defaultdict(list)
    for pair in pairs:
        rounds[pair["round_index"]].append(pair)
    return {round_index: _measure(rows) for round_index, rows in sorted(rounds.items())}


def tally_pair(pair: Row) -> dict[str, Tally]:
    """What one pair got right of each question, by the names of `Truth`; without those that it
    leaves open.

    Raises:
        ValueError: as for `measure_truth`.
    """
    said, asked = parse(pair["description"]), parse(pair["seed"])
    picture = Image.open(io.BytesIO(pair["image"]["bytes"])).convert("RGB")
    seen = look(np.asarray(picture))
    there = _made_out(seen)
    tallies: dict[str, Tally] = {}
    if said is not None:
        tallies["picture_precision"] = compare(said, seen)
    if there is not None:
        tallies["picture_recall"] = compare(there, said)
    if asked is not None:
        tallies["seed_recall"] = compare(asked, said)
        tallies |= {"seed_precision": compare(said, asked)} if said is not None else {}
    return tallies


def _measure(rows: list[Row]) -> Truth:
    tallies: defaultdict[str, list[Tally]] = defaultdict(list)
    for row in rows:
        for name, tally in tally_pair(row).items():
            tallies[name].append(tally)
    return Truth(num_pairs=len(rows), **{name: _rate(tallies[name]) for name in QUESTIONS})


def _made_out(seen: SeenScene) -> SeenScene | None:
    """What of a picture can be named; None where that is nothing."""
    objects = tuple(one for one in seen.objects if one.is_readable)
    return SeenScene(seen.background, objects) if seen.background and objects else None


def _rate(tallies: list[Tally]) -> float | None:
    return add_tallies(tallies).attributes_rate if tallies else None
