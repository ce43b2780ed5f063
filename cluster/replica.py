"""What runs inside one replica's process: load a model once, then answer batches one at a time.

The model lives on a thread of its own, so that the next batch is unpickled and prepared, and the
last one finished and pickled, while the model works. Failures come back as statuses: an exception
that crossed the wire would have to be unpickled by processes that cannot import the model's
packages.

Limits: never imports a model framework itself, nor Ray; the factory does what it must. The steps
beside the model run one batch at a time each, so two batches in flight keep the model busy only
while preparing and finishing a batch take no longer than the model does.
"""

import asyncio
import logging
import os
import pickle
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cluster.dispatch import BatchFunction, BatchSteps, Row

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CallStatus:
    """The small half of an answer: all that the dispatcher needs to see."""

    seconds: float
    """Of the model's thread; what is prepared and finished beside it does not count."""
    error: str = ""
    is_engine_dead: bool = False
    """The function raised. Rows that fail are data by then, so what is left is a broken engine."""


class Replica:
    """One loaded model. Named for its place in the pool (`generator/0`) in logs and dashboard."""

    def __init__(self, label: str, node_id: Callable[[], str]) -> None:
        self._label = label
        self._node_id = node_id
        self._steps: BatchSteps | None = None
        # One thread each, not a pool: batches stay in one order, which is what the dispatcher goes
        # by when it has to say which of them ran when this process died.
        self._prepare_thread, self._engine_thread, self._finish_thread = (
            ThreadPoolExecutor(1, thread_name_prefix=name)
            for name in ("prepare", "engine", "finish")
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
        worked, error, seconds = await self._work(steps, rows)
        # An error waits its turn here as well: the answer before it has to be out when the
        # dispatcher hears of it, for it kills this process then.
        answer, late_error = await self._run(
            self._finish_thread, lambda: None if error else steps.finish(worked)
        )
        if error := error or late_error:
            return CallStatus(seconds=seconds, error=error, is_engine_dead=True), None
        num_answered = len(answer) if isinstance(answer, list) else None
        if num_answered != len(rows):
            what = f"{num_answered} rows" if num_answered is not None else type(answer).__name__
            return CallStatus(seconds=seconds, error=f"returned {what} for {len(rows)} rows"), None
        return CallStatus(seconds=seconds), answer

    async def _work(self, steps: BatchSteps, rows: list[Row]) -> tuple[Any, str, float]:
        """What the model made of the rows, or why not, and its seconds."""
        seconds = 0.0
        prepared, error = await self._run(self._prepare_thread, lambda: steps.prepare(rows))
        if error:
            return None, error, seconds

        def timed() -> Any:
            nonlocal seconds
            started = time.perf_counter()
            try:
                return steps.work(prepared)
            finally:
                seconds = time.perf_counter() - started

        worked, error = await self._run(self._engine_thread, timed)
        return worked, error, seconds

    async def watch(self) -> None:
        """Never returns: its failure tells the dispatcher at once that this process is gone."""
        await asyncio.Event().wait()

    async def _run(self, thread: ThreadPoolExecutor, step: Callable[[], Any]) -> tuple[Any, str]:
        def guarded() -> tuple[Any, str]:
            # Caught here, not after the await: StopIteration cannot cross a future and hangs it.
            try:
                return step(), ""
            except (Exception, SystemExit) as error:
                logger.error("%s failed:\n%s", self._label, traceback.format_exc())
                return None, f"{type(error).__name__}: {error}"

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
