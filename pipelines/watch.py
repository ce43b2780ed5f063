"""Looks after a loop that runs, from a thread of the driver: what it commits, whether it moves,
whether it fails too often.

Every few seconds the receipts that are new are folded into the Delta log and counted, and
Prometheus hears of them and of the pools (`cluster/metrics.py`), the budget of the GPUs that they
hold. A run whose rows fail too often is asked to end, with the commonest reasons, and so is one
whose budget is spent; one that commits nothing for long is told about, with what each pool waits
for.

Limits: sees commits and pools, not stages. A look is one listing of all receipts; on a store where
that is slow it looks less often. While the store is away it sees nothing, and says so.
"""

import logging
import threading
from collections import Counter
from collections.abc import Collection, Sequence
from time import monotonic

from actors.reasons import Reason
from actors.records import PAIR_SCHEMA
from cluster.errors import BudgetSpentError, ErrorShareError, PairloomError, StoreError
from cluster.ledger import Ledger
from cluster.metrics import HOLDING, Exporter
from cluster.pool import Pool, PoolStats
from cluster.receipts import Receipt
from cluster.snapshot import Snapshot
from cluster.storage import open_store
from pipelines.attempt import Attempt
from pipelines.budget import Meter
from pipelines.leaving import Stop
from pipelines.limits import is_too_much
from pipelines.pull import stats_of

logger = logging.getLogger(__name__)

TICK_S = 0.25
LOOK_INTERVAL_S = 5.0
# Ray forgets a gauge that was not set for two of its reports, which come every 10 s.
EXPORT_INTERVAL_S = 2.0
WAITING_INTERVAL_S = 30.0
# A look may take this share of the thread's time.
LOOK_SHARE = 0.1
# A look that fails is made again: it need not outlast an outage, as a commit must.
RETRY_TIMEOUT_S = 5.0
# For the last look. Delta has patience of its own, and an attempt that ends has none.
LAST_LOOK_S = 20.0


class Watcher:
    """A thread for the length of a `with` block; `committed` is what was there before it."""

    def __init__(
        self,
        attempt: Attempt,
        pools: tuple[Pool, ...],
        committed: Collection[tuple[str, int]],
        stop: Stop,
        meter: Meter,
    ) -> None:
        store = open_store(attempt.config.output, retry_timeout_s=RETRY_TIMEOUT_S)
        self._ledger = Ledger(store, attempt.ledger.fingerprint)
        self._snapshot = Snapshot(store.uri, PAIR_SCHEMA)  # one thread at a time: not the attempt's
        self._pools = pools
        self._exporter = Exporter(
            [pool.name for pool in pools], list(Reason), attempt.config.plan.gpu_hour_price
        )
        self._limits = attempt.config.limits
        self._meter = meter
        self._before = committed
        self._folded: set[tuple[str, int]] | None = None
        self._stop = stop
        self._num_judged = 0
        self._reasons = Counter[str]()
        self._is_over = threading.Event()
        self._is_left = False
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        # Somebody who leaves at once does not wait for a store; the next attempt folds the rest.
        self._is_left = not isinstance(error, PairloomError | None)
        self._is_over.set()
        if not self._is_left:
            self._thread.join(LAST_LOOK_S)

    def _watch(self) -> None:
        try:
            self._look_and_wait()
            if not self._is_left:
                self._look()  # what was committed since: readers see it although the run failed
                self._export()
                self._meter.save(monotonic(), is_over=True)
        except Exception as error:  # in a thread nobody would hear of it
            logger.exception("the watcher failed")
            self._stop.ask(PairloomError(f"the watcher failed: {type(error).__name__}: {error}"))

    def _look_and_wait(self) -> None:
        look_at = export_at = waiting_at = monotonic()
        progress_at = monotonic()
        while not self._is_over.wait(TICK_S):
            started = monotonic()
            if started >= look_at:
                progress_at = started if self._look() else progress_at
                look_at = monotonic() + max(
                    LOOK_INTERVAL_S, (monotonic() - started) * (1 / LOOK_SHARE - 1)
                )
            if started >= export_at:
                self._export()
                self._check_budget()  # not at the end: a run that is done has not been stopped
                export_at = started + EXPORT_INTERVAL_S
            if started - waiting_at >= WAITING_INTERVAL_S:
                waiting_at = started
                self._say_what_waits(started - progress_at)

    def _look(self) -> bool:
        """Folds and counts what is new; whether there was anything."""
        try:
            committed = self._ledger.committed()  # first: its patience is the shorter one
            if self._folded is None:
                self._folded = self._snapshot.folded()
            new = committed - self._folded
            receipts = self._ledger.receipts(new)
            if new:
                self._snapshot.fold(receipts)
        except StoreError as error:
            logger.warning("the ledger cannot be read for now: %s", error)
            return False
        except PairloomError as error:
            self._stop.ask(error)
            return False
        self._folded |= new
        own = [r for r in receipts if (r.unit_id, r.round_index) not in self._before]
        for one in own:
            self._exporter.count_commit(one.num_pairs, one.num_stopped, one.error_reasons)
        self._judge(own)
        return bool(new)

    def _export(self) -> None:
        """Tells Prometheus and the meter what the pools do."""
        for pool in self._pools:
            stats = stats_of(pool)
            if stats is not None:
                now_s = monotonic()
                self._exporter.see_pool(pool.name, stats, pool.config.num_gpus, now_s)
                num_held = sum(stats.replica_states.get(state, 0) for state in HOLDING)
                self._meter.see(pool.name, num_held * pool.config.num_gpus, now_s)
        self._meter.save(monotonic())

    def _check_budget(self) -> None:
        try:
            self._meter.check(EXPORT_INTERVAL_S)
        except BudgetSpentError as error:
            self._stop.ask(error)

    def _judge(self, receipts: Sequence[Receipt]) -> None:
        for receipt in receipts:
            reasons = {
                reason: number
                for reason, number in receipt.error_reasons.items()
                if not reason.startswith("seed_")
            }
            self._reasons.update(reasons)
            self._num_judged += receipt.num_pairs + sum(reasons.values())
        if is_too_much(self._reasons.total(), self._num_judged, self._limits):
            limit = self._limits.max_error_share
            self._stop.ask(ErrorShareError(self._reasons, self._num_judged, limit))

    def _say_what_waits(self, without_commit_s: float) -> None:
        is_late = without_commit_s >= self._limits.no_progress_s
        if is_late:
            logger.warning("nothing was committed for %.0f s", without_commit_s)
        for pool in self._pools:
            stats = stats_of(pool)
            if stats is not None and (stats.waiting or is_late):
                logger.info("pool %s: %s", pool.name, describe(stats) if is_late else stats.waiting)


def describe(stats: PoolStats) -> str:
    """One pool in a line, for somebody who asks why nothing moves."""
    parts = [
        f"{stats.num_replicas_ready} replicas ready",
        f"{stats.in_flight} batches at work",
        f"{stats.queue_length} waiting",
        stats.waiting,
        stats.last_failure and f"last failure: {stats.last_failure}",
    ]
    return "; ".join(part for part in parts if part)
