"""A store that ignores put-if-absent: refused by name, or used by one declared writer."""

import logging
import pickle
import time
from pathlib import Path

import pyarrow as pa
import pytest
from s3_servers import S3Server

from cluster.errors import ConditionalPutUnsupportedError
from cluster.ledger import Ledger
from cluster.receipts import Counts
from cluster.storage import SingleWriterStore, open_store

logger = logging.getLogger(__name__)


def test_the_gateway_lets_a_second_conditional_put_through(rclone_s3: S3Server) -> None:
    """What the refusal rests on; if rclone learns it one day, these tests need another store."""
    client = rclone_s3.client()
    for data in (b"first", b"second"):
        client.put_object(
            Bucket=rclone_s3.bucket, Key=f"{rclone_s3.prefix}/k", Body=data, IfNoneMatch="*"
        )
    assert rclone_s3.objects() == {"k": b"second"}


def test_it_is_refused_within_two_seconds_by_name_and_reason(rclone_s3: S3Server) -> None:
    started = time.monotonic()
    with pytest.raises(ConditionalPutUnsupportedError) as refusal:
        open_store(rclone_s3.uri).check_writable()
    elapsed_s = time.monotonic() - started
    logger.info("refused after %.3f s", elapsed_s)
    assert elapsed_s < 2
    for words in (rclone_s3.uri, "If-None-Match", "is_single_writer"):
        assert words in str(refusal.value)
    assert rclone_s3.objects() == {}


def test_a_declared_single_writer_may_use_it_and_is_warned_once(
    rclone_s3: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        store = open_store(rclone_s3.uri, is_single_writer=True)
        store.check_writable()
        store = pickle.loads(pickle.dumps(store))
        assert store.put_if_absent("data/x", b"first")
    (warning,) = [record.getMessage() for record in caplog.records]
    assert rclone_s3.uri in warning
    assert "single-writer" in warning
    assert isinstance(store, SingleWriterStore)
    assert not store.put_if_absent("data/x", b"second")
    assert (store.read("data/x"), store.list(), store.exists("data/x")) == (
        b"first",
        ["data/x"],
        True,
    )
    assert rclone_s3.objects() == {"data/x": b"first"}
    store.put("data/x", b"over")
    store.delete("data/x")
    assert rclone_s3.objects() == {}


def test_its_probe_still_finds_a_store_that_cannot_be_written(
    rclone_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ValueError, match=r"cannot be written.*SignatureDoesNotMatch"):
        open_store(rclone_s3.uri, is_single_writer=True).check_writable()


def test_a_later_attempt_of_the_single_writer_keeps_what_is_committed(rclone_s3: S3Server) -> None:
    def commit(attempt: str) -> bool:
        store = open_store(rclone_s3.uri, is_single_writer=True)
        rows = pa.table({"pair_id": ["p"], "description": [attempt]})
        counts = Counts(num_pairs=1, num_error_rows=0, num_stopped=0)
        return Ledger(store, "f").commit("u0", 0, rows, rows.slice(0, 0), counts).is_winner

    assert [commit("a"), commit("b")] == [True, False]
    ledger = Ledger(open_store(rclone_s3.uri, is_single_writer=True), "f")
    (receipt,) = ledger.receipts()
    assert ledger.read_pairs(receipt)["description"].to_pylist() == ["a"]
    assert len(rclone_s3.objects()) == 2


def test_a_folder_without_hard_links_works_for_one_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", no_link)
    store = open_store(str(tmp_path), is_single_writer=True)
    store.check_writable()
    assert store.put_if_absent("a", b"first")
    assert not store.put_if_absent("a", b"second")
    assert store.read("a") == b"first"
