"""What has been done, exactly once: units, receipts, the run record, and what is left to do.

    run.json                                                the config that owns this prefix
    data/round=<r>/<unit_id>-<sha256[:16]>.parquet          the pairs of one unit in one round
    dead_letter/round=<r>/<unit_id>-<sha256[:16]>.parquet   its rows that failed, with the reason
    receipts/<unit_id>/<r>.json                             the proof of both; writing it IS the
                                                            commit

All writes are put-if-absent. A file whose receipt was never written, or lost to another attempt,
is an orphan that no reader who starts from receipts sees. A loser removes its own; what a crash
left, `Ledger.remove_orphans` removes once its (unit, round) is committed. A crash anywhere leaves
either no receipt (the round is computed again) or a whole commit. Whoever commits second gets the
winner's receipt and goes on from the winner's rows, so that the lineage of later rounds stays true.

Limits: a glob over ``data/**`` can see orphans until they are removed. Receipts say what was
written, not that it still lies there: reading checks the hash. One listing of all receipts stands
behind a resume: 10,000 units take a fraction of a second on a disk, some seconds on S3.
"""

import hashlib
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

import pyarrow as pa

from cluster.errors import CommitError, StoreError
from cluster.receipts import (
    Counts,
    Receipt,
    ShardRef,
    check_reasons,
    check_stop_reasons,
    ids_digest,
)
from cluster.shards import decode_shard, encode_shard
from cluster.storage_base import Store

logger = logging.getLogger(__name__)

# Attempts with equal rows may have removed them between a put and a look; so many have not.
MAX_PUTS = 10
# Receipts are small and the wait is the network's: this many are read at a time.
NUM_READERS = 16
# Of what is not compressed already. zstd takes 2.3 ms of CPU more for the 39 columns of a unit, a
# third of all that a commit takes, for the text beside the pictures; publish writes zstd once.
CODEC: Final = "snappy"
_UNIT = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"
_UNIT_ID = re.compile(_UNIT)
SHARD_FOLDERS = ("data", "dead_letter")
_SHARD_KEY = re.compile(
    rf"(?:data|dead_letter)/round=(?P<round>[0-9]+)/(?P<unit>{_UNIT})-[0-9a-f]{{16}}\.parquet"
)
_RECEIPT_KEY = re.compile(rf"receipts/({_UNIT})/(0|[1-9][0-9]*)\.json")


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
        self.store = store
        self.fingerprint = fingerprint
        self._versions = dict(versions or {})

    def commit(
        self,
        unit_id: str,
        round_index: int,
        pairs: pa.Table,
        dead_letters: pa.Table,
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
        if (pairs.num_rows, dead_letters.num_rows) != (counts.num_pairs, counts.num_error_rows):
            raise ValueError(
                f"unit {unit_id} round {round_index}: {pairs.num_rows} pairs and "
                f"{dead_letters.num_rows} dead letters are not {counts}: every row must be counted"
            )
        check_reasons(counts.error_reasons, counts.num_error_rows)
        check_reasons(counts.replaced_reasons, counts.num_replaced_errors)
        check_stop_reasons(counts.stop_reasons, counts.num_pairs)
        tables = [table for table in (pairs, dead_letters) if table.num_rows]
        digest = ids_digest(one for t in tables for one in t.column(ids_column).to_pylist())
        data, dead_letter = (
            self._put_rows(folder, unit_id, round_index, table, uncompressed)
            for folder, table in zip(SHARD_FOLDERS, (pairs, dead_letters), strict=True)
        )
        receipt = Receipt(
            unit_id=unit_id,
            round_index=round_index,
            data=data,
            dead_letter=dead_letter,
            **asdict(counts),
            ids_digest=digest,
            fingerprint=self.fingerprint,
            versions=self._versions,
            committed_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        )
        return self._settle(receipt)

    def read_pairs(self, receipt: Receipt, columns: Collection[str] | None = None) -> pa.Table:
        """The pairs a receipt vouches for, checked against its hash.

        Without pairs it is an empty table with the asked columns, of type null.
        """
        return self._read_rows(receipt, receipt.data, columns)

    def read_dead_letters(
        self, receipt: Receipt, columns: Collection[str] | None = None
    ) -> pa.Table:
        """The failed rows a receipt vouches for, likewise."""
        return self._read_rows(receipt, receipt.dead_letter, columns)

    def _read_rows(
        self, receipt: Receipt, shard: ShardRef | None, columns: Collection[str] | None
    ) -> pa.Table:
        if shard is None:
            return pa.table({name: pa.nulls(0) for name in columns or ()})
        where = f"unit {receipt.unit_id} round {receipt.round_index}: file {shard.file!r}"
        try:
            data = self.store.read(shard.file)
        except FileNotFoundError:
            raise CommitError(
                f"{where} is gone from {self.store.uri}: `pairloom verify` says what else is "
                "damaged, `pairloom repair` makes it again"
            ) from None
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            raise CommitError(
                f"{where} in {self.store.uri} is not the one that was committed (sha256 differs, "
                f"{len(data)} bytes of {shard.size_bytes}): `pairloom verify` says what else is "
                "damaged, `pairloom repair` makes it again"
            )
        return decode_shard(data, columns)

    def receipt(self, unit_id: str, round_index: int) -> Receipt | None:
        """The receipt of (unit, round), or None while it is not committed."""
        key = _receipt_key(unit_id, round_index)
        try:
            data = self.store.read(key)
        except FileNotFoundError:
            return None
        try:
            receipt = Receipt.from_json(data)
        except ValueError as error:
            raise CommitError(f"{key} in {self.store.uri}: {error}") from error
        if (receipt.unit_id, receipt.round_index) != (unit_id, round_index):
            raise CommitError(f"{key} in {self.store.uri} is the receipt of another unit or round")
        if receipt.fingerprint != self.fingerprint:
            raise CommitError(
                f"{key} in {self.store.uri} was committed under config {receipt.fingerprint}, "
                f"this run has {self.fingerprint}: use another output"
            )
        return receipt

    def receipts(self, of: Iterable[tuple[str, int]] | None = None) -> list[Receipt]:
        """Every receipt, or those of the given (unit, round), ordered by unit and round."""
        found = sorted(self.committed() if of is None else of)
        with ThreadPoolExecutor(NUM_READERS) as readers:
            read = readers.map(lambda unit_round: self.receipt(*unit_round), found)
            return [receipt for receipt in read if receipt is not None]

    def committed(self) -> set[tuple[str, int]]:
        """Every (unit, round) that has a receipt, from one listing: no receipt is read."""
        return set(_parse_keys(self.store.list("receipts")))

    def next_rounds(
        self,
        unit_ids: Iterable[str],
        committed: Collection[tuple[str, int]] | None = None,
        *,
        first_round: int = 0,
    ) -> dict[str, int]:
        """The first round without a receipt, for each unit; `CommitError` where one is missing."""
        units = list(unit_ids)
        try:
            found = self.committed() if committed is None else committed
            return plan_next_rounds(found, units, first_round)
        except CommitError:
            # A listing is no snapshot: while another attempt commits, a later page may be newer.
            return plan_next_rounds(self.committed(), units, first_round)

    def remove_orphans(self, receipts: Iterable[Receipt]) -> list[str]:
        """Deletes the shards that lost their commit for good, and returns their keys.

        These are the files whose own (unit, round) has a receipt that does not name them. A file
        without any may be one whose commit is under way, of a unit that the caller has never heard
        of: it stays. `receipts` only spare the question after files that they name. A file that
        the store does not let go of is logged, and not returned.
        """
        named = {file for receipt in receipts for file in receipt.files}
        listed = [key for folder in SHARD_FOLDERS for key in self.store.list(folder)]
        return [
            key for key in listed if key not in named and self._has_lost(key) and self._discard(key)
        ]

    def _has_lost(self, key: str) -> bool:
        """Whether the receipt of the file's own (unit, round) is there and names another.

        Asked of that receipt and of no listing: a store model that lists late lost a whole round
        that way.
        """
        match = _SHARD_KEY.fullmatch(key)
        receipt = self.receipt(match["unit"], int(match["round"])) if match else None
        return receipt is not None and key not in receipt.files

    def remove(self, unit_id: str, round_index: int) -> None:
        """Takes back a commit. Only for a repair, of a run that nobody works on."""
        self.store.delete(_receipt_key(unit_id, round_index))

    def remove_files(self, keys: Iterable[str]) -> None:
        """Deletes shards whose receipts are gone; one that stays is an orphan."""
        for key in keys:
            self._discard(key)

    def _discard(self, key: str) -> bool:
        """Deletes what no receipt names; False where the store refuses, which costs room only."""
        try:
            self.store.delete(key)
        except StoreError as error:
            logger.warning("an orphan stays, no reader of receipts sees it: %s", error)
            return False
        return True

    def _put_rows(
        self,
        folder: str,
        unit_id: str,
        round_index: int,
        table: pa.Table,
        uncompressed: Collection[str],
    ) -> ShardRef | None:
        if not table.num_rows:
            return None
        shard = encode_shard(table, uncompressed=uncompressed, codec=CODEC)
        key = f"{folder}/round={round_index}/{unit_id}-{shard.sha256[:16]}.parquet"
        # Where an attempt before this one got as far as here, look: a receipt vouches for ever.
        for _ in range(MAX_PUTS):
            if self.store.put_if_absent(key, shard.data):
                break
            try:
                data = self.store.read(key)
            except FileNotFoundError:
                continue  # an attempt with equal rows has lost and removed them: so will this one
            if hashlib.sha256(data).hexdigest() != shard.sha256:
                raise CommitError(f"{key} in {self.store.uri} does not hold what its name says")
            break
        else:
            raise StoreError(
                f"{key} in {self.store.uri} was there and was gone, {MAX_PUTS} times in a row: the "
                "store does not agree with itself"
            )
        return ShardRef(
            file=key,
            sha256=shard.sha256,
            size_bytes=len(shard.data),
            num_rows=table.num_rows,
        )

    def _settle(self, receipt: Receipt) -> Commit:
        key = _receipt_key(receipt.unit_id, receipt.round_index)
        if self.store.put_if_absent(key, receipt.to_json()):
            return Commit(receipt=receipt, is_winner=True)
        winner = self.receipt(receipt.unit_id, receipt.round_index)
        if winner is None:
            raise CommitError(f"{key} in {self.store.uri} was there and is gone")
        # Equal means that our own put took effect although something on the way repeated it.
        is_winner = winner == receipt
        if not is_winner:
            logger.info("%s was committed by another attempt: ours is not used", key)
            # Equal rows share one file, which is then the winner's.
            for file in set(receipt.files) - set(winner.files):
                self._discard(file)
        return Commit(receipt=winner, is_winner=is_winner)


def plan_next_rounds(
    committed: Iterable[tuple[str, int]], unit_ids: Iterable[str], first_round: int = 0
) -> dict[str, int]:
    """The first round that each unit has no receipt for; other units do not count.

    `first_round` is the one that these units begin with.

    Raises:
        CommitError: a unit has a receipt for a round after one it has none for.
    """
    done: dict[str, set[int]] = {unit_id: set() for unit_id in unit_ids}
    for unit_id, round_index in committed:
        if unit_id in done:
            done[unit_id].add(round_index)
    for unit_id, rounds in done.items():
        missing = sorted(set(range(first_round, max(rounds, default=-1))) - rounds)
        if missing:
            raise CommitError(
                f"unit {unit_id} has a receipt for round {max(rounds)} but none for {missing}: "
                "receipts were removed by hand. `pairloom verify` says what else is damaged, "
                "`pairloom repair` makes it again"
            )
    return {unit_id: first_round + len(rounds) for unit_id, rounds in done.items()}


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
