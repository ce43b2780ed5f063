"""Units to commit and processes that fold them, for tests of what readers see meanwhile.

Processes are forked from a server that has imported what they need and used none of it: a fork of
a process in which delta-rs has run would inherit its locks without its threads.
"""

import json
import os
import threading
import time
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess

import pyarrow as pa

from cluster.ledger import Ledger
from cluster.receipts import Counts, Receipt
from cluster.snapshot import Snapshot
from cluster.storage import Store, open_store

UNIT_SIZE = 8
MAX_UNITS = 60  # of one committer: readers open every file in each poll
SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("unit_id", pa.string()),
        ("round_index", pa.int32()),
        ("image", pa.binary()),
    ]
)
_servers = get_context("forkserver")
_servers.set_forkserver_preload(["folding", "crash_attempt"])


def image_of(pair_id: str) -> bytes:
    """What a reader must find beside this id."""
    return pair_id.encode() * 50


def commit_unit(ledger: Ledger, unit_id: str, round_index: int = 0) -> Receipt:
    """A unit of `UNIT_SIZE` pairs, the same whoever commits it."""
    rows = [
        {
            "pair_id": f"{unit_id}-{row}-{round_index:03d}",
            "unit_id": unit_id,
            "round_index": round_index,
            "image": image_of(f"{unit_id}-{row}-{round_index:03d}"),
        }
        for row in range(UNIT_SIZE)
    ]
    pairs = pa.Table.from_pylist(rows, schema=SCHEMA)
    counts = Counts(num_pairs=UNIT_SIZE, num_error_rows=0, num_stopped=0)
    return ledger.commit(unit_id, round_index, pairs, SCHEMA.empty_table(), counts).receipt


def keep_folding(ledger: Ledger, snapshot: Snapshot, stop: threading.Event) -> None:
    """Folds what is new until `stop` is set, as the watcher of a run does, but without rest."""
    folded = snapshot.folded()
    while not stop.wait(0.02):
        receipts = ledger.receipts(ledger.committed() - folded)
        snapshot.fold(receipts)
        folded |= {(one.unit_id, one.round_index) for one in receipts}


def start_committer(uri: str, name: str, pause_s: float) -> ForkServerProcess:
    """A process that commits `MAX_UNITS` units of two rounds, with a pause after each."""
    return _start(_commit_slowly, uri, name, pause_s)


def start_folder(uri: str, env: Mapping[str, str]) -> ForkServerProcess:
    """A process that folds what is committed, one receipt a version, and then ends."""
    return _start(_fold_one_by_one, uri, dict(env))


def added_paths(store: Store) -> list[str]:
    """The keys of all files that any version of the log ever added, from its JSON alone."""
    versions = [
        store.read(key).decode() for key in store.list("data/_delta_log") if key.endswith(".json")
    ]
    actions = [json.loads(line) for text in versions for line in text.splitlines()]
    return sorted(f"data/{action['add']['path']}" for action in actions if "add" in action)


def _start(target: object, *args: object) -> ForkServerProcess:
    process = _servers.Process(target=target, args=args, daemon=True)
    process.start()
    return process


def _commit_slowly(uri: str, name: str, pause_s: float) -> None:
    ledger = Ledger(open_store(uri), "f")
    for number in range(MAX_UNITS):
        for round_index in range(2):
            commit_unit(ledger, f"{name}{number:05d}", round_index)
            time.sleep(pause_s)


def _fold_one_by_one(uri: str, env: dict[str, str]) -> None:
    os.environ.update(env)
    store = open_store(uri)
    snapshot = Snapshot(store.uri, SCHEMA)
    ledger = Ledger(store, "f")
    for receipt in ledger.receipts(ledger.committed() - snapshot.folded()):
        snapshot.fold([receipt])
