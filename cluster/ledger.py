"""What has been done, exactly once: units, receipts, the run record, and what is left to do.

    run.json                                         the config that owns this prefix
    data/round=<r>/<unit_id>-<sha256[:16]>.parquet   the rows of one unit in one round
    receipts/<unit_id>/<r>.json                      its proof; writing it IS the commit

Both writes are put-if-absent. A file whose receipt was never written, or lost to another attempt,
is an orphan that no reader who starts from receipts sees. A loser removes its own; what a crash
left, `Ledger.remove_orphans` removes once everything is committed. A crash anywhere leaves either
no receipt (the round is computed again) or a whole commit. Whoever commits second gets the winner's
receipt and goes on from the winner's rows, so that the lineage of later rounds stays true.

Limits: a glob over ``data/**`` can see orphans until they are removed. Receipts say what was
written, not that it still lies there: `Ledger.read_rows` checks the hash when it reads. One listing
of all receipts stands behind a resume: 10,000 units take a fraction of a second on a disk, some
seconds on S3.
"""

import hashlib
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata

import pyarrow as pa

from cluster.errors import CommitError, StoreError
from cluster.receipts import Counts, Receipt, check_reasons, ids_digest
from cluster.run_record import differences, fingerprint, open_run, read_run
from cluster.shards import decode_shard, encode_shard
from cluster.storage_base import Store

__all__ = [
    "Commit",
    "Counts",
    "Ledger",
    "Receipt",
    "differences",
    "fingerprint",
    "ids_digest",
    "open_run",
    "plan_next_rounds",
    "read_run",
]

logger = logging.getLogger(__name__)

# Receipts are small and the wait is the network's: this many are read at a time.
NUM_READERS = 16
_UNIT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_SHARD_KEY = re.compile(r"data/round=[0-9]+/[^/]+\.parquet")
_RECEIPT_KEY = re.compile(r"receipts/([^/]+)/(0|[1-9][0-9]*)\.json")


@dataclass(frozen=True, kw_only=True)
class Commit:
    """The receipt that holds, and whether it is the one this call wrote."""

    receipt: Receipt
    is_winner: bool


class Ledger:
    """The receipts and rows of one run; pickles with its store."""

    def __init__(
        self, store: Store, fingerprint: str, *, versions: Mapping[str, str] | None = None
    ) -> None:
        self._store = store
        self.fingerprint = fingerprint
        self._versions = dict(_package_versions() if versions is None else versions)

    def commit(
        self,
        unit_id: str,
        round_index: int,
        table: pa.Table,
        counts: Counts,
        *,
        ids_column: str = "pair_id",
        uncompressed: Collection[str] = frozenset(),
    ) -> Commit:
        """Makes the rows of (unit, round) exist, or finds out that they already do.

        Raises:
            ValueError: ids are missing or repeated, or the counts do not add up to the rows, or
                the reasons to the error rows.
            CommitError: what lies in the store contradicts what is being committed.
            StoreError: the store failed past its budget; the same call may be made again.
        """
        _check_unit(unit_id, round_index)
        if table.num_rows != counts.num_pairs + counts.num_error_rows:
            raise ValueError(
                f"unit {unit_id} round {round_index}: {table.num_rows} rows are not {counts}: "
                "every pair and every error row must be in the table"
            )
        check_reasons(counts.error_reasons, counts.num_error_rows)
        digest = ids_digest(table.column(ids_column).to_pylist() if table.num_rows else ())
        file, sha256, size_bytes = self._put_rows(unit_id, round_index, table, uncompressed)
        receipt = Receipt(
            unit_id=unit_id,
            round_index=round_index,
            file=file,
            sha256=sha256,
            size_bytes=size_bytes,
            num_rows=table.num_rows,
            **asdict(counts),
            ids_digest=digest,
            fingerprint=self.fingerprint,
            versions=self._versions,
            committed_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        )
        return self._settle(receipt)

    def read_rows(self, receipt: Receipt, columns: Collection[str] | None = None) -> pa.Table:
        """The rows a receipt vouches for, checked against its hash.

        A receipt without rows gives an empty table with the asked columns, of type null.
        """
        if receipt.file is None:
            return pa.table({name: pa.nulls(0) for name in columns or ()})
        where = f"unit {receipt.unit_id} round {receipt.round_index}: file {receipt.file!r}"
        try:
            data = self._store.read(receipt.file)
        except FileNotFoundError:
            raise CommitError(f"{where} is gone from {self._store.uri}") from None
        if hashlib.sha256(data).hexdigest() != receipt.sha256:
            raise CommitError(
                f"{where} in {self._store.uri} is not the one that was committed (sha256 differs, "
                f"{len(data)} bytes of {receipt.size_bytes})"
            )
        return decode_shard(data, columns)

    def receipt(self, unit_id: str, round_index: int) -> Receipt | None:
        """The receipt of (unit, round), or None while it is not committed."""
        key = _receipt_key(unit_id, round_index)
        try:
            data = self._store.read(key)
        except FileNotFoundError:
            return None
        try:
            receipt = Receipt.from_json(data)
        except ValueError as error:
            raise CommitError(f"{key} in {self._store.uri}: {error}") from error
        if (receipt.unit_id, receipt.round_index) != (unit_id, round_index):
            raise CommitError(f"{key} in {self._store.uri} is the receipt of another unit or round")
        if receipt.fingerprint != self.fingerprint:
            raise CommitError(
                f"{key} in {self._store.uri} was committed under config {receipt.fingerprint}, "
                f"this run has {self.fingerprint}: use another output"
            )
        return receipt

    def receipts(self) -> list[Receipt]:
        """Every receipt, ordered by unit and round."""
        found = sorted(_parse_keys(self._store.list("receipts")))
        with ThreadPoolExecutor(NUM_READERS) as readers:
            read = readers.map(lambda unit_round: self.receipt(*unit_round), found)
            return [receipt for receipt in read if receipt is not None]

    def next_rounds(self, unit_ids: Iterable[str]) -> dict[str, int]:
        """The first round without a receipt, for each unit; `CommitError` where one is missing."""
        units = list(unit_ids)
        try:
            return plan_next_rounds(self._store.list("receipts"), units)
        except CommitError:
            # A listing is no snapshot: while another attempt commits, a later page may be newer.
            return plan_next_rounds(self._store.list("receipts"), units)

    def remove_orphans(self) -> list[str]:
        """Deletes the shards under data/ that no receipt names, and returns their keys.

        Safe only once every (unit, round) of the run has its receipt, and that is the caller's to
        know: before, a file without a receipt may be one whose commit is still under way. A file
        that the store does not let go of is logged, and not returned.
        """
        # Files first: one that appears after this listing is not judged by it.
        keys = [key for key in self._store.list("data") if _SHARD_KEY.fullmatch(key)]
        named = {receipt.file for receipt in self.receipts()}
        return [key for key in keys if key not in named and self._discard(key)]

    def _discard(self, key: str) -> bool:
        """Deletes what no receipt names; False where the store refuses, which costs room only."""
        try:
            self._store.delete(key)
        except StoreError as error:
            logger.warning("an orphan stays, no reader of receipts sees it: %s", error)
            return False
        return True

    def _put_rows(
        self, unit_id: str, round_index: int, table: pa.Table, uncompressed: Collection[str]
    ) -> tuple[str | None, str, int]:
        if not table.num_rows:
            return None, "", 0
        shard = encode_shard(table, uncompressed=uncompressed)
        key = f"data/round={round_index}/{unit_id}-{shard.sha256[:16]}.parquet"
        # Where an attempt before this one got as far as here, look: a receipt vouches for ever.
        while not self._store.put_if_absent(key, shard.data):
            try:
                data = self._store.read(key)
            except FileNotFoundError:
                continue  # an attempt with equal rows has lost and removed them: so will this one
            if hashlib.sha256(data).hexdigest() != shard.sha256:
                raise CommitError(f"{key} in {self._store.uri} does not hold what its name says")
            break
        return key, shard.sha256, len(shard.data)

    def _settle(self, receipt: Receipt) -> Commit:
        key = _receipt_key(receipt.unit_id, receipt.round_index)
        if self._store.put_if_absent(key, receipt.to_json()):
            return Commit(receipt=receipt, is_winner=True)
        winner = self.receipt(receipt.unit_id, receipt.round_index)
        if winner is None:
            raise CommitError(f"{key} in {self._store.uri} was there and is gone")
        # Equal means that our own put took effect although something on the way repeated it.
        is_winner = winner == receipt
        if not is_winner:
            logger.info("%s was committed by another attempt: %s is not used", key, receipt.file)
            # Equal rows share one file, which is then the winner's.
            if receipt.file is not None and receipt.file != winner.file:
                self._discard(receipt.file)
        return Commit(receipt=winner, is_winner=is_winner)


def plan_next_rounds(keys: Iterable[str], unit_ids: Collection[str]) -> dict[str, int]:
    """From receipt keys, the first round each unit has no receipt for; other units do not count.

    Raises:
        CommitError: a unit has a receipt for a round after one it has none for.
    """
    done: dict[str, set[int]] = {unit_id: set() for unit_id in unit_ids}
    for unit_id, round_index in _parse_keys(keys):
        if unit_id in done:
            done[unit_id].add(round_index)
    for unit_id, rounds in done.items():
        missing = sorted(set(range(max(rounds, default=-1))) - rounds)
        if missing:
            raise CommitError(
                f"unit {unit_id} has a receipt for round {max(rounds)} but none for {missing}: "
                "receipts were removed by hand; remove the later ones too, or use another output"
            )
    return {unit_id: len(rounds) for unit_id, rounds in done.items()}


def _parse_keys(keys: Iterable[str]) -> Iterable[tuple[str, int]]:
    for key in keys:
        match = _RECEIPT_KEY.fullmatch(key)
        if match:
            yield match[1], int(match[2])
        else:
            # A file manager's or an NFS client's own file must not stop a resume.
            logger.warning("%s is no receipt: ignored", key)


def _receipt_key(unit_id: str, round_index: int) -> str:
    _check_unit(unit_id, round_index)
    return f"receipts/{unit_id}/{round_index}.json"


def _check_unit(unit_id: str, round_index: int) -> None:
    if not _UNIT_ID.fullmatch(unit_id):
        raise ValueError(f"unit_id {unit_id!r}: must be letters, digits, '_', '.', '-'")
    if round_index < 0:
        raise ValueError(f"round_index is {round_index}: must be 0 or more")


def _package_versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for package in ("pairloom", "pyarrow", "obstore"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
