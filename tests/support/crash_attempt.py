"""One attempt at a small run, in a process of its own that dies at a chosen store call.

Two units of two rounds through the calls that a driver makes: claim the prefix, put the seeds,
list what is left, commit, remove orphans. Processes are forked from a server that has imported
what they need, so that each takes hundredths of a second and no state of the test's.
"""

import builtins
import os
import signal
import threading
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from typing import Any

import pyarrow as pa
from grow import chain_ids, grow_unit

from cluster.errors import StoreError
from cluster.ledger import Ledger
from cluster.run_record import open_run
from cluster.shards import encode_shard
from cluster.storage import Store, open_store

UNITS, NUM_ROUNDS = ("u0", "u1"), 2
SEEDS_KEY = "seeds/seeds.parquet"
CONFIG = {"num_rounds": NUM_ROUNDS}
MODES = ("before", "after", "lost reply")


class CrashingStore(Store):
    """Counts the calls; at the one numbered `crash_at` the process dies.

    "before" the call, "after" it, or by the error that is all that came back of it.
    """

    def __init__(self, inner: Store, crash_at: int | None, mode: str) -> None:
        self.uri = inner.uri
        self.calls: builtins.list[str] = []
        self._inner = inner
        self._crash_at = crash_at
        self._mode = mode
        self._lock = threading.Lock()

    def _call(self, verb: str, key: str, *args: Any) -> Any:
        with self._lock:
            is_last = len(self.calls) == self._crash_at
            self.calls.append(f"{verb} {key}")
        if is_last and self._mode == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = getattr(self._inner, verb)(key, *args)
        if is_last and self._mode == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        if is_last:
            raise StoreError(f"{verb} {key!r}: the reply was lost")
        return answer

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


def run_attempt(store: Store, name: str, *, is_zombie: bool = False) -> None:
    """The whole run, or what is left of it; a zombie planned before others committed."""
    ledger = Ledger(store, open_run(store, {}, CONFIG), versions={"attempt": name})
    seeds = pa.table({"chain_id": [chain for unit in UNITS for chain in chain_ids(unit)]})
    if not store.put_if_absent(SEEDS_KEY, encode_shard(seeds).data):
        store.read(SEEDS_KEY)
    plan = dict.fromkeys(UNITS, 0) if is_zombie else ledger.next_rounds(UNITS)
    for unit_id, first_round in plan.items():
        grow_unit(ledger, unit_id, NUM_ROUNDS, name, first_round=first_round)
    ledger.remove_orphans(ledger.receipts())


def crash_attempt(
    uri: str, env: Mapping[str, str], crash_at: int | None, mode: str, is_zombie: bool
) -> None:
    """What the child process does."""
    os.environ.update(env)
    store = CrashingStore(open_store(uri), crash_at, mode)
    run_attempt(store, "crashing", is_zombie=is_zombie)


def start_attempt(
    uri: str,
    *,
    env: Mapping[str, str] | None = None,
    crash_at: int | None = None,
    mode: str = "",
    is_zombie: bool = False,
) -> ForkServerProcess:
    context = get_context("forkserver")
    context.set_forkserver_preload(["crash_attempt"])
    child = context.Process(
        target=crash_attempt, args=(uri, dict(env or {}), crash_at, mode, is_zombie)
    )
    child.start()
    return child
