"""What a pair must be to be kept: thresholds, captions, duplicates, rounds.

Limits: a threshold is one number for the whole run; what differs by round or by model is filtered
in two goes.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import pyarrow as pa

from actors.caption_hygiene import FLAGS
from actors.records import SCORE_COLUMNS
from cluster.config import to_dict
from cluster.run_record import fingerprint

# Columns of the `score` stage that are one number a pair, in the order in which they are judged.
SCORES = tuple(name for name, kind, _ in SCORE_COLUMNS if kind == pa.float32())
# Of a picture that nobody has checked it is not known to be safe: no setting lets it pass.
SAFETY = "punsafe"
# 64 bits: at more than a quarter of them, pictures of one size and background are all alike.
MAX_PHASH_DISTANCE = 16


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The least and the most that a number may be, both included; null is no bound."""

    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("min", self.min), ("max", self.max)):
            if value is not None and not math.isfinite(value):
                raise ValueError(f"field {name!r} is {value}: must be a number, or null")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"field 'min' is {self.min}, 'max' {self.max}: nothing lies between")

    @property
    def is_open(self) -> bool:
        """Whether nothing is asked for."""
        return self.min is None and self.max is None


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which pairs are kept; the default keeps all.

    The rules in their order: `rounds`, `keeps_truncated_prompts`, `keeps_cut_descriptions`,
    `words`, `forbidden_flags`, the scores as they stand here, `duplicate_images`,
    `near_distance_in_chain`, `near_distance`, `near_similarity_in_chain`, `near_similarity`. The
    first that a pair fails is its reason.
    """

    rounds: list[int] | None = None  # null: all
    keeps_truncated_prompts: bool = True
    keeps_cut_descriptions: bool = True  # those whose `finish_reason` is `length`
    words: Bounds = field(default_factory=Bounds)  # of the description, split at white space
    forbidden_flags: list[str] = field(default_factory=list[str])  # of `caption_flags`
    clip_similarity: Bounds = field(default_factory=Bounds)
    clip_similarity_description: Bounds = field(default_factory=Bounds)
    image_similarity_first: Bounds = field(default_factory=Bounds)
    image_similarity_previous: Bounds = field(default_factory=Bounds)
    text_similarity_first: Bounds = field(default_factory=Bounds)
    text_similarity_previous: Bounds = field(default_factory=Bounds)
    aesthetic: Bounds = field(default_factory=Bounds)
    punsafe: Bounds = field(default_factory=Bounds)
    pwatermark: Bounds = field(default_factory=Bounds)
    # Of pairs with one and the same picture (`image_sha256`) only the earliest is kept: in its
    # chain, or in the whole run
    duplicate_images: Literal["keep", "drop_in_chain", "drop"] = "keep"
    # The same of pictures whose `phash` differs in at most so many of 64 bits; null: not judged
    near_distance_in_chain: int | None = None
    near_distance: int | None = None
    # The same of pictures whose CLIP vectors (`image_embedding`) have at least this cosine
    near_similarity_in_chain: float | None = None
    near_similarity: float | None = None
    # A pair without a value that a rule needs. `refuse`: an error if no pair has it, else the pair
    # is dropped for `no_<column>`; `drop`: dropped in any case; `keep`: the rule lets it pass, but
    # that of `punsafe` does not: what nobody has checked is never taken for safe
    missing: Literal["refuse", "drop", "keep"] = "refuse"

    def __post_init__(self) -> None:
        if self.rounds is not None and any(one < 0 for one in self.rounds):
            raise ValueError(f"field 'rounds' is {self.rounds}: rounds count from 0")
        unknown = sorted(set(self.forbidden_flags) - set(FLAGS))
        if unknown:
            raise ValueError(
                f"field 'forbidden_flags' has {unknown}: must be of {', '.join(FLAGS)}"
            )
        for name in ("near_distance_in_chain", "near_distance"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= MAX_PHASH_DISTANCE:
                raise ValueError(
                    f"field {name!r} is {value}: must be from 0 to {MAX_PHASH_DISTANCE}, or null"
                )
        for name in ("near_similarity_in_chain", "near_similarity"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(
                    f"field {name!r} is {value}: must be a cosine above 0 and up to 1, or null"
                )

    @property
    def asked(self) -> dict[str, Any]:
        """The fields that are not at their defaults, as plain values; empty: all is kept."""
        ours, defaults = to_dict(self), to_dict(FilterConfig())
        return {name: ours[name] for name in ours if ours[name] != defaults[name]}

    @property
    def digest(self) -> str:
        """16 hex digits that name this filter."""
        return fingerprint(to_dict(self))

    def lets_unknown_pass(self, column: str) -> bool:
        """Whether a pair without a value passes the rules of a column."""
        return self.missing == "keep" and column != SAFETY

    def bounds(self) -> list[tuple[str, Bounds]]:
        """Each score that has a threshold, in the order of the rules."""
        found = [(name, cast(Bounds, getattr(self, name))) for name in SCORES]
        return [(name, bounds) for name, bounds in found if not bounds.is_open]
