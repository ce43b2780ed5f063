"""Which pictures repeat an earlier one that is kept: equal bytes, or nearly equal hashes.

Pairs are taken in a given order, and each is compared with those kept before it: of a group the
earliest that passes all other rules stays, so that a picture is never dropped in favour of one
that is dropped itself.

Limits: near duplicates over a whole run are compared with every kept hash, exactly and so in
quadratic time: 100,000 distinct pictures take about ten seconds, a million a hundred times that.
"Near" is not transitive: of a slow drift in small steps several pictures stay.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Codes = np.ndarray[Any, np.dtype[np.int64]]
Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

# Pairs that are compared with all kept ones at once, and kept ones at a time: 16 MB of differences.
BLOCK_ROWS, KEPT_ROWS = 256, 8192


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What is compared; row i of each array is one pair.

    Attributes:
        chains: equal numbers are one chain.
        images: equal numbers are equal bytes, below 0: not known.
        hashes: 64-bit perceptual hashes.
        has_hash: where `hashes` says something.
    """

    chains: Codes
    images: Codes
    hashes: Hashes
    has_hash: Flags


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What counts as a repetition; None and False switch a comparison off."""

    exact_in_chain: bool = False
    exact: bool = False
    near_in_chain: int | None = None
    near: int | None = None


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """Which pairs repeat an earlier kept one, by kind."""

    exact: Flags
    near_in_chain: Flags
    near: Flags


def find_repeated(pictures: Pictures, order: Codes, passes: Flags, scope: Scope) -> Repeated:
    """Compares every pair, in `order`, with the kept ones before it.

    Args:
        pictures: n pairs.
        order: a permutation of their rows, earliest first.
        passes: the pairs that all other rules keep; others are compared, never compared with.
        scope: what is compared.
    """
    num_rows = len(order)
    found = Repeated(
        exact=np.zeros(num_rows, np.bool_),
        near_in_chain=np.zeros(num_rows, np.bool_),
        near=np.zeros(num_rows, np.bool_),
    )
    kept = _Kept(scope=scope, pictures=pictures)
    for start in range(0, num_rows, BLOCK_ROWS):
        rows = order[start : start + BLOCK_ROWS]
        is_near = kept.near_block(rows)
        first_new = kept.num_hashes
        for place, row in enumerate(rows.tolist()):
            found.exact[row] = kept.has_image(row)
            found.near_in_chain[row] = kept.is_near_in_chain(row)
            found.near[row] = is_near[place] or kept.is_near_since(row, first_new)
            is_new = not (found.exact[row] or found.near_in_chain[row] or found.near[row])
            if passes[row] and is_new:
                kept.add(row)
    return found


@dataclass(kw_only=True)
class _Kept:
    """The pairs kept so far, as each comparison needs them."""

    scope: Scope
    pictures: Pictures
    num_hashes: int = 0
    _images: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])
    _by_chain: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    _hashes: Hashes = field(default_factory=lambda: np.empty(KEPT_ROWS, np.uint64))

    def has_image(self, row: int) -> bool:
        return self._image_key(row) in self._images

    def _image_key(self, row: int) -> tuple[int, int]:
        chain = -1 if self.scope.exact else int(self.pictures.chains[row])
        return (chain, int(self.pictures.images[row]))

    def is_near_in_chain(self, row: int) -> bool:
        limit = self.scope.near_in_chain
        if limit is None or not self.pictures.has_hash[row]:
            return False
        own = int(self.pictures.hashes[row])
        others = self._by_chain[int(self.pictures.chains[row])]
        return any((own ^ other).bit_count() <= limit for other in others)

    def near_block(self, rows: Codes) -> Flags:
        """Which rows are near to one that was kept before this block."""
        is_near = np.zeros(len(rows), np.bool_)
        if self.scope.near is None:
            return is_near
        own = self.pictures.hashes[rows][:, None]
        for start in range(0, self.num_hashes, KEPT_ROWS):
            others = self._hashes[start : min(start + KEPT_ROWS, self.num_hashes)]
            distances = np.bitwise_count(own ^ others[None, :])
            is_near |= (distances <= self.scope.near).any(axis=1)
        return is_near & self.pictures.has_hash[rows]

    def is_near_since(self, row: int, first: int) -> bool:
        """Whether the row is near to one kept since there were `first`."""
        if self.scope.near is None or not self.pictures.has_hash[row] or first == self.num_hashes:
            return False
        others = self._hashes[first : self.num_hashes]
        distances = np.bitwise_count(self.pictures.hashes[row] ^ others)
        return bool((distances <= self.scope.near).any())

    def add(self, row: int) -> None:
        if (self.scope.exact or self.scope.exact_in_chain) and self.pictures.images[row] >= 0:
            self._images.add(self._image_key(row))
        if not self.pictures.has_hash[row]:
            return
        if self.scope.near_in_chain is not None:
            own = int(self.pictures.hashes[row])
            self._by_chain[int(self.pictures.chains[row])].append(own)
        if self.scope.near is not None:
            if self.num_hashes == len(self._hashes):
                self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
            self._hashes[self.num_hashes] = self.pictures.hashes[row]
            self.num_hashes += 1
