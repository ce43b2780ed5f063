"""What readers of the Delta log see while units are committed and folded, and folders are killed.

DuckDB reads the files that delta-rs names: its own Delta extension is a download.
"""

import itertools
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from folding import (
    SCHEMA,
    UNIT_SIZE,
    added_paths,
    commit_unit,
    image_of,
    keep_folding,
    start_committer,
    start_folder,
)

from cluster.ledger import Ledger
from cluster.snapshot import Snapshot
from cluster.storage import open_store
from tests.conftest import S3Server

logger = logging.getLogger(__name__)

COLUMNS = ["pair_id", "unit_id", "round_index", "image"]


def _by_arrow(table: DeltaTable) -> pa.Table:
    return table.to_pyarrow_dataset().to_table(columns=COLUMNS)


def _by_polars(table: DeltaTable) -> pa.Table:
    scan = pl.scan_delta(table.table_uri, version=table.version())
    return scan.select(COLUMNS).collect().to_arrow()


def _by_duckdb(table: DeltaTable) -> pa.Table:
    files = table.file_uris()
    if not files:
        return SCHEMA.empty_table()
    with duckdb.connect() as connection:  # the module's own connection is one for all threads
        rows = connection.read_parquet(files, hive_partitioning=False)
        return rows.select(*[duckdb.ColumnExpression(name) for name in COLUMNS]).to_arrow_table()


READERS: list[Callable[[DeltaTable], pa.Table]] = [_by_arrow, _by_polars, _by_duckdb]


def _check_poll(rows: pa.Table) -> set[tuple[str, int]]:
    """Asserts unique ids, whole units and whole rows; returns the (unit, round)s that are there."""
    assert pc.count_distinct(rows["pair_id"]).as_py() == rows.num_rows
    assert rows["image"].to_pylist() == [image_of(one) for one in rows["pair_id"].to_pylist()]
    units = rows.group_by(["unit_id", "round_index"]).aggregate([("pair_id", "count")])
    assert set(units["pair_id_count"].to_pylist()) <= {UNIT_SIZE}
    return set(zip(units["unit_id"].to_pylist(), units["round_index"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    "num_polls", [45, pytest.param(1002, marks=[pytest.mark.faults, pytest.mark.timeout(900)])]
)
def test_every_poll_of_a_run_sees_whole_units_and_only_more_of_them(
    tmp_path: Path, num_polls: int
) -> None:
    store = open_store(str(tmp_path))
    snapshot = Snapshot(store.uri, SCHEMA)
    snapshot.fold([])
    stop = threading.Event()
    arguments = (Ledger(store, "f"), snapshot, stop)
    folder = threading.Thread(target=keep_folding, args=arguments)
    folder.start()
    committers = [start_committer(store.uri, name, pause_s=num_polls / 1500) for name in "abc"]
    versions: list[int] = []
    failures: list[BaseException] = []

    def poll(read: Callable[[DeltaTable], pa.Table]) -> None:
        last, seen = -1, set[tuple[str, int]]()
        try:
            for _ in range(num_polls // len(READERS)):
                table = DeltaTable(snapshot.uri)
                assert table.version() >= last
                now = _check_poll(read(table))
                assert now >= seen, "what was there once stays there"
                last, seen = table.version(), now
                versions.append(last)
                time.sleep(0.05)  # polls are for many versions, not many polls for one
        except BaseException as error:
            failures.append(error)
            raise

    readers = [threading.Thread(target=poll, args=(read,)) for read in READERS]
    try:
        while DeltaTable(snapshot.uri).version() == 0:  # processes take a second to start
            time.sleep(0.05)
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    finally:
        for committer in committers:
            committer.kill()
            committer.join()
        stop.set()
        folder.join()
    assert not failures, failures
    assert len(versions) >= num_polls
    assert len(set(versions)) >= 10, "the log moved while it was read"
    ledger = Ledger(store, "f")
    snapshot.fold(ledger.receipts())
    committed = ledger.committed()
    assert _check_poll(_by_arrow(DeltaTable(snapshot.uri))) == committed
    logger.info("%d polls of %d versions", len(versions), len(set(versions)))


@pytest.mark.parametrize(
    "num_kills", [12, pytest.param(100, marks=[pytest.mark.faults, pytest.mark.timeout(900)])]
)
def test_folding_goes_on_after_any_kill_with_no_file_twice_and_none_missing(
    tmp_path: Path, num_kills: int
) -> None:
    store = open_store(str(tmp_path))
    ledger = Ledger(store, "f")
    rng, num_killed_at_work = random.Random(num_kills), 0
    for number in itertools.count():
        receipts = [commit_unit(ledger, f"u{number:03d}", r) for r in range(8)]
        before = len(store.list("data/_delta_log"))
        folder = start_folder(store.uri, {})
        deadline = time.monotonic() + 30
        while len(store.list("data/_delta_log")) == before and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        is_at_work = folder.is_alive()
        folder.kill()
        folder.join()
        left = len(store.list("data/_delta_log")) - before
        num_killed_at_work += is_at_work and left < len(receipts)
        _check_poll(_by_arrow(DeltaTable(f"{store.uri}/data")))
        if num_killed_at_work == num_kills:
            break
        assert number < 5 * num_kills, "the folder is never caught at work"
    Snapshot(store.uri, SCHEMA).fold(ledger.receipts())
    files = sorted(file for receipt in ledger.receipts() for file in receipt.files)
    assert added_paths(store) == files
    assert _check_poll(_by_arrow(DeltaTable(f"{store.uri}/data"))) == ledger.committed()


@pytest.mark.parametrize("where", ["local", "moto"])
def test_two_folders_at_once_name_every_file_once(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server: S3Server | None = request.getfixturevalue("moto_s3") if where == "moto" else None
    store = open_store(server.uri if server else str(tmp_path))
    ledger = Ledger(store, "f")
    receipts = [commit_unit(ledger, f"u{number:02d}") for number in range(30)]
    env = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    folders = [start_folder(store.uri, env) for _ in range(2)]
    for folder in folders:
        folder.join()
    assert [folder.exitcode for folder in folders] == [0, 0]
    assert added_paths(store) == sorted(file for one in receipts for file in one.files)
    assert Snapshot(store.uri, SCHEMA).fold(receipts) == 0
