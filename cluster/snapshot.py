"""A Delta log over the committed shards, so that any reader sees whole units at any moment.

    data/_delta_log/   written by delta-rs, beside the files that it names; the table's root is
                       data/, so that a VACUUM can never touch receipts or seeds

`Snapshot.fold` adds the pairs' files of receipts that the log does not name yet. A version is
written by put-if-absent on top of exactly the version that was looked at: whoever loses looks
again, so that no file is named twice, whatever races or crashes. The log is derived from the
receipts: what it lacks is folded again, and if it were lost or damaged it could be removed. Dead
letters are never in it. A run without pairs has an empty table.

Limits: one thread at a time for each `Snapshot`; any number of them, in any number of processes.
The log follows the receipts by the folding interval. Readers need a client that reads Delta;
polars (2.1) does not find files under a prefix with a space in it, and DuckDB downloads its
extension. On a local disk a version is synced after it was written, so a power cut in the moment
between may leave one that is torn. Versions older than a day may be cleaned away: a reader that
travels in time gets that far.
"""

import json
import logging
import os
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction

from cluster.errors import StoreError
from cluster.receipts import Receipt
from cluster.storage_remote import is_http_allowed

logger = logging.getLogger(__name__)

ROOT = "data"
# A long run writes thousands of versions: a reader opens the newest checkpoint and what follows.
TABLE_CONFIGURATION: dict[str, str | None] = {
    "delta.checkpointInterval": "50",
    "delta.logRetentionDuration": "interval 1 days",
}
# Every lost race is a version that somebody else has written: only a store that lies gets this far.
MAX_RACES = 1000
# delta-rs decodes the first and takes the second for a slash: it would write somewhere else.
_MISREAD = re.compile(r"%[0-9A-Fa-f]{2}|\\")
_FILE = re.compile(r"round=([0-9]+)/(.+)-[0-9a-f]{16}\.parquet")


class Snapshot:
    """The Delta log of one output prefix; touches nothing until it folds."""

    def __init__(self, store_uri: str, schema: pa.Schema) -> None:
        """`schema` is that of the pairs; a column `round_index` holds the receipt's in each file.

        Raises:
            ValueError: `store_uri` has characters that delta-rs misreads.
        """
        if _MISREAD.search(store_uri):
            raise ValueError(
                f"storage uri {store_uri!r}: a backslash, or a '%' before two hex digits, is "
                "misread by delta-rs, so there can be no snapshot: use another name"
            )
        self.uri = f"{store_uri.removesuffix('/')}/{ROOT}"
        self._schema = schema
        self._is_local = "://" not in store_uri
        self._table: DeltaTable | None = None

    def fold(self, receipts: Iterable[Receipt]) -> int:
        """Makes the log name the pairs' files of `receipts`; returns how many were added.

        Raises:
            StoreError: the store failed, or holds a log that cannot be read; nothing is lost,
                the same call may be made again.
        """
        wanted = {_path(one.data.file): one for one in receipts if one.data is not None}
        try:
            for _ in range(MAX_RACES):
                table = self._latest()
                named = _paths(table)
                adds = [_add(path, one) for path, one in wanted.items() if path not in named]
                if not adds or self._is_committed(table, adds):
                    return len(adds)
        except (DeltaError, OSError) as error:
            raise self._failure("fold receipts into", error) from None
        raise StoreError(f"{self.uri}: {MAX_RACES} versions in a row were refused, no new one came")

    def folded(self) -> set[tuple[str, int]]:
        """The (unit, round)s whose pairs the log names now."""
        try:
            found = [_FILE.fullmatch(path) for path in _paths(self._latest())]
        except (DeltaError, OSError) as error:
            raise self._failure("read", error) from None
        return {(match[2], int(match[1])) for match in found if match}

    def names_more_than(self, receipts: Iterable[Receipt]) -> bool:
        """Whether the log names a file that none of `receipts` vouches for."""
        vouched = {_path(one.data.file) for one in receipts if one.data is not None}
        try:
            return not _paths(self._latest()) <= vouched
        except (DeltaError, OSError) as error:
            raise self._failure("read", error) from None

    def remove_missing(self) -> list[str]:
        """Makes the log drop files that are gone, and returns their keys in the store."""
        try:
            table = self._latest()
            gone: list[str] = table.repair()["files_removed"]
            self._sync(self._latest().version())
        except (DeltaError, OSError) as error:
            raise self._failure("drop missing files from", error) from None
        return [f"{ROOT}/{path}" for path in gone]

    def _latest(self) -> DeltaTable:
        """The table at its newest version, made where there is none."""
        if self._table is not None:
            self._table.update_incremental()
            return self._table
        # For S3; without it delta-rs refuses an endpoint that is no https. All else it finds in
        # the environment, as obstore does.
        options = {"aws_allow_http": "true"} if not self._is_local and is_http_allowed() else {}
        # Not by `is_deltatable`: it holds the interpreter's lock while it waits for the store.
        try:
            self._table = DeltaTable(self.uri, storage_options=options)
        except TableNotFoundError:
            if self._is_local:
                Path(self.uri).mkdir(parents=True, exist_ok=True)
            try:
                DeltaTable.create(
                    self.uri,
                    self._schema,
                    mode="ignore",
                    configuration=TABLE_CONFIGURATION,
                    storage_options=options,
                )
            except CommitFailedError:
                logger.debug("%s was made by another attempt", self.uri)
            self._sync(0)
            self._table = DeltaTable(self.uri, storage_options=options)
        return self._table

    def _is_committed(self, table: DeltaTable, adds: list[AddAction]) -> bool:
        """Whether `adds` became the very next version; False when another one did."""
        version = table.version() + 1
        try:
            # Without retries: delta-rs would put its own on top of versions that nobody looked at.
            table.create_write_transaction(
                list(adds),
                "append",
                table.schema(),
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except CommitFailedError as error:
            logger.debug("%s: version %d is another's: %s", self.uri, version, error)
            return False
        self._sync(version)
        return True

    def _sync(self, version: int) -> None:
        """Makes what delta-rs wrote on a local disk survive a power cut: it never syncs itself."""
        if not self._is_local:
            return
        log = Path(self.uri) / "_delta_log"
        name = f"{version:020d}"
        for path in (log / f"{name}.json", log / f"{name}.checkpoint.parquet", log):
            if path.exists():
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def _failure(self, verb: str, error: Exception) -> StoreError:
        self._table = None  # opened anew next time, with the credentials found then
        # The store's answer and its query may hold a token, and a dump of frames says nothing.
        text = re.split(r"<\?xml|<Error>|<unknown>", str(error))[0]
        text = " ".join(re.sub(r"(https?://[^\s?]+)\?\S+", r"\1?...", text).split())
        return StoreError(
            f"{self.uri}: cannot {verb} its Delta log: {text[:400]}. It is derived from the "
            "receipts: if it stays damaged, remove its folder _delta_log while no run is at work, "
            "and the same command writes it again"
        )


def _path(key: str) -> str:
    return key.removeprefix(f"{ROOT}/")


def _paths(table: DeltaTable) -> set[str]:
    # Not `file_uris`, which percent-encodes: these are the paths as they were added.
    paths = pa.chunked_array(table.get_add_actions()["path"])
    return set(paths.to_pylist())


def _add(path: str, receipt: Receipt) -> AddAction:
    assert receipt.data is not None
    bounds = {"round_index": receipt.round_index}
    stats = {
        "numRecords": receipt.data.num_rows,
        "minValues": bounds,
        "maxValues": bounds,
        "nullCount": {"round_index": 0},
    }
    committed_at = datetime.fromisoformat(receipt.committed_at)
    return AddAction(
        path=path,
        size=receipt.data.size_bytes,
        partition_values={},
        modification_time=int(committed_at.timestamp() * 1000),
        data_change=True,
        stats=json.dumps(stats),
    )
