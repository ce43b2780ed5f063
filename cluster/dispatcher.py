"""Knows every batch and every replica of one model: hands out work, replaces the dead.

Work begins with the first ready replica. A replica that dies, hangs past its time or reports a
dead engine is killed and replaced, its batches go back to their places in the queue, and only the
batch that was running is charged with an attempt. A model that fails to load the first time fails
the pool at once; a replacement that fails to load (the dead process may still hold the GPU's
memory) counts as one more death.

Limits: keeps no state across its own death, which ends the pool: a run is resumed from its ledger,
not from here. Knows no Ray: it drives replicas through `ReplicaLink`, so tests drive it with plain
coroutines.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.dispatch import (
    Batch,
    BatchQueue,
    PoolConfig,
    PoolStats,
    Slot,
    attempts_message,
    deaths_in_row,
    describe_waiting,
    is_overdue,
    pick_slot,
    restart_delay_s,
    take_blame,
)
from cluster.replica import CallStatus

logger = logging.getLogger(__name__)


class ReplicaDiedError(Exception):
    """The process behind a link is gone; the message says how."""


class ReplicaLink(Protocol):
    """A replica's process; each coroutine raises `ReplicaDiedError` upon its death."""

    async def start(self) -> int: ...
    async def load(self) -> str: ...
    async def call(self, rows: Any) -> tuple[CallStatus, Any]: ...
    async def watch(self) -> None: ...
    def kill(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a sender gets: a reference to the answer, or why there is none."""

    payload: Any = None
    error: str = ""
    is_load_error: bool = False


class Dispatcher:
    """Spreads batches over a model's replicas; `launch(index)` begins a process for one place."""

    def __init__(self, name: str, config: PoolConfig, launch: Callable[[int], ReplicaLink]) -> None:
        self._name = name
        self._config = config
        self._launch = launch
        self._queue = BatchQueue()
        self._waiters: dict[int, asyncio.Future[Outcome]] = {}
        self._slots: dict[int, Slot] = {}
        self._links: dict[Slot, ReplicaLink] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: Outcome | None = None
        self._changed = asyncio.Event()
        self._num_arrivals = self._num_loads = self._num_restarts = 0
        self._num_calls = self._num_rows = self._num_retries = 0
        self._busy_s = 0.0
        self._last_failure = ""

    def start(self) -> None:
        """Begins to load every replica; needs the running event loop."""
        for index in range(self._config.num_replicas):
            self._spawn(self._keep_replica(index))
        self._spawn(self._keep_time())

    async def submit(self, rows: Any, num_rows: int, order: int) -> Outcome:
        """Queues one batch and waits for its answer."""
        if self._failure:
            return self._failure
        self._num_arrivals += 1
        batch = Batch(order, self._num_arrivals, num_rows, rows)
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[batch.arrival] = waiter
        self._queue.push(batch)
        self._hand_out()
        return await waiter

    async def wait_ready(self, num_replicas: int, timeout_s: float) -> Outcome:
        """Waits until that many replicas are ready, the pool has failed, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._failure is None and self._num_ready() < num_replicas:
                    await self._changed.wait()
        if self._failure:
            return self._failure
        if self._num_ready() >= num_replicas:
            return Outcome()
        return Outcome(
            error=f"pool {self._name!r} has {self._num_ready()} of {num_replicas} replicas ready "
            f"after {timeout_s:g} s: {self._waiting() or 'no other starts'}; "
            f"{self._last_failure or 'none has failed'}"
        )

    def stats(self) -> PoolStats:
        return PoolStats(
            num_replicas_ready=self._num_ready(),
            num_loads=self._num_loads,
            num_restarts=self._num_restarts,
            num_calls=self._num_calls,
            num_rows=self._num_rows,
            num_retries=self._num_retries,
            queue_length=len(self._queue),
            in_flight=sum(len(slot.in_flight) for slot in self._links),
            busy_s=self._busy_s,
            replica_pids=tuple(slot.pid for slot in self._slots.values() if slot.is_ready),
            last_failure=self._last_failure,
            waiting="" if self._failure else self._waiting(),
        )

    def close(self) -> None:
        """Kills every replica and answers whoever still waits; a second call changes nothing."""
        self._fail(Outcome(error=f"pool {self._name!r} is closed"))
        for task in self._tasks:
            task.cancel()

    def _waiting(self) -> str:
        now_s = asyncio.get_running_loop().time()
        return describe_waiting(self._slots.values(), self._config, now_s)

    def _num_ready(self) -> int:
        return sum(slot.is_ready for slot in self._slots.values())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(self._tasks.discard)

    def _hand_out(self) -> None:
        now_s = asyncio.get_running_loop().time()
        while self._queue:
            slot = pick_slot(self._slots.values(), self._config.in_flight_per_replica)
            if slot is None:
                return
            batch = self._queue.pop()
            if not slot.in_flight:
                slot.head_since_s = now_s
            slot.in_flight.append(batch)
            self._spawn(self._call(slot, batch))

    async def _call(self, slot: Slot, batch: Batch) -> None:
        status, payload, cause = None, None, ""
        try:
            status, payload = await self._links[slot].call(batch.rows)
            cause = status.error
            is_charged = bool(cause)
        except ReplicaDiedError as error:
            self._kill(slot, str(error))  # unreachable is as good as dead: never two on one batch
            cause = slot.kill_reason
            is_charged = take_blame(slot, batch)
        except Exception as error:  # rows lost on the way, an answer that does not pickle
            cause, is_charged = f"{type(error).__name__}: {error}", True
        slot.in_flight.remove(batch)
        slot.head_since_s = asyncio.get_running_loop().time()
        if status is not None:
            self._num_calls += 1
            self._busy_s += status.seconds
        if status is not None and not cause:
            slot.num_done += 1
            self._num_rows += batch.num_rows
            self._answer(batch, Outcome(payload=payload))
        else:
            if status is not None and status.is_engine_dead:
                self._kill(slot, f"its engine died: {cause}", has_blamed=True)
            self._retry(batch, cause, is_charged)
        self._hand_out()

    def _retry(self, batch: Batch, cause: str, is_charged: bool) -> None:
        if is_charged:
            batch.causes.append(cause)
            logger.warning("pool %s: a batch failed: %s", self._name, cause)
        if self._failure:
            self._answer(batch, self._failure)
        elif len(batch.causes) >= self._config.max_attempts:
            self._answer(batch, Outcome(error=attempts_message(self._name, batch)))
        else:
            self._num_retries += 1
            self._queue.push(batch)

    def _answer(self, batch: Batch, outcome: Outcome) -> None:
        waiter = self._waiters.pop(batch.arrival, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(outcome)

    async def _keep_replica(self, index: int) -> None:
        """Lives through the lives of one replica, until it has died too often in a row."""
        num_deaths = 0
        while self._failure is None:
            since_s = asyncio.get_running_loop().time()
            slot = self._slots[index] = Slot(index, since_s=since_s)
            cause = await self._live(slot)
            num_deaths = deaths_in_row(num_deaths, slot.num_done)
            self._last_failure = f"replica {self._name}/{index} ended: {cause}"
            logger.warning("pool %s: %s", self._name, self._last_failure)
            if num_deaths > self._config.max_restarts:
                break
            self._num_restarts += 1
            await asyncio.sleep(restart_delay_s(num_deaths))
        del self._slots[index]
        if not self._slots:
            self._fail(
                Outcome(
                    error=f"pool {self._name!r} has no replica left; {self._last_failure}; each "
                    f"was replaced {self._config.max_restarts} times without finishing a batch",
                    is_load_error=self._num_loads == 0,
                )
            )

    async def _live(self, slot: Slot) -> str:
        """One life: placed, loaded, ready, dead; returns what ended it."""
        link = self._links[slot] = self._launch(slot.index)
        try:
            slot.pid = await link.start()
            slot.since_s = asyncio.get_running_loop().time()
            async with asyncio.timeout(self._config.load_timeout_s):
                error = await link.load()
            if error:
                if self._num_loads == 0:
                    where = f"replica {self._name}/{slot.index} could not load its model"
                    self._fail(Outcome(error=f"{where}: {error}", is_load_error=True))
                return f"could not load its model: {error}"
            self._num_loads += 1
            slot.is_ready = True
            self._notify()
            self._hand_out()
            await link.watch()
            return "it left"
        except TimeoutError:
            return f"loading took more than load_timeout_s = {self._config.load_timeout_s:g} s"
        except ReplicaDiedError as error:
            return slot.kill_reason or str(error)
        finally:
            slot.is_ready = False
            slot.is_over = True
            link.kill()
            self._spawn(self._forget(slot))

    async def _forget(self, slot: Slot) -> None:
        """Drops a dead life once its calls have come back; until then they need its slot."""
        while slot.in_flight:
            await asyncio.sleep(0.05)
        del self._links[slot]

    async def _keep_time(self) -> None:
        timeout_s = self._config.call_timeout_s
        while self._failure is None:
            await asyncio.sleep(min(1.0, timeout_s / 5))
            now_s = asyncio.get_running_loop().time()
            for slot in self._slots.values():
                if slot.is_ready and is_overdue(slot, now_s, timeout_s):
                    self._kill(slot, f"a call took more than call_timeout_s = {timeout_s:g} s")

    def _kill(self, slot: Slot, reason: str, has_blamed: bool = False) -> None:
        slot.is_ready = False
        slot.kill_reason = slot.kill_reason or reason
        slot.has_blamed = slot.has_blamed or has_blamed
        self._links[slot].kill()

    def _fail(self, outcome: Outcome) -> None:
        """Ends the pool: every waiter, and every later sender, gets `outcome`."""
        if self._failure:
            return
        self._failure = outcome
        self._queue = BatchQueue()
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_result(outcome)
        self._waiters.clear()
        for slot, link in self._links.items():
            slot.is_ready = False
            link.kill()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
