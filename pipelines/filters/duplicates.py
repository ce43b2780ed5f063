"""Which pictures repeat an earlier one that is kept: equal bytes, near hashes, near vectors.

Pairs are taken in a given order, and each is compared with those kept before it: of a group the
earliest that passes all other rules stays, so that a picture is never dropped in favour of one
that is dropped itself.

Limits: near duplicates over a whole run are compared with every kept one, exactly and so in
quadratic time: hashes of 100,000 distinct pictures take about ten seconds, a million a hundred
times that, and vectors of 768 numbers some fifteen times as long as hashes. "Near" is not
transitive: of a slow drift in small steps several pictures stay.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Codes = np.ndarray[Any, np.dtype[np.int64]]
Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Vectors = np.ndarray[Any, np.dtype[np.float32]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

# Pairs that are compared with all kept ones at once, and kept ones at a time: 16 MB of differences.
BLOCK_ROWS, KEPT_ROWS = 256, 8192
# The cosine of a vector with itself, in float32, may be so much below 1.
ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What is compared; row i of each array is one pair.

    Attributes:
        chains: equal numbers are one chain.
        images: equal numbers are equal bytes, below 0: not known.
        hashes: 64-bit perceptual hashes.
        has_hash: where `hashes` says something.
        vectors: of length 1, one a row.
        has_vector: where `vectors` says something.
    """

    chains: Codes
    images: Codes
    hashes: Hashes
    has_hash: Flags
    vectors: Vectors
    has_vector: Flags


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What counts as a repetition; None and False switch a comparison off."""

    exact_in_chain: bool = False
    exact: bool = False
    near_in_chain: int | None = None  # bits of a hash that may differ
    near: int | None = None
    similar_in_chain: float | None = None  # the least cosine
    similar: float | None = None


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """Which pairs repeat an earlier kept one, by kind."""

    exact: Flags
    near_in_chain: Flags
    near: Flags
    similar_in_chain: Flags
    similar: Flags


def find_repeated(pictures: Pictures, order: Codes, passes: Flags, scope: Scope) -> Repeated:
    """Compares every pair, in `order`, with the kept ones before it.

    Args:
        pictures: n pairs.
        order: a permutation of their rows, earliest first.
        passes: the pairs that all other rules keep; others are compared, never compared with.
        scope: what is compared.
    """
    kinds = ("exact", "near_in_chain", "near", "similar_in_chain", "similar")
    found = {kind: np.zeros(len(order), np.bool_) for kind in kinds}
    kept = _comparisons(pictures, scope)
    for start in range(0, len(order), BLOCK_ROWS):
        rows = order[start : start + BLOCK_ROWS]
        for one in kept.values():
            one.begin(rows)
        for place, row in enumerate(rows.tolist()):
            for kind, one in kept.items():
                found[kind][row] = one.has(row, place)
            if passes[row] and not any(found[kind][row] for kind in kept):
                for one in kept.values():
                    one.add(row, place)
    return Repeated(**found)


class _Kept(Protocol):
    """The pairs kept so far, as one comparison needs them; asked block by block, row by row."""

    def begin(self, rows: Codes) -> None: ...

    def has(self, row: int, place: int) -> bool: ...

    def add(self, row: int, place: int) -> None: ...


def _comparisons(pictures: Pictures, scope: Scope) -> dict[str, _Kept]:
    """What the scope asks for, by the names of `Repeated`."""
    kept: dict[str, _Kept] = {}
    if scope.exact or scope.exact_in_chain:
        chains = None if scope.exact else pictures.chains
        kept["exact"] = _Exact(pictures.images, chains)
    for name, bits in (("near_in_chain", scope.near_in_chain), ("near", scope.near)):
        if bits is not None:
            chains = pictures.chains if name == "near_in_chain" else None
            kept[name] = _near(pictures.hashes, pictures.has_hash, _within(bits), chains)
    for name, bound in (("similar_in_chain", scope.similar_in_chain), ("similar", scope.similar)):
        if bound is not None:
            chains = pictures.chains if name == "similar_in_chain" else None
            kept[name] = _near(pictures.vectors, pictures.has_vector, _from(bound), chains)
    return kept


# [n, ...] and [m, ...] in, n x m out
_IsNear = Callable[[Any, Any], Flags]


def _within(bits: int) -> _IsNear:
    return lambda own, others: np.bitwise_count(own[:, None] ^ others[None, :]) <= bits


def _from(bound: float) -> _IsNear:
    return lambda own, others: own @ others.T >= bound - ROUNDING


class _Exact:
    """Equal numbers, in the same chain where `chains` are given."""

    def __init__(self, images: Codes, chains: Codes | None) -> None:
        self._images, self._chains = images, chains
        self._known: set[tuple[int, int]] = set()

    def begin(self, rows: Codes) -> None:
        pass

    def has(self, row: int, place: int) -> bool:
        return self._key(row) in self._known

    def add(self, row: int, place: int) -> None:
        if self._images[row] >= 0:
            self._known.add(self._key(row))

    def _key(self, row: int) -> tuple[int, int]:
        chain = -1 if self._chains is None else int(self._chains[row])
        return chain, int(self._images[row])


def _near(features: Any, is_known: Flags, is_near: _IsNear, chains: Codes | None) -> _Kept:
    if chains is None:
        return _Near(features, is_known, is_near)
    return _NearInChain(features, is_known, is_near, chains)


class _NearInChain:
    """Features that are near to those of the same chain."""

    def __init__(self, features: Any, is_known: Flags, is_near: _IsNear, chains: Codes) -> None:
        self._features, self._is_known, self._is_near = features, is_known, is_near
        self._chains = chains
        self._rows: defaultdict[int, list[int]] = defaultdict(list)

    def begin(self, rows: Codes) -> None:
        pass

    def has(self, row: int, place: int) -> bool:
        others = self._rows[int(self._chains[row])]
        if not others or not self._is_known[row]:
            return False
        return bool(self._is_near(self._features[row][None], self._features[others]).any())

    def add(self, row: int, place: int) -> None:
        if self._is_known[row]:
            self._rows[int(self._chains[row])].append(row)


class _Near:
    """Features that are near to any kept one: a block at a time with those kept before it."""

    def __init__(self, features: Any, is_known: Flags, is_near: _IsNear) -> None:
        self._features, self._is_known, self._is_near = features, is_known, is_near
        self._rows: list[int] = []

    def begin(self, rows: Codes) -> None:
        own = self._features[rows]
        self._is_repeated = np.zeros(len(rows), np.bool_)
        for start in range(0, len(self._rows), KEPT_ROWS):
            others = self._features[self._rows[start : start + KEPT_ROWS]]
            self._is_repeated |= self._is_near(own, others).any(axis=1)
        self._is_repeated &= self._is_known[rows]
        self._pairs = self._is_near(own, own)
        self._is_new = np.zeros(len(rows), np.bool_)  # kept in this block

    def has(self, row: int, place: int) -> bool:
        if not self._is_known[row]:
            return False
        return bool(self._is_repeated[place] or (self._pairs[place] & self._is_new).any())

    def add(self, row: int, place: int) -> None:
        if self._is_known[row]:
            self._rows.append(row)
            self._is_new[place] = True
