"""Which pair goes into which file, before anything is written.

Pure, and the same for the same run and config: it is what a resume goes on from. Pairs keep the
order of their commits: by unit, then round.

Limits: sizes are estimates, the average pair of the file that a pair comes from: shards of one
split are about equal, not exactly.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.filters import Judged
from pipelines.publish.config import PublishConfig

SPLITS = ("train", "validation")
# What a tar adds to a pair: three headers of 512 bytes, three files filled up to 512.
TAR_ROW_BYTES = 3 * 512 + 3 * 256

Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file to be: a slice of the kept pairs of one split."""

    split: str
    index: int
    num_parts: int  # of the split
    num_rows: int

    @property
    def stem(self) -> str:
        """As the hub has it, without a suffix."""
        return f"data/{self.split}-{self.index:05d}-of-{self.num_parts:05d}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where every pair goes; row i of each array is one judged pair.

    Attributes:
        parts: the files, train first.
        part_of: place in `parts`, or -1 for a pair that is dropped.
        split_of: place in `SPLITS`, or -1.
        file_of: and `row_of`: where the pair lies in the run: place in `Judged.files`, and row.
    """

    parts: list[Part]
    part_of: Numbers
    split_of: Numbers
    file_of: Numbers
    row_of: Numbers

    def num_rows(self, split: str) -> int:
        """Pairs in a split."""
        return sum(part.num_rows for part in self.parts if part.split == split)

    @property
    def splits(self) -> list[str]:
        """Those that have pairs."""
        return [split for split in SPLITS if self.num_rows(split)]


def plan_parts(judged: Judged, config: PublishConfig) -> Plan:
    """Cuts the kept pairs of each split into parts of about `config.shard_bytes`.

    Raises:
        ValueError: no pair is kept.
    """
    kept = judged.is_kept
    if not kept.any():
        reasons = ", ".join(f"{n} {name}" for name, n in judged.count_reasons().items())
        raise ValueError(
            f"no pair of {len(kept)} is kept: {reasons}" if reasons else "the run has no pair yet"
        )
    file_of = _column(judged, "file")
    extra = TAR_ROW_BYTES if config.format == "webdataset" else 0
    bytes_a_row = np.array([one.row_bytes + extra for one in judged.files])[file_of]
    split_of = np.where(kept, _splits(judged, config.validation_share), -1)
    part_of = np.full(len(kept), -1, np.int64)
    parts: list[Part] = []
    for place, split in enumerate(SPLITS):
        rows = np.flatnonzero(split_of == place)
        cut = cut_evenly(bytes_a_row[rows], config.shard_bytes)
        part_of[rows] = cut + len(parts)
        counts: list[int] = np.bincount(cut).tolist() if len(rows) else []
        parts += [
            Part(split=split, index=index, num_parts=len(counts), num_rows=number)
            for index, number in enumerate(counts)
        ]
    return Plan(
        parts=parts,
        part_of=part_of,
        split_of=split_of,
        file_of=file_of,
        row_of=_column(judged, "row"),
    )


def cut_evenly(sizes: np.ndarray[Any, Any], limit: int) -> Numbers:
    """Numbers the rows by runs of about equal bytes, as few as keep within `limit` on average."""
    if not len(sizes):
        return np.zeros(0, np.int64)
    sums = np.cumsum(sizes)
    before = np.concatenate(([0.0], sums[:-1]))  # a difference of floats may fall
    total = float(sums[-1])
    num_runs = max(1, math.ceil(total / limit))
    runs = np.minimum((before * num_runs / max(total, 1.0)).astype(np.int64), num_runs - 1)
    return np.unique(runs, return_inverse=True)[1].astype(np.int64)


def is_validation(chain_id: str, share: float) -> bool:
    """Whether a chain is for validation: by its id alone, and by more chains for a larger share."""
    digest = hashlib.sha256(f"pairloom split {chain_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def _splits(judged: Judged, share: float) -> Numbers:
    chains = judged.table.column("chain_id").combine_chunks().dictionary_encode()
    names: Sequence[str] = chains.dictionary.to_pylist()
    by_chain = np.array([is_validation(one, share) for one in names], np.int64)
    return by_chain[np.asarray(chains.indices.to_numpy())]


def _column(judged: Judged, name: str) -> Numbers:
    return np.asarray(judged.table.column(name).to_numpy(), np.int64)
