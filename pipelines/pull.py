"""Pulls the loop's dataset to its end, or leaves it in time when the attempt is to end.

A thread pulls, and the main thread waits for that, or for somebody who asks the attempt to end
(`leaving.Stop`). Then the generator takes no new work, and what is under way has the grace time to
be committed. When nothing is under way any more, or that time is over, the dataset is shut down,
whatever its stages wait for.

Limits: what is under way is told by the pools and the board: where a count was lost or repeated
with a process that died, the whole grace time is waited for.
"""

import logging
import threading
from collections.abc import Sequence
from time import monotonic
from typing import Any

from cluster.errors import PairloomError, PoolError
from cluster.pool import Pool, PoolStats
from cluster.session import unwrapped
from cluster.telemetry import Board
from pipelines.leaving import Stop

logger = logging.getLogger(__name__)

TICK_S = 0.25
# Nothing is under way for so long: it is not about to begin either.
QUIET_S = 1.5
# The grace time must not be spent on a question.
QUESTION_TIMEOUT_S = 2.0
# How long the pulling thread may take to notice that the dataset is shut down.
SHUTDOWN_S = 5.0


def pull(dataset: Any, *, pools: Sequence[Pool], board: Board, stop: Stop, grace_s: float) -> None:
    """Returns at the end of the dataset; no row comes into the driver.

    The first of the `pools` is the one that begins a round: it takes no more where the attempt is
    to end, and the others finish what it has begun.

    Raises:
        PairloomError: a stage failed, or what `stop` was asked to end the attempt with.
    """
    puller = _Puller(dataset)
    try:
        while stop.error is None and not puller.is_over.wait(TICK_S):
            pass
        if stop.error is not None:
            logger.info(
                "no new work; what is under way has %g s to be committed (%s)", grace_s, stop.error
            )
            pools[0].drain()
            _wait_until_quiet(puller, pools, board, grace_s)
    finally:
        puller.close()
    if stop.error is not None:
        raise stop.error from puller.error
    if puller.error is not None:
        raise _diagnosed(puller.error) from puller.error


class _Puller:
    """The thread; `error` is what the dataset failed with, once `is_over` is set."""

    def __init__(self, dataset: Any) -> None:
        # Private (2.60), because the public iterator can be left between two blocks only, and there
        # may never be a first: stages that are not placed, a store that is away.
        self._executor = dataset._create_executor()
        self._bundles = dataset._build_bundle_iterator(self._executor)
        self.error: BaseException | None = None
        self.is_over = threading.Event()
        self._thread = threading.Thread(target=self._pull, name="puller", daemon=True)
        self._thread.start()

    def _pull(self) -> None:
        try:
            for _ in self._bundles:
                pass
        except BaseException as error:  # in a thread nobody would hear of it
            self.error = error
        finally:
            self.is_over.set()

    def close(self) -> None:
        """Ends stages and tasks that still run; nothing happens where all is over."""
        self._executor.shutdown(force=False)  # with force it waits for tasks that cannot be ended
        self._thread.join(SHUTDOWN_S)


def _wait_until_quiet(puller: _Puller, pools: Sequence[Pool], board: Board, grace_s: float) -> None:
    """Until nothing is under way any more, or the grace time is over."""
    busy_at = began = monotonic()
    while not puller.is_over.wait(TICK_S):
        if is_under_way(pools, board):
            busy_at = monotonic()
        if monotonic() - busy_at > QUIET_S:
            return
        if monotonic() - began > grace_s:
            logger.info("the grace time is over: what still runs will be done again")
            return


def is_under_way(pools: Sequence[Pool], board: Board) -> bool:
    """Whether a pool works, or a unit has begun what it has not got through; if unsure, it is."""
    from ray.exceptions import RayError

    try:
        return any(map(_is_at_work, pools)) or board.num_begun(QUESTION_TIMEOUT_S) > 0
    except RayError as error:
        logger.debug("taken for under way: %s", error)
        return True


def _is_at_work(pool: Pool) -> bool:
    try:
        stats = pool.stats(QUESTION_TIMEOUT_S)
    except PoolError:
        return False  # it is gone
    return stats.in_flight + stats.queue_length > 0


def stats_of(pool: Pool, timeout_s: float = 10.0) -> PoolStats | None:
    """What a pool does, for somebody who only looks on: None where it does not say so in time, or
    is gone, for who works with it gets that error as well.
    """
    from ray.exceptions import GetTimeoutError

    try:
        return pool.stats(timeout_s)
    except PoolError:
        return None
    except GetTimeoutError:
        logger.warning("pool %s did not say within %g s what it does", pool.name, timeout_s)
        return None


def _diagnosed(error: BaseException) -> PairloomError:
    cause = unwrapped(error)
    if isinstance(cause, PairloomError):
        return cause
    # A fault of ours or of Ray's, not of the input, whatever its class.
    return PairloomError(
        f"a stage failed with {type(cause).__name__}: {cause}; what is committed stays, the "
        "same command goes on"
    )
