"""A store that ignores put-if-absent: refused by name, or used by one declared writer."""

import logging
import pickle
import re
import time
from pathlib import Path

import cli
import pyarrow as pa
import pytest
from s3_servers import S3Server
from whole_runs import words_of

from cluster.errors import ConditionalPutUnsupportedError
from cluster.ledger import Ledger
from cluster.receipts import Counts
from cluster.storage import SingleWriterStore, open_store
from cluster.storage_local import LocalStore
from pipelines.verify import describe_report, verify_run

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


def test_the_word_of_a_single_writer_changes_nothing_about_a_folder(tmp_path: Path) -> None:
    assert isinstance(open_store(str(tmp_path), is_single_writer=True), LocalStore)


@pytest.mark.faults
def test_a_whole_run_of_a_declared_single_writer_goes_on_and_verifies(
    tmp_path: Path, rclone_s3: S3Server
) -> None:
    words = words_of(tmp_path, "is_single_writer=true", "unit_size=4", "num_rounds=2")
    command = ["run", *words, f"output={rclone_s3.uri}", "--json"]
    refused = cli.call(*[word for word in command if word != "is_single_writer=true"])
    assert refused.code == 1, refused.err
    assert "ignores put-if-absent" in refused.err
    done = cli.call(*command)
    assert done.code == 0, done.err
    assert done.totals["num_pairs"] == 20
    (lost,) = [key for key in rclone_s3.objects() if re.match(r"receipts/0000002-.*/1\.json", key)]
    rclone_s3.client().delete_object(Bucket=rclone_s3.bucket, Key=f"{rclone_s3.prefix}/{lost}")
    done = cli.call(*command)
    assert done.code == 0, done.err
    assert done.totals["num_resumed"] == 18
    report = verify_run(rclone_s3.uri)
    assert report.is_sound, describe_report(report)
    assert report.is_finished
