"""How far a chain has moved from its beginning, and the rules by which it stops.

Pure: facts of committed pairs in, a number or a reason out; so whoever asks, an attempt, its rival
or a resume, gets the same answer.

The drift of a chain is its Mean Cumulative Drift (Mollah et al., "The Telephone Game: Evaluating
Semantic Drift in Unified Models", arXiv 2509.04438): the mean over its rounds of the similarity to
the first one. In spite of its name 1 is best: nothing moved.

Limits: a rule sees one chain, so that of chains which have all become alike none is collapsed; that
is for a filter over the whole run. CLIP sees no change of which it was not trained to see: on the
embedded models it stays high while attributes get lost. A phash sees no colour (`actors/phash.py`):
`looping` takes a picture that changed nothing else for one that was there before.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from actors.records import Row
from actors.validation import check_range

REASONS: Final = ("looping", "collapsed", "drifted", "converged")
_SIMILARITIES: Final = (
    "image_similarity_first",
    "image_similarity_previous",
    "text_similarity_first",
    "text_similarity_previous",
)
# Of each the mean over the rounds that have one before them is a chain's Mean Cumulative Drift.
FIRSTS: Final = {
    "image_similarity_first": "image_similarity_previous",
    "text_similarity_first": "text_similarity_previous",
}
_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class StopConfig:
    """Which chains stop before their last round; by default none. A chain that stops keeps the pair
    that stopped it. The rules are asked in this order, and the first that holds is the reason.

    A chain that began anew with a fresh description has its first round, 0, there, and none before.
    """

    # looping: the description, or the picture's phash, is that of an earlier round
    is_looping: bool = False
    # collapsed: the description has less than this share of the first round's distinct words
    collapsed_below: float | None = None
    # drifted: picture or description are less similar to the first round's than this
    drifted_image_below: float | None = None
    drifted_text_below: float | None = None
    # converged: picture and description are at least so similar to the ones before, for so many
    # rounds in a row
    converged_from: float | None = None
    converged_rounds: int = 2
    first_round: int = 1  # no chain stops in a round before this one, counted from the first

    def __post_init__(self) -> None:
        for name in ("collapsed_below", "drifted_image_below", "drifted_text_below"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), -1.0, 1.0)
        if self.converged_from is not None:
            check_range("converged_from", self.converged_from, -1.0, 1.0)
        check_range("converged_rounds", self.converged_rounds, 1, 998)
        check_range("first_round", self.first_round, 1, 998)

    @property
    def needs_scores(self) -> bool:
        """Whether a rule compares vectors."""
        rules = (self.drifted_image_below, self.drifted_text_below, self.converged_from)
        return any(rule is not None for rule in rules)

    @property
    def is_on(self) -> bool:
        """Whether there is any rule."""
        return self.is_looping or self.collapsed_below is not None or self.needs_scores


def facts_of(pair: Row) -> Row:
    """What the rules read of a pair: `FACTS_TYPE`."""
    text: str = pair["description"]
    return {
        "phash": pair["phash"],
        "text_sha256": hashlib.sha256(text.encode()).hexdigest()[:16],
        "num_words": len(set(_WORD.findall(text.casefold()))),
        **{name: pair[name] for name in _SIMILARITIES},
    }


def judge(past: Sequence[Row], config: StopConfig) -> str | None:
    """Why a chain stops with the last of its rounds, or None; `past` has the facts of all."""
    if len(past) <= config.first_round:
        return None
    holds = {
        "looping": config.is_looping and _is_looping(past),
        "collapsed": _is_below(
            past[-1]["num_words"] / max(past[0]["num_words"], 1), config.collapsed_below
        ),
        "drifted": _is_below(past[-1]["image_similarity_first"], config.drifted_image_below)
        or _is_below(past[-1]["text_similarity_first"], config.drifted_text_below),
        "converged": _is_converged(past, config),
    }
    return next((reason for reason in REASONS if holds[reason]), None)


def mean_cumulative_drift(similarities: Sequence[float | None]) -> float | None:
    """The mean similarity to the first round, over the rounds after it; None where there is none.

    Args:
        similarities: `image_similarity_first` or `text_similarity_first` of a chain, by round; of
            one that began anew, from there on.
    """
    known = [one for one in similarities[1:] if one is not None]
    return sum(known) / len(known) if known else None


def _is_looping(past: Sequence[Row]) -> bool:
    now, earlier = past[-1], past[:-1]
    return any(
        one["text_sha256"] == now["text_sha256"]
        or (now["phash"] is not None and one["phash"] == now["phash"])
        for one in earlier
    )


def _is_below(value: Any, bound: float | None) -> bool:
    return bound is not None and value is not None and value < bound


def _is_converged(past: Sequence[Row], config: StopConfig) -> bool:
    bound, number = config.converged_from, config.converged_rounds
    if bound is None or len(past) <= number:
        return False
    return all(
        one[name] is not None and one[name] >= bound
        for one in past[-number:]
        for name in ("image_similarity_previous", "text_similarity_previous")
    )
