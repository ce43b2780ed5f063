"""SIGKILL at every store call of a run's commit path, then a resume, then an independent look."""

import io
import json
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commit_checker import check_run, folder_objects
from crash_attempt import (
    MODES,
    NUM_ROUNDS,
    SEEDS_KEY,
    UNITS,
    CrashingStore,
    run_attempt,
    start_attempt,
)
from fault_proxy import FaultProxy
from grow import grow_round
from s3_servers import S3Server

from cluster.ledger import Ledger
from cluster.run_record import open_run
from cluster.storage import LocalStore, open_store

# How many calls each kind of attempt makes; a test below fails when there are more.
NUM_CALLS = {"fresh": 20, "resume": 25, "zombie": 35}
S3_MODES = ("before", "instead of the reply")


def _share(number: int, mode: int, every: int) -> list[pytest.MarkDecorator]:
    """One of `every` points runs each time, the modes in turn; the others in `make faults`."""
    return [] if (number + mode) % every == 0 else [pytest.mark.faults]


POINTS = [
    pytest.param(kind, number, MODES[mode], marks=_share(number, mode, 4))
    for kind, num_calls in NUM_CALLS.items()
    for number in range(num_calls)
    for mode in range(len(MODES))
]
# On S3 each request is a point.
S3_POINTS = [
    pytest.param(number, S3_MODES[mode], marks=_share(number, mode, 5))
    for number in range(NUM_CALLS["fresh"])
    for mode in range(len(S3_MODES))
]


def _prepare(kind: str, folder: Path) -> None:
    store = LocalStore(str(folder))
    if kind == "zombie":
        run_attempt(store, "first")
    if kind == "resume":
        # One round of u0 is committed; of u1, and of u0 by a loser, only orphans are there.
        fingerprint = open_run(store, {}, {"num_rounds": NUM_ROUNDS})
        ledger = Ledger(store, fingerprint)
        for unit_id in UNITS:
            ledger.commit(unit_id, 0, *grow_round(unit_id, 0, None, "first"))
        store.delete("receipts/u1/0.json")
        (orphan,) = [key for key in store.list("data") if "u1-" in key]
        store.put(orphan.replace("u1-", "u0-"), store.read(orphan))


def _check(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> None:
    assert check_run(after, UNITS, NUM_ROUNDS) == [], "orphans are removed at the end"
    kept = {key: data for key, data in before.items() if key.partition("/")[0] == "receipts"}
    assert kept.items() <= after.items(), "what was committed stays as it was"
    assert json.loads(after["run.json"])["fingerprint_of"] == {"num_rounds": NUM_ROUNDS}
    assert pq.read_table(io.BytesIO(after[SEEDS_KEY])).num_rows == 8
    assert {key.partition("/")[0] for key in after} == {
        "run.json",
        "seeds",
        "data",
        "dead_letter",
        "receipts",
    }


@pytest.mark.parametrize("kind", NUM_CALLS)
def test_the_points_below_are_all_there_are(tmp_path: Path, kind: str) -> None:
    _prepare(kind, tmp_path)
    store = CrashingStore(LocalStore(str(tmp_path)), None, "")
    run_attempt(store, "whole", is_zombie=kind == "zombie")
    assert len(store.calls) == NUM_CALLS[kind], store.calls
    verbs = {call.split()[0] for call in store.calls}
    assert verbs >= {"put_if_absent", "list", "read"}
    assert ("delete" in verbs) == (kind != "fresh")
    assert len(POINTS) + len(S3_POINTS) >= 36


@pytest.mark.parametrize(("kind", "number", "mode"), POINTS)
def test_a_run_killed_at_any_store_call_is_finished_by_the_next(
    tmp_path: Path, kind: str, number: int, mode: str
) -> None:
    _prepare(kind, tmp_path)
    child = start_attempt(str(tmp_path), crash_at=number, mode=mode, is_zombie=kind == "zombie")
    child.join(60)
    if mode == "lost reply":
        # Of an orphan that may not have been deleted the run only says so.
        assert child.exitcode in (0, 1)
    else:
        assert child.exitcode == -signal.SIGKILL
    before = folder_objects(tmp_path)
    run_attempt(open_store(str(tmp_path)), "next")
    _check(before, folder_objects(tmp_path))


@pytest.mark.parametrize(("number", "mode"), S3_POINTS)
def test_a_run_killed_around_any_request_to_s3_is_finished_by_the_next(
    fault_proxy: FaultProxy, moto_s3: S3Server, number: int, mode: str
) -> None:
    """The proxy kills the client: its request is dropped, or takes effect after its death."""
    requests = iter(range(10_000))
    is_started = threading.Event()

    def kill(method: str, path: str) -> str | None:
        if next(requests) != number:
            return None
        assert is_started.wait(30)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        return "reset" if mode == "before" else "lose"

    fault_proxy.fault = kill
    env = {**moto_s3.env, "AWS_ENDPOINT_URL": fault_proxy.endpoint}
    child = start_attempt(moto_s3.uri, env=env)
    is_started.set()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    before = moto_s3.objects()
    run_attempt(open_store(moto_s3.uri), "next")
    _check(before, moto_s3.objects())
