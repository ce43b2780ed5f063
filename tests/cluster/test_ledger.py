"""The ledger: one receipt per (unit, round) whatever races, crashes or is lost on the way."""

import builtins
import contextlib
import dataclasses
import itertools
import json
import pickle
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import CommitError, RunMismatchError, StoreError
from cluster.ledger import Commit, Ledger, plan_next_rounds
from cluster.receipts import Counts, Receipt, ShardRef, ids_digest
from cluster.run_record import fingerprint, open_run, read_run
from cluster.storage import LocalStore, Store, open_store
from tests.conftest import FaultProxy, S3Server


def _rows(attempt: str, num_rows: int = 3) -> pa.Table:
    """The same ids whoever made them, other descriptions for another attempt."""
    ids = [f"p{row}" for row in range(num_rows)]
    return pa.table({"pair_id": ids, "description": [f"{attempt} saw {one}" for one in ids]})


NO_ROWS = pa.table({"pair_id": pa.array([], pa.string())})


def _counts(num_pairs: int = 3, num_error_rows: int = 0, num_stopped: int = 0) -> Counts:
    return Counts(
        num_pairs=num_pairs,
        num_error_rows=num_error_rows,
        num_stopped=num_stopped,
        error_reasons={"blank_image": num_error_rows} if num_error_rows else {},
    )


def _commit(store: Store, attempt: str, unit_id: str = "u0", round_index: int = 0) -> Commit:
    return Ledger(store, "f").commit(unit_id, round_index, _rows(attempt), NO_ROWS, _counts())


def _check_one_commit(store: Store, attempts: list[str]) -> str:
    """Exactly one receipt, its file verifies; returns the attempt whose rows they are."""
    ledger = Ledger(store, "f")
    (receipt,) = ledger.receipts()
    assert set(receipt.files) <= set(store.list("data"))
    rows = ledger.read_pairs(receipt)
    (author,) = [one for one in attempts if rows.equals(_rows(one))]
    return author


def test_a_commit_is_one_file_and_one_receipt(store_uri: str) -> None:
    store = open_store(store_uri)
    ledger = Ledger(store, "f", versions={"pairloom": "1"})
    assert ledger.receipt("u0", 0) is None
    pairs, dead = _rows("a").slice(0, 2), _rows("a").slice(2)
    commit = ledger.commit("u0", 0, pairs, dead, _counts(2, 1, 4))
    receipt = commit.receipt
    assert commit.is_winner
    assert receipt.data is not None
    assert receipt.dead_letter is not None
    assert store.list() == [
        f"data/round=0/u0-{receipt.data.sha256[:16]}.parquet",
        f"dead_letter/round=0/u0-{receipt.dead_letter.sha256[:16]}.parquet",
        "receipts/u0/0.json",
    ]
    assert ledger.receipt("u0", 0) == receipt
    assert ledger.receipts() == [receipt]
    assert (receipt.num_rows, receipt.num_pairs, receipt.num_error_rows) == (3, 2, 1)
    assert receipt.num_stopped == 4
    assert receipt.error_reasons == {"blank_image": 1}
    assert [one.size_bytes for one in (receipt.data, receipt.dead_letter)] == [
        len(store.read(file)) for file in receipt.files
    ]
    assert receipt.ids_digest == ids_digest(["p2", "p1", "p0"])
    assert receipt.versions == {"pairloom": "1"}
    assert ledger.read_pairs(receipt).equals(pairs)
    assert ledger.read_dead_letters(receipt).equals(dead)
    assert ledger.read_pairs(receipt, ["description"]).column_names == ["description"]


def test_the_second_attempt_gets_the_winners_rows(store_uri: str) -> None:
    store = open_store(store_uri)
    first, second = _commit(store, "a"), _commit(store, "b")
    assert (first.is_winner, second.is_winner) == (True, False)
    assert second.receipt == first.receipt
    assert store.list("data") == first.receipt.files, "the loser removes its own file"
    assert _check_one_commit(store, ["a", "b"]) == "a"


class _NoDeletes(LocalStore):
    """A bucket whose policy forbids it."""

    def delete(self, key: str) -> None:
        raise StoreError(f"{self.uri}: delete {key!r} failed: 403")


def test_a_loser_that_may_not_delete_goes_on_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = _NoDeletes(str(tmp_path))
    winner = _commit(store, "a")
    assert _commit(store, "b").receipt == winner.receipt
    assert len(store.list("data")) == 2
    assert "an orphan stays" in caplog.text
    ledger = Ledger(store, "f")
    assert ledger.remove_orphans(ledger.receipts()) == []


def test_losers_with_equal_rows_do_not_trip_over_each_other(tmp_path: Path) -> None:
    class Vanishing(LocalStore):
        """The first loser removes the file between this one's put and its look at it."""

        def read(self, key: str) -> bytes:
            if removed.pop(key, False):
                self.delete(key)
            return super().read(key)

    store = _NoDeletes(str(tmp_path))
    winner, _ = _commit(store, "a"), _commit(store, "b")
    (orphan,) = {*store.list("data")} - {*winner.receipt.files}
    removed = {orphan: True}
    assert _commit(Vanishing(str(tmp_path)), "b").receipt == winner.receipt
    assert not removed
    assert store.list("data") == winner.receipt.files


def test_orphans_of_crashes_are_removed_and_nothing_else(store_uri: str) -> None:
    store = open_store(store_uri)
    ledger = Ledger(store, "f")
    assert ledger.remove_orphans(ledger.receipts()) == []
    for unit_id in ("u0", "u1"):
        with contextlib.suppress(_CrashError):
            _commit(CrashingStore(store, 0, is_after=True), "a", unit_id)
        _commit(store, "b", unit_id)
    store.put("data/README.md", b"not ours")
    orphans = {*store.list("data")} - {
        "data/README.md",
        *(file for r in ledger.receipts() for file in r.files),
    }
    assert set(ledger.remove_orphans(ledger.receipts())) == orphans
    assert len(orphans) == 2
    assert len(store.list("data")) == 3
    assert [ledger.read_pairs(one).num_rows for one in ledger.receipts()] == [3, 3]
    assert ledger.remove_orphans(ledger.receipts()) == []


def test_receipts_that_were_read_too_early_cost_no_committed_file(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    receipt = _commit(store, "a").receipt
    assert Ledger(store, "f").remove_orphans([]) == []
    assert Ledger(store, "f").read_pairs(receipt).num_rows == 3


def test_a_file_whose_commit_is_under_way_elsewhere_is_no_orphan(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    ledger = Ledger(store, "f")
    _commit(store, "a")
    # A replay that this driver has never heard of, between its two writes.
    with contextlib.suppress(_CrashError):
        _commit(CrashingStore(store, 0, is_after=True), "a", "u0.replay1r0")
    assert ledger.remove_orphans(ledger.receipts()) == []
    receipt = _commit(store, "a", "u0.replay1r0").receipt
    assert ledger.read_pairs(receipt).num_rows == 3


@pytest.mark.parametrize("name", ["u0 copy", ".u0", "u0/deeper", "u" * 200])
def test_a_folder_that_is_no_unit_s_does_not_stop_a_resume(tmp_path: Path, name: str) -> None:
    store = LocalStore(str(tmp_path))
    ledger = Ledger(store, "f")
    _commit(store, "a")
    store.put(f"receipts/{name}/0.json", store.read("receipts/u0/0.json"))
    assert ledger.committed() == {("u0", 0)}
    assert len(ledger.receipts()) == 1
    assert ledger.remove_orphans(ledger.receipts()) == []


def test_the_same_rows_again_make_no_second_file(store_uri: str) -> None:
    store = open_store(store_uri)
    assert _commit(store, "a").receipt == _commit(store, "a").receipt
    assert len(store.list("data")) == 1


def test_one_of_eight_racing_threads_commits(store_uri: str) -> None:
    store, attempts = open_store(store_uri), [f"attempt {number}" for number in range(8)]
    with ThreadPoolExecutor(8) as racers:
        commits = list(racers.map(lambda attempt: _commit(store, attempt), attempts))
    (winner,) = [n for n, commit in enumerate(commits) if commit.is_winner]
    assert all(commit.receipt == commits[winner].receipt for commit in commits)
    assert _check_one_commit(store, attempts) == attempts[winner]


def _race(uri: str, attempt: str) -> list[Commit]:
    return [_commit(open_store(uri), attempt, "u0", turn) for turn in range(5)]


def test_one_of_four_racing_processes_commits(tmp_path: Path) -> None:
    attempts = [f"attempt {number}" for number in range(4)]
    with get_context("spawn").Pool(4) as racers:
        told = racers.starmap(_race, [(str(tmp_path), attempt) for attempt in attempts])
        racers.close()
        racers.join()
    ledger = Ledger(open_store(str(tmp_path)), "f")
    for turn in range(5):
        (winner,) = [number for number in range(4) if told[number][turn].is_winner]
        receipts = [one[turn].receipt for one in told]
        assert receipts == [receipts[0]] * 4
        assert ledger.read_pairs(receipts[0]).equals(_rows(attempts[winner]))
    assert ledger.next_rounds(["u0", "u1"]) == {"u0": 5, "u1": 0}


class _CrashError(Exception):
    """The process is gone."""


class CrashingStore(Store):
    """Counts the calls and dies before or after the one numbered `crash_at`."""

    def __init__(self, inner: Store, crash_at: int, *, is_after: bool) -> None:
        self.uri = inner.uri
        self._inner = inner
        self._calls = itertools.count()
        self._crash_at = crash_at
        self._is_after = is_after

    def _call(self, verb: str, *args: Any) -> Any:
        is_last = next(self._calls) == self._crash_at
        if is_last and not self._is_after:
            raise _CrashError
        result = getattr(self._inner, verb)(*args)
        if is_last:
            raise _CrashError
        return result

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._call("put_if_absent", key, data)

    def put(self, key: str, data: bytes) -> None:
        self._call("put", key, data)

    def read(self, key: str) -> bytes:
        return self._call("read", key)

    def list(self, prefix: str = "") -> builtins.list[str]:
        return self._call("list", prefix)

    def exists(self, key: str) -> bool:
        return self._call("exists", key)

    def delete(self, key: str) -> None:
        self._call("delete", key)


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("is_redone_alike", [False, True])
@pytest.mark.parametrize("crash_at", range(4))
def test_a_crash_at_any_store_call_leaves_one_commit_after_a_retry(
    tmp_path: Path, crash_at: int, is_after: bool, is_redone_alike: bool
) -> None:
    store = LocalStore(str(tmp_path))
    with contextlib.suppress(_CrashError):
        _commit(CrashingStore(store, crash_at, is_after=is_after), "a")
    is_committed = store.exists("receipts/u0/0.json")
    again = _commit(store, "a" if is_redone_alike else "b")
    assert again.is_winner != is_committed
    author = _check_one_commit(store, ["a", "b"])
    assert author == ("a" if is_committed or is_redone_alike else "b")


@pytest.mark.parametrize("crash_at", range(4))
def test_a_crash_of_the_loser_changes_nothing(tmp_path: Path, crash_at: int) -> None:
    store = LocalStore(str(tmp_path))
    _commit(store, "a")
    for is_after in (False, True):
        with contextlib.suppress(_CrashError):
            _commit(CrashingStore(store, crash_at, is_after=is_after), "b")
    assert _check_one_commit(store, ["a", "b"]) == "a"


def test_a_lost_reply_on_each_put_still_makes_this_attempt_the_winner(
    fault_proxy: FaultProxy, moto_s3: S3Server
) -> None:
    store = open_store(moto_s3.uri, retry_timeout_s=10)
    faults = ["lose", None, "lose", None]
    fault_proxy.fault = lambda method, path: faults.pop(0) if method == "PUT" and faults else None
    assert _commit(store, "a").is_winner
    assert not _commit(store, "b").is_winner
    assert _check_one_commit(store, ["a", "b"]) == "a"
    assert fault_proxy.num_faults == 2


def test_a_put_repeated_behind_our_back_is_known_by_its_receipt(tmp_path: Path) -> None:
    class Repeating(LocalStore):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            super().put_if_absent(key, data)
            return super().put_if_absent(key, data)

    assert _commit(Repeating(str(tmp_path)), "a").is_winner
    assert not _commit(LocalStore(str(tmp_path)), "b").is_winner


def test_a_store_that_contradicts_itself_ends_the_commit(tmp_path: Path) -> None:
    class Contradicting(LocalStore):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            return False

    with pytest.raises(StoreError, match="was there and was gone"):
        _commit(Contradicting(str(tmp_path)), "a")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["u0", "u1"]),
            st.sampled_from(["a", "b", "c"]),
            st.one_of(st.none(), st.tuples(st.integers(0, 4), st.booleans())),
        ),
        max_size=12,
    )
)
def test_any_history_of_attempts_and_crashes_keeps_the_invariants(
    history: list[tuple[str, str, tuple[int, bool] | None]],
) -> None:
    """Each attempt goes on where a resume would; receipts never change once they are there."""
    memory = Path("/dev/shm")  # a thousand fsyncs take a minute on a disk
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        store = LocalStore(folder)
        ledger, seen = Ledger(store, "f"), dict[tuple[str, int], Receipt]()
        for unit_id, attempt, crash in history:
            round_index = ledger.next_rounds(["u0", "u1"])[unit_id]
            used = CrashingStore(store, crash[0], is_after=crash[1]) if crash else store
            with contextlib.suppress(_CrashError):
                _commit(used, attempt, unit_id, round_index)
            receipts = {(one.unit_id, one.round_index): one for one in ledger.receipts()}
            assert seen.items() <= receipts.items()
            assert len(receipts) - len(seen) <= 1
            seen = receipts
        for receipt in seen.values():
            assert ledger.read_pairs(receipt).num_rows == receipt.num_rows == 3
        rounds = ledger.next_rounds(["u0", "u1"])
        assert sum(rounds.values()) == len(seen)
        files = {file for receipt in seen.values() for file in receipt.files}
        assert files <= set(store.list("data"))


def test_a_unit_without_rows_is_a_receipt_without_a_file(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    ledger = Ledger(store, "f")
    receipt = ledger.commit("u0", 0, NO_ROWS, NO_ROWS, _counts(0, 0, 3)).receipt
    assert (receipt.data, receipt.dead_letter, receipt.files) == (None, None, [])
    assert store.list("data") == []
    assert ledger.receipts() == [receipt]
    assert ledger.read_pairs(receipt, ["description"]).to_pylist() == []
    assert ledger.next_rounds(["u0"]) == {"u0": 1}


def test_rows_that_were_altered_or_removed_are_a_commit_error(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    ledger = Ledger(store, "f")
    receipt = _commit(store, "a").receipt
    (file,) = receipt.files
    data = bytearray(store.read(file))
    data[len(data) // 2] ^= 1
    store.put(file, bytes(data))
    with pytest.raises(CommitError, match=r"u0 round 0.*sha256"):
        ledger.read_pairs(receipt)
    store.delete(file)
    with pytest.raises(CommitError, match="gone"):
        ledger.read_pairs(receipt)


def test_no_receipt_is_written_over_a_file_that_is_not_what_its_name_says(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    (key,) = _commit(store, "a").receipt.files
    store.put(key, b"something else")
    store.delete("receipts/u0/0.json")
    with pytest.raises(CommitError, match="does not hold"):
        _commit(store, "a")
    assert store.list("receipts") == []


def test_a_receipt_of_another_config_or_place_is_a_commit_error(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    _commit(store, "a")
    with pytest.raises(CommitError, match="under config f, this run has g"):
        Ledger(store, "g").receipts()
    with pytest.raises(CommitError, match="under config f"):
        Ledger(store, "g").commit("u0", 0, _rows("b"), NO_ROWS, _counts())
    store.put("receipts/u0/1.json", store.read("receipts/u0/0.json"))
    with pytest.raises(CommitError, match="another unit or round"):
        Ledger(store, "f").receipt("u0", 1)
    store.put("receipts/u0/0.json", b"{")
    with pytest.raises(CommitError, match=r"u0/0\.json.*not JSON"):
        Ledger(store, "f").receipts()


def test_rows_that_cannot_be_a_commit_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    store = open_store(str(tmp_path))
    ledger, table = Ledger(store, "f"), _rows("a")
    twice = pa.concat_tables([table, table])
    for error, arguments in [
        ("do not add up|are not", ("u0", 0, table, NO_ROWS, _counts(2))),
        ("are not", ("u0", 0, table.slice(1), table.slice(0, 1), _counts(3))),
        ("more than once", ("u0", 0, twice, NO_ROWS, _counts(6))),
        ("more than once", ("u0", 0, table, table.slice(0, 1), _counts(3, 1))),
        ("non-empty", ("u0", 0, pa.table({"pair_id": ["a", None]}), NO_ROWS, _counts(2))),
        ("unit_id", ("../u0", 0, table, NO_ROWS, _counts())),
        ("round_index", ("u0", -1, table, NO_ROWS, _counts())),
    ]:
        with pytest.raises(ValueError, match=error):
            ledger.commit(*arguments)
    unexplained = Counts(num_pairs=2, num_error_rows=1, num_stopped=0)
    with pytest.raises(ValueError, match=r"reasons \{\} do not add up to 1 error rows"):
        ledger.commit("u0", 0, table.slice(1), table.slice(0, 1), unexplained)
    replaces = Counts(num_pairs=3, num_error_rows=0, num_stopped=0, num_replaced_errors=1)
    with pytest.raises(ValueError, match=r"reasons \{\} do not add up to 1 error rows"):
        ledger.commit("u0", 0, table, NO_ROWS, replaces)
    with pytest.raises(ValueError, match="num_stopped"):
        _counts(num_stopped=-1)
    assert store.list() == []


SHARD = ShardRef(file="data/round=0/u0-ab.parquet", sha256="ab", size_bytes=10, num_rows=1)


def _receipt(**changes: Any) -> Receipt:
    receipt = Receipt(
        unit_id="u0",
        round_index=0,
        data=SHARD,
        dead_letter=dataclasses.replace(SHARD, file="dead_letter/round=0/u0-ab.parquet"),
        num_pairs=1,
        num_error_rows=1,
        num_stopped=0,
        num_replaced_errors=0,
        num_replaced_stopped=0,
        error_reasons={"blank_image": 1},
        replaced_reasons={},
        ids_digest="cd",
        fingerprint="f",
        versions={"pairloom": "0.1.0"},
        committed_at="2026-11-21T10:00:00+00:00",
    )
    return dataclasses.replace(receipt, **changes)


def test_a_receipt_reads_back_equal() -> None:
    for receipt in (_receipt(), _receipt(data=None, num_pairs=0)):
        assert Receipt.from_json(receipt.to_json()) == receipt
        assert json.loads(receipt.to_json())["format"] == 2


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"extra": 1},
        {"num_pairs": -1},
        {"num_pairs": True},
        {"num_pairs": "1"},
        {"num_pairs": 0},
        {"num_replaced_errors": 1},
        {"data": None},
        {"data": 3},
        {"data": {}},
        {"data": {**dataclasses.asdict(SHARD), "num_rows": 2}},
        {"data": {**dataclasses.asdict(SHARD), "file": None}},
        {"dead_letter": None},
        {"unit_id": None},
        {"versions": {"pairloom": 1}},
        {"versions": []},
        {"error_reasons": []},
        {"error_reasons": {}},
        {"error_reasons": {"blank_image": 2}},
        {"error_reasons": {"blank_image": "1"}},
        {"error_reasons": {"": 1}},
        {"error_reasons": {"blank_image": 1, "engine": 0}},
    ],
)
def test_a_receipt_that_is_not_exactly_one_is_refused(change: dict[str, Any]) -> None:
    record = json.loads(_receipt().to_json())
    with pytest.raises(ValueError, match="receipt"):
        Receipt.from_json(json.dumps({**record, **change}).encode())


def test_a_receipt_needs_every_field() -> None:
    record = json.loads(_receipt().to_json())
    for name in record:
        with pytest.raises(ValueError, match="receipt"):
            Receipt.from_json(json.dumps({k: v for k, v in record.items() if k != name}).encode())
    for data in (b"[]", b"\xff", b""):
        with pytest.raises(ValueError, match="JSON"):
            Receipt.from_json(data)


def test_next_rounds_come_from_keys_alone_and_fast() -> None:
    committed = [(f"u{unit}", turn) for unit in range(10_000) for turn in range(3)]
    units = [f"u{unit}" for unit in range(10_000)] + ["new"]
    started = time.monotonic()
    plan = plan_next_rounds(committed, units)
    assert time.monotonic() - started < 1
    assert plan["u9999"] == 3
    assert plan["new"] == 0
    assert list(plan) == units


def test_a_gap_between_rounds_is_a_commit_error(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for turn in range(12):
        _commit(store, "a", "u0", turn)
    ledger = Ledger(store, "f")
    assert ledger.next_rounds(["u0"]) == {"u0": 12}
    store.delete("receipts/u0/3.json")
    with pytest.raises(CommitError, match=r"u0 .*round 11 .*\[3\]"):
        ledger.next_rounds(["u0"])
    assert ledger.next_rounds(["u1"]) == {"u1": 0}, "a unit that is not asked for is not judged"


def test_a_gap_that_was_only_a_torn_listing_is_read_again(tmp_path: Path) -> None:
    class Torn(LocalStore):
        listings = iter([["receipts/u0/1.json"], ["receipts/u0/0.json", "receipts/u0/1.json"]])

        def list(self, prefix: str = "") -> builtins.list[str]:
            return next(self.listings)

    assert Ledger(Torn(str(tmp_path)), "f").next_rounds(["u0"]) == {"u0": 2}


def test_strangers_under_receipts_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(str(tmp_path))
    _commit(store, "a")
    store.put("receipts/.DS_Store", b"")
    store.put("receipts/u0/00.json", b"")
    assert len(Ledger(store, "f").receipts()) == 1
    assert "00.json is no receipt" in caplog.text


def test_a_ledger_pickles_into_a_stage(tmp_path: Path) -> None:
    ledger = Ledger(open_store(str(tmp_path)), "f", versions={"model": "x"})
    again: Ledger = pickle.loads(pickle.dumps(ledger))
    assert again.commit("u0", 0, _rows("a"), NO_ROWS, _counts()).receipt.versions == {"model": "x"}
    assert len(ledger.receipts()) == 1


CONFIG = {"num_rounds": 3, "draw": {"steps": 4, "model": "tiny"}, "seeds": ["a", "b"]}


def test_fingerprints_know_content_not_key_order() -> None:
    assert fingerprint(CONFIG) == fingerprint(dict(reversed(CONFIG.items())))
    assert fingerprint(CONFIG) != fingerprint({**CONFIG, "num_rounds": 4})
    assert len(fingerprint(CONFIG)) == 16
    with pytest.raises(ValueError, match="JSON compliant"):
        fingerprint({"guidance": float("nan")})


def test_the_same_config_opens_a_run_again(store_uri: str) -> None:
    store = open_store(store_uri)
    ours = open_run(store, {"num_replicas": 1}, CONFIG)
    assert open_run(store, {"num_replicas": 8}, CONFIG) == ours == fingerprint(CONFIG)
    run = read_run(store)
    assert (run["fingerprint"], run["fingerprint_of"]) == (ours, CONFIG)
    assert run["record"] == {"num_replicas": 1}


def test_another_config_is_refused_with_every_difference(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    open_run(store, {}, CONFIG)
    other = {"num_rounds": 5, "draw": {"steps": 4, "model": "big"}, "mode": "loop"}
    with pytest.raises(RunMismatchError) as refusal:
        open_run(store, {}, other)
    for line in (
        "num_rounds: 3 -> 5",
        'draw.model: "tiny" -> "big"',
        'seeds: ["a", "b"] -> absent',
        'mode: absent -> "loop"',
    ):
        assert line in str(refusal.value)
    assert "steps" not in str(refusal.value)
    assert str(tmp_path) in str(refusal.value)


def test_two_configs_that_race_for_one_prefix_do_not_both_get_it(tmp_path: Path) -> None:
    def claim(number: int) -> bool:
        try:
            open_run(open_store(str(tmp_path)), {}, {"num_rounds": number})
        except RunMismatchError:
            return False
        return True

    with ThreadPoolExecutor(8) as racers:
        claimed = list(racers.map(claim, range(8)))
    assert claimed.count(True) == 1
    assert read_run(open_store(str(tmp_path)))["fingerprint_of"] == {
        "num_rounds": claimed.index(True)
    }


def test_a_prefix_without_a_readable_run_says_so(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with pytest.raises(ValueError, match="holds no run"):
        read_run(store)
    for data in (b"{", b'{"format": 9}', b'{"format": 1}'):
        store.put("run.json", data)
        with pytest.raises(RunMismatchError, match=r"run\.json"):
            open_run(store, {}, CONFIG)


def test_a_store_that_fails_lets_its_error_through(
    fault_proxy: FaultProxy, moto_s3: S3Server
) -> None:
    store = open_store(moto_s3.uri, retry_timeout_s=0.5)
    fault_proxy.fault = lambda method, path: "error"
    with pytest.raises(StoreError, match="503"):
        _commit(store, "a")
    fault_proxy.fault = lambda method, path: None
    assert _commit(store, "a").is_winner
