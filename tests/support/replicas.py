"""Replicas that are plain coroutines, and a clock that jumps: every failure, and no wait."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from cluster.dispatch import Poison, PoolConfig
from cluster.dispatcher import Dispatcher
from cluster.lives import ReplicaDiedError
from cluster.replica import CallStatus
from cluster.senders import Outcome

Answer = Callable[["FakeReplica", Any], Awaitable[tuple[CallStatus, Any]]]


class FakeReplica:
    """A process that answers as the test says, `num_calls` at a time, until it is killed."""

    def __init__(
        self,
        index: int,
        answer: Answer,
        load_error: str | Exception,
        load_s: float,
        start_s: float,
        num_calls: int,
    ) -> None:
        self.index = index
        self.calls: list[Any] = []
        self._answer = answer
        self._load_error = load_error
        self._load_s = load_s
        self._start_s = start_s
        self._turn = asyncio.Semaphore(num_calls)
        self.dead = asyncio.Event()
        self.last_words = "the process was killed"
        self.node_id = ""
        self.is_node_lost = False

    async def start(self) -> tuple[int, str]:
        await self.until_dead(asyncio.sleep(self._start_s))
        return 1000 + self.index, self.node_id

    async def load(self) -> str:
        await self.until_dead(asyncio.sleep(self._load_s))
        if isinstance(self._load_error, Exception):
            raise self._load_error
        return self._load_error

    async def call(self, rows: Any, first: int, last: int) -> tuple[CallStatus, Any]:
        return await self.until_dead(
            self._one(rows[first:last] if isinstance(rows, list) else rows)
        )

    async def watch(self) -> None:
        await self.until_dead(asyncio.Event().wait())

    def kill(self) -> None:
        self.dead.set()

    async def _one(self, rows: Any) -> tuple[CallStatus, Any]:
        async with self._turn:
            if self.dead.is_set():
                await asyncio.Event().wait()
            self.calls.append(rows)
            return await self._answer(self, rows)

    async def until_dead(self, work: Coroutine[Any, Any, Any]) -> Any:
        task, death = asyncio.ensure_future(work), asyncio.ensure_future(self.dead.wait())
        await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            death.cancel()
            return task.result()
        task.cancel()
        raise ReplicaDiedError(self.last_words, is_node_lost=self.is_node_lost)


async def echo(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
    await asyncio.sleep(0.005)
    return CallStatus(seconds=0.005, busy_s=0.005), rows


class FakePool:
    """A started dispatcher, and every replica it launched.

    A batch is a list of rows, or anything else, which stands for 8 rows and cannot be broken up.
    """

    def __init__(
        self, answer: Answer = echo, /, *, rest_after_s: float = 0.0, **config: Any
    ) -> None:
        self.replicas: list[FakeReplica] = []
        self.load_errors: list[str | Exception] = []
        self.load_seconds: dict[int, float] = {}
        self.start_seconds: dict[int, float] = {}
        self.node_ids: dict[int, str] = {}
        self._answer = answer
        self._config = PoolConfig(**config)
        self.dispatcher = Dispatcher("generator", self._config, self._launch, rest_after_s)
        self.dispatcher.start()

    def _launch(self, index: int) -> FakeReplica:
        error = self.load_errors.pop(0) if self.load_errors else ""
        load_s = self.load_seconds.get(index, 0.0)
        start_s = self.start_seconds.get(index, 0.0)
        num_calls = self._config.calls_per_replica
        self.replicas.append(FakeReplica(index, self._answer, error, load_s, start_s, num_calls))
        self.replicas[-1].node_id = self.node_ids.get(index, f"n{index}")
        return self.replicas[-1]

    async def run(self, batches: list[Any], order: int = 0) -> list[Outcome]:
        sent = (self.dispatcher.submit(rows, _num_rows(rows), order) for rows in batches)
        return await asyncio.wait_for(asyncio.gather(*sent), 1000)


def _num_rows(rows: Any) -> int:
    return len(rows) if isinstance(rows, list) else 8


def flat(outcome: Outcome) -> list[Any]:
    """The rows of an answer, whatever parts it came in."""
    assert not outcome.error, outcome.error
    parts = ([part] if isinstance(part, Poison) else part for part in outcome.parts)
    return [row for part in parts for row in part]


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop that waits for nobody: where it would sleep, its clock jumps."""

    def __init__(self) -> None:
        super().__init__(_JumpingSelector(self))
        self.jumped_s = 0.0

    def time(self) -> float:
        return self.jumped_s  # not the machine's own as well: its load would be in it


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everybody waits for somebody else"
        self._loop.jumped_s += timeout
        return super().select(0)


def run_jumping(work: Coroutine[Any, Any, None], timeout_s: float = 10_000) -> None:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(asyncio.wait_for(work, timeout_s))


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        run_jumping(test())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run
