"""The Delta log over the shards: every pairs' file once, whoever folds, races or crashes."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from cluster.errors import StoreError
from cluster.ledger import Commit, Ledger
from cluster.receipts import Counts
from cluster.snapshot import Snapshot
from cluster.storage import Store, open_store
from tests.conftest import S3Server

SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("round_index", pa.int32()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("created_at", pa.timestamp("us", tz="UTC")),
    ],
    metadata={"huggingface": "{}"},
)


def _rows(unit_id: str, round_index: int, num_rows: int, attempt: str = "a") -> pa.Table:
    rows = [
        {
            "pair_id": f"{unit_id}-{row}-{round_index}",
            "round_index": round_index,
            "image": {"bytes": attempt.encode(), "path": "0.png"},
        }
        for row in range(num_rows)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _commit(
    ledger: Ledger, unit_id: str, round_index: int = 0, num_pairs: int = 3, num_error_rows: int = 0
) -> Commit:
    counts = Counts(
        num_pairs=num_pairs,
        num_error_rows=num_error_rows,
        num_stopped=0,
        error_reasons={"blank_image": num_error_rows} if num_error_rows else {},
    )
    pairs = _rows(unit_id, round_index, num_pairs)
    return ledger.commit(
        unit_id, round_index, pairs, _rows(f"{unit_id}-failed", round_index, num_error_rows), counts
    )


def _open(uri: str) -> DeltaTable:
    options = {"aws_allow_http": "true", "aws_endpoint_url": os.environ.get("AWS_ENDPOINT_URL", "")}
    return DeltaTable(f"{uri}/data", storage_options=options if "://" in uri else None)


def _files(table: DeltaTable) -> list[str]:
    """What the log names, as keys of the store; a file named twice stands here twice."""
    return sorted(
        f"data/{path}" for path in pa.chunked_array(table.get_add_actions()["path"]).to_pylist()
    )


def _ids(table: DeltaTable) -> list[str]:
    return sorted(table.to_pyarrow_dataset().to_table(columns=["pair_id"])["pair_id"].to_pylist())


def _new(uri: str) -> tuple[Store, Ledger, Snapshot]:
    store = open_store(uri)
    return store, Ledger(store, "f"), Snapshot(store.uri, SCHEMA)


def test_a_fold_names_the_pairs_of_every_receipt_once(store_uri: str) -> None:
    store, ledger, snapshot = _new(store_uri)
    files = [_commit(ledger, f"u{n}", r, 3, n).receipt.data for n in range(3) for r in range(2)]
    _commit(ledger, "u9", 0, 0, 2)
    assert snapshot.fold(ledger.receipts()) == 6
    assert snapshot.fold(ledger.receipts()) == 0
    assert Snapshot(store.uri, SCHEMA).fold(ledger.receipts()) == 0
    table = _open(store_uri)
    assert table.version() == 1
    assert _files(table) == sorted(one.file for one in files if one)
    assert len(set(_ids(table))) == table.to_pyarrow_dataset().count_rows() == 18
    assert snapshot.folded() == {(f"u{n}", r) for n in range(3) for r in range(2)}
    _commit(ledger, "u3")
    assert snapshot.fold(ledger.receipts([("u3", 0)])) == 1
    assert _open(store_uri).version() == 2


def test_a_run_without_pairs_has_an_empty_table(store_uri: str) -> None:
    store, ledger, snapshot = _new(store_uri)
    assert store.list("data") == [], "nothing is touched before the first fold"
    _commit(ledger, "u0", 0, 0, 2)
    assert snapshot.fold(ledger.receipts()) == 0
    table = _open(store_uri)
    assert (table.version(), _files(table)) == (0, [])
    assert table.to_pyarrow_dataset().to_table().schema.names == SCHEMA.names


def test_the_log_tells_readers_rows_and_round_of_each_file(tmp_path: Path) -> None:
    store, ledger, snapshot = _new(str(tmp_path))
    receipts = [_commit(ledger, "u0", r, 3 + r).receipt for r in range(3)]
    snapshot.fold(receipts)
    log = (tmp_path / "data/_delta_log/00000000000000000001.json").read_text().splitlines()
    adds = [json.loads(line)["add"] for line in log if '"add"' in line]
    for add, receipt in zip(adds, receipts, strict=True):
        assert receipt.data is not None
        stats = json.loads(add["stats"])
        assert stats["numRecords"] == receipt.num_pairs
        assert stats["minValues"] == stats["maxValues"] == {"round_index": receipt.round_index}
        assert f"data/{add['path']}" == receipt.data.file
        assert add["size"] == len(store.read(receipt.data.file))
        assert abs(add["modificationTime"] / 1000 - time.time()) < 60


def test_polars_pandas_arrow_and_duckdb_read_the_same_rows(tmp_path: Path) -> None:
    store, ledger, snapshot = _new(str(tmp_path / "a=1 #2"))
    for n in range(3):
        _commit(ledger, f"u{n}", n)
    snapshot.fold(ledger.receipts())
    folder = f"{store.uri}/data"
    table = DeltaTable(folder)
    ids = _ids(table)
    assert len(ids) == 9
    assert sorted(table.to_pandas()["pair_id"]) == ids
    arrow = table.to_pyarrow_dataset()
    assert arrow.to_table(filter=pc.field("round_index") == 1).num_rows == 3
    rows = duckdb.query("select pair_id from arrow order by pair_id").fetchall()
    assert [row[0] for row in rows] == ids
    # Without a space in the prefix: see the module's limits.
    (tmp_path / "a=1 #2").rename(tmp_path / "a=1")
    scan = pl.scan_delta(f"{tmp_path}/a=1/data")
    assert sorted(scan.select("pair_id").collect()["pair_id"]) == ids
    assert scan.filter(pl.col("round_index") == 1).collect().height == 3


def test_files_that_are_gone_leave_the_log_and_come_back_with_their_receipts(
    store_uri: str,
) -> None:
    store, ledger, snapshot = _new(store_uri)
    receipts = [_commit(ledger, f"u{n}").receipt for n in range(3)]
    snapshot.fold(receipts)
    assert snapshot.remove_missing() == []
    lost = receipts[1].data
    assert lost is not None
    store.delete(lost.file)
    assert snapshot.remove_missing() == [lost.file]
    assert _files(_open(store_uri)) == sorted({f for r in receipts for f in r.files} - {lost.file})
    store.delete("receipts/u1/0.json")
    assert _commit(ledger, "u1").receipt.data == lost, "the same rows, made again"
    assert snapshot.fold(ledger.receipts()) == 1
    assert lost.file in _files(_open(store_uri))
    assert len(_ids(_open(store_uri))) == 9


def test_a_log_that_names_what_no_receipt_vouches_for_says_so(store_uri: str) -> None:
    _, ledger, snapshot = _new(store_uri)
    receipts = [_commit(ledger, f"u{n}").receipt for n in range(2)]
    assert not snapshot.names_more_than([])
    snapshot.fold(receipts)
    assert not snapshot.names_more_than(receipts)
    assert snapshot.names_more_than(receipts[:1])
    later = _commit(ledger, "u2").receipt
    assert not snapshot.names_more_than([*receipts, later]), "what is yet to be folded is no more"


def test_racing_folders_name_every_file_once(store_uri: str) -> None:
    store, ledger, _ = _new(store_uri)
    num_folders, num_units = 3, 24
    start = threading.Barrier(num_folders)
    receipts = [_commit(ledger, f"u{n:02d}").receipt for n in range(num_units)]

    def fold_all(_: int) -> int:
        snapshot = Snapshot(store.uri, SCHEMA)
        start.wait()
        return sum(snapshot.fold(receipts[n : n + 2]) for n in range(num_units))

    with ThreadPoolExecutor(num_folders) as folders:
        added = list(folders.map(fold_all, range(num_folders)))
    assert sum(added) == num_units, "a lost race is looked at again, not counted"
    assert _files(_open(store_uri)) == sorted(file for one in receipts for file in one.files)


def test_many_versions_stay_cheap_to_open(tmp_path: Path) -> None:
    _, ledger, snapshot = _new(str(tmp_path))
    for n in range(60):
        snapshot.fold([_commit(ledger, f"u{n:02d}").receipt])
    names = {path.name for path in (tmp_path / "data/_delta_log").iterdir()}
    assert "_last_checkpoint" in names
    assert [name for name in names if name.endswith(".checkpoint.parquet")]
    assert len(_files(_open(str(tmp_path)))) == 60


def test_lost_log_entries_are_folded_again(tmp_path: Path) -> None:
    store, ledger, snapshot = _new(str(tmp_path))
    for n in range(3):
        snapshot.fold([_commit(ledger, f"u{n}").receipt])
    log = tmp_path / "data/_delta_log"
    (log / "00000000000000000003.json").write_bytes(b"")  # what a power cut can leave
    (log / "00000000000000000002.json").write_bytes(b"")
    assert Snapshot(store.uri, SCHEMA).fold(ledger.receipts()) == 2
    assert len(_ids(_open(str(tmp_path)))) == 9


def test_a_torn_log_is_named_with_what_to_do(tmp_path: Path) -> None:
    store, ledger, snapshot = _new(str(tmp_path))
    snapshot.fold([_commit(ledger, "u0").receipt])
    (tmp_path / "data/_delta_log/00000000000000000001.json").write_bytes(b'{"add":{"pa')
    with pytest.raises(StoreError, match=r"remove its folder _delta_log.*same command"):
        Snapshot(store.uri, SCHEMA).fold(ledger.receipts())


def test_a_store_that_is_gone_is_a_store_error_without_secrets(
    moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, ledger, snapshot = _new(moto_s3.uri)
    receipt = _commit(ledger, "u0").receipt
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary-token")
    with pytest.raises(StoreError, match=r"Delta log") as caught:
        snapshot.fold([receipt])
    assert "canary-token" not in str(caught.value)
    assert caught.value.__cause__ is None
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_s3.endpoint)
    assert snapshot.fold([receipt]) == 1, "the same object goes on when the store is back"


@pytest.mark.parametrize("name", ["100%25", "a%2Fb", "a\\b"])
def test_a_prefix_that_delta_rs_misreads_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="misread by delta-rs"):
        Snapshot(str(tmp_path / name), SCHEMA)
