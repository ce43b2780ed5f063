"""Looks after a loop that runs, from a thread of the driver: what it commits, whether it moves,
whether it should end.

Every few seconds the receipts that are new are folded into the Delta log and counted. A run whose
rows fail too often is stopped with the commonest reasons; one that commits nothing for long is told
about, with what each pool waits for. When the attempt is to end, the generator takes no new work,
and after the grace time the pools are closed over what still runs.

Limits: sees commits and pools, not stages. A look is one listing of all receipts; on a store where
that is slow it looks less often.
"""

import logging
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from time import monotonic

from cluster.errors import ErrorShareError, PairloomError, PoolError, StoreError
from cluster.ledger import Ledger
from cluster.pool import Pool, PoolStats
from cluster.receipts import Receipt
from cluster.snapshot import Snapshot
from cluster.telemetry import Board, StageCount
from pipelines.leaving import Stop
from pipelines.limits import LimitsConfig, is_too_much

logger = logging.getLogger(__name__)

TICK_S = 0.25
LOOK_INTERVAL_S = 5.0
WAITING_INTERVAL_S = 30.0
# A look may take this share of the thread's time.
LOOK_SHARE = 0.1
# Nothing runs and nothing waits for so long: no unit is under way any more.
QUIET_S = 1.5


class Watcher:
    """A thread for the length of a `with` block; `committed` is what was there before it."""

    def __init__(
        self,
        ledger: Ledger,
        snapshot: Snapshot,
        generator: Pool,
        captioner: Pool,
        board: Board,
        limits: LimitsConfig,
        committed: Collection[tuple[str, int]],
        stop: Stop,
    ) -> None:
        self._ledger = ledger
        self._snapshot = snapshot
        self._generator = generator
        self._pools = (generator, captioner)
        self._board = board
        self._limits = limits
        self._before = committed
        self._folded: set[tuple[str, int]] | None = None
        self._stop = stop
        self._num_judged = 0
        self._reasons = Counter[str]()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._look()  # what was committed since: readers see it although the run may have failed

    def _watch(self) -> None:
        try:
            self._look_and_wait()
            if self._stop.error is not None and not self._is_over.is_set():
                self._drain()
        except Exception as error:  # in a thread nobody would hear of it
            logger.exception("the watcher failed")
            self._stop.ask(PairloomError(f"the watcher failed: {type(error).__name__}: {error}"))
            self._end()  # or the driver would wait for what nobody looks after

    def _look_and_wait(self) -> None:
        look_at = waiting_at = monotonic()
        progress_at = monotonic()
        while not self._is_over.wait(TICK_S) and self._stop.error is None:
            started = monotonic()
            if started >= look_at:
                progress_at = started if self._look() else progress_at
                look_at = monotonic() + max(
                    LOOK_INTERVAL_S, (monotonic() - started) * (1 / LOOK_SHARE - 1)
                )
            if started - waiting_at >= WAITING_INTERVAL_S:
                waiting_at = started
                self._say_what_waits(started - progress_at)

    def _look(self) -> bool:
        """Folds and counts what is new; whether there was anything."""
        try:
            if self._folded is None:
                self._folded = self._snapshot.folded()
            new = self._ledger.committed() - self._folded
            receipts = self._ledger.receipts(new)
            self._snapshot.fold(receipts)
        except StoreError as error:
            logger.warning("the ledger cannot be read for now: %s", error)
            return False
        except PairloomError as error:
            self._stop.ask(error)
            return False
        self._folded |= new
        self._judge([r for r in receipts if (r.unit_id, r.round_index) not in self._before])
        return bool(new)

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
            stats = _stats(pool)
            if stats is not None and (stats.waiting or is_late):
                logger.info("pool %s: %s", pool.name, describe(stats) if is_late else stats.waiting)

    def _drain(self) -> None:
        """No new draws; waits for what is under way, within the grace time, then ends it."""
        logger.info(
            "no new work; what is under way has %g s to be committed (%s)",
            self._limits.grace_s,
            self._stop.error,
        )
        self._generator.drain()
        deadline = monotonic() + self._limits.grace_s
        busy_at = monotonic()
        while not self._is_over.wait(TICK_S):
            now = monotonic()
            stats = [one for one in map(_stats, self._pools) if one is not None]
            is_recording = num_unrecorded(self._board.snapshot()) > 0
            if is_recording or any(one.in_flight or one.queue_length for one in stats):
                busy_at = now
            if now - busy_at > QUIET_S:
                self._stop.is_quiet.set()
            if now > deadline:
                logger.info("the grace time is over: what still runs will be done again")
                self._end()
                return

    def _end(self) -> None:
        """Whatever still runs is over."""
        self._stop.is_quiet.set()
        for pool in self._pools:
            pool.close()


def num_unrecorded(counts: Mapping[str, StageCount]) -> int:
    """Rows that were described in some round and not yet committed."""
    return sum(
        count.num_rows - counts.get(name.replace("describe", "record"), StageCount()).num_rows
        for name, count in counts.items()
        if name.startswith("describe")
    )


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


def _stats(pool: Pool) -> PoolStats | None:
    try:
        return pool.stats()
    except PoolError:
        return None  # whoever works with the pool gets this error as well
