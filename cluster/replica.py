"""What runs inside one replica's process: load a model once, then answer batches one at a time.

The model lives on a thread of its own, so that the next batch is unpickled, and the last answer
pickled, while the model works. Failures come back as statuses: an exception that crossed the wire
would have to be unpickled by processes that cannot import the model's packages.

Limits: never imports a model framework itself, nor Ray; the factory does what it must.
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

from cluster.dispatch import BatchFunction, Row

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CallStatus:
    """The small half of an answer: all that the dispatcher needs to see."""

    seconds: float
    error: str = ""
    is_engine_dead: bool = False
    """The function raised. Rows that fail are data by then, so what is left is a broken engine."""


class Replica:
    """One loaded model. Named for its place in the pool (`generator/0`) in logs and dashboard."""

    def __init__(self, label: str, node_id: Callable[[], str]) -> None:
        self._label = label
        self._node_id = node_id
        self._function: BatchFunction | None = None
        self._engine_thread = ThreadPoolExecutor(1, thread_name_prefix="engine")

    def __repr__(self) -> str:
        return self._label

    async def start(self) -> tuple[int, str]:
        """Answers with the ids of the process and of its node once it has its resources."""
        return os.getpid(), self._node_id()

    async def load(self, factory_pickle: bytes) -> str:
        """Builds the model; returns why it failed, or nothing."""
        built, error = await self._on_engine_thread(lambda: pickle.loads(factory_pickle)())
        self._function = built
        return error

    async def call(
        self, rows: list[Row], first: int, last: int
    ) -> tuple[CallStatus, list[Row] | None]:
        """Answers the rows from `first` to before `last`: a status, and as many rows or nothing."""
        rows = rows[first:last]
        function = self._function
        assert function is not None, "called before load"
        started = time.perf_counter()

        def work() -> list[Row]:
            nonlocal started
            started = time.perf_counter()
            return function(rows)

        answer, error = await self._on_engine_thread(work)
        seconds = time.perf_counter() - started
        if error:
            return CallStatus(seconds=seconds, error=error, is_engine_dead=True), None
        num_answered = len(answer) if isinstance(answer, list) else None
        if num_answered != len(rows):
            what = f"{num_answered} rows" if num_answered is not None else type(answer).__name__
            return CallStatus(seconds=seconds, error=f"returned {what} for {len(rows)} rows"), None
        return CallStatus(seconds=seconds), answer

    async def watch(self) -> None:
        """Never returns: its failure tells the dispatcher at once that this process is gone."""
        await asyncio.Event().wait()

    async def _on_engine_thread(self, work: Callable[[], Any]) -> tuple[Any, str]:
        def guarded() -> tuple[Any, str]:
            # Caught here, not after the await: StopIteration cannot cross a future and hangs it.
            try:
                return work(), ""
            except (Exception, SystemExit) as error:
                logger.error("%s failed:\n%s", self._label, traceback.format_exc())
                return None, f"{type(error).__name__}: {error}"

        return await asyncio.get_running_loop().run_in_executor(self._engine_thread, guarded)
