"""What runs inside one replica's process: load a model once, then answer batches.

The model lives on a thread of its own, so that the next batch is unpickled and prepared, and the
last one finished and pickled, while the model works. Failures come back as statuses: an exception
that crossed the wire would have to be unpickled by processes that cannot import the model's
packages.

Limits: never imports a model framework itself, nor Ray; the factory does what it must. The steps
beside the model run one batch at a time each, so two batches in flight keep the model busy only
while preparing and finishing a batch take no longer than the model does. The model too has one at a
time, unless its engine batches by itself (`calls_per_replica`).
"""

import asyncio
import logging
import os
import pickle
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from cluster.dispatch import BatchFunction, BatchSteps, Row
from cluster.shared_clock import SharedClock, Span

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CallStatus:
    """The small half of an answer: all that the dispatcher needs to see."""

    seconds: float
    """Of the model's thread; what is prepared and finished beside it does not count."""
    busy_s: float
    """Of them the part that is this call's, where the engine works on several at a time."""
    error: str = ""
    is_engine_dead: bool = False
    """The function raised. Rows that fail are data by then, so what is left is a broken engine."""


class Replica:
    """One loaded model. Named for its place in the pool (`generator/0`) in logs and dashboard."""

    def __init__(
        self,
        label: str,
        node_id: Callable[[], str],
        num_calls: int = 1,
        see_num_rows: Callable[[int], None] | None = None,
    ) -> None:
        self._label = label
        self._node_id = node_id
        self._see_num_rows = see_num_rows
        self._steps: BatchSteps | None = None
        self._clock = SharedClock()
        # One thread each, not a pool: batches stay in one order, which is what the dispatcher goes
        # by when it has to say which of them ran when this process died.
        self._prepare_thread, self._engine_thread, self._finish_thread = (
            ThreadPoolExecutor(num_threads, thread_name_prefix=name)
            for name, num_threads in (("prepare", 1), ("engine", num_calls), ("finish", 1))
        )

    def __repr__(self) -> str:
        return self._label

    async def start(self) -> tuple[int, str]:
        """Answers with the ids of the process and of its node once it has its resources."""
        return os.getpid(), self._node_id()

    async def load(self, factory_pickle: bytes) -> str:
        """Builds the model; returns why it failed, or nothing."""
        built, error = await self._run(self._engine_thread, lambda: pickle.loads(factory_pickle)())
        if not error:
            self._steps = built if isinstance(built, BatchSteps) else _OneStep(built)
        return error

    async def call(
        self, rows: list[Row], first: int, last: int
    ) -> tuple[CallStatus, list[Row] | None]:
        """Answers the rows from `first` to before `last`: a status, and as many rows or nothing."""
        rows = rows[first:last]
        steps = self._steps
        assert steps is not None, "called before load"
        if self._see_num_rows is not None:
            self._see_num_rows(len(rows))
        span, worked, error = await self._work(steps, rows)
        status = CallStatus(seconds=span.seconds, busy_s=span.share_s)
        answer, error = await self._run(self._finish_thread, lambda: steps.finish(worked), error)
        if error:
            return replace(status, error=error, is_engine_dead=True), None
        num_answered = len(answer) if isinstance(answer, list) else None
        if num_answered != len(rows):
            what = f"{num_answered} rows" if num_answered is not None else type(answer).__name__
            return replace(status, error=f"returned {what} for {len(rows)} rows"), None
        return status, answer

    async def _work(self, steps: BatchSteps, rows: list[Row]) -> tuple[Span, Any, str]:
        """The seconds of the model, and what it made of the rows or why nothing."""
        span = Span()

        def work() -> Any:
            nonlocal span
            with self._clock.call() as span:
                return steps.work(prepared)

        prepared, error = await self._run(self._prepare_thread, lambda: steps.prepare(rows))
        worked, error = await self._run(self._engine_thread, work, error)
        return span, worked, error

    async def watch(self) -> None:
        """Never returns: its failure tells the dispatcher at once that this process is gone."""
        await asyncio.Event().wait()

    async def _run(
        self, thread: ThreadPoolExecutor, step: Callable[[], Any], error: str = ""
    ) -> tuple[Any, str]:
        """What a step returns, or why it failed; a batch with an `error` only waits its turn.

        For the answer before it has to be out when the dispatcher hears of the error: it kills this
        process then.
        """

        def guarded() -> tuple[Any, str]:
            # Caught here, not after the await: StopIteration cannot cross a future and hangs it.
            try:
                return (None, error) if error else (step(), "")
            except (Exception, SystemExit) as failure:
                logger.error("%s failed:\n%s", self._label, traceback.format_exc())
                return None, f"{type(failure).__name__}: {failure}"

        return await asyncio.get_running_loop().run_in_executor(thread, guarded)


class _OneStep:
    """A plain batch function as steps: all of it is the model's."""

    def __init__(self, function: BatchFunction) -> None:
        self._function = function

    def prepare(self, rows: list[Row]) -> list[Row]:
        return rows

    def work(self, prepared: list[Row]) -> list[Row]:
        return self._function(prepared)

    def finish(self, worked: list[Row]) -> list[Row]:
        return worked
