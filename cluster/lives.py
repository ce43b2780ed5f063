"""The lives of a model's replicas: starts them, has them prove themselves, replaces the dead.

A model that fails to load the first time fails the pool at once; a replacement that fails to load
(the dead process may still hold the GPU's memory) counts as one more death. A life after one that a
batch answers for repeats a row that was answered before (see `isolation.py`). A replica whose node
is draining finishes what it has and is replaced elsewhere; one too many, because the pool was made
smaller, finishes what it has and goes. Neither is a death. An elastic pool may have no replica.

Limits: hands out no work, and keeps no state across its own death. Knows no Ray: it drives replicas
through `ReplicaLink`, so tests drive it with plain coroutines.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, Protocol

from cluster.dispatch import Batch, End, PoolConfig, Slot, is_overdue, restart_delay_s
from cluster.isolation import deaths_in_row, must_prove
from cluster.replica import CallStatus
from cluster.senders import Outcome

logger = logging.getLogger(__name__)


class ReplicaDiedError(Exception):
    """The process behind a link is gone; the message says how."""

    def __init__(self, message: str, *, is_node_lost: bool = False) -> None:
        super().__init__(message)
        self.is_node_lost = is_node_lost


class RowsLostError(Exception):
    """The rows of a call could not be fetched, so the replica has not tried them."""


class ReplicaLink(Protocol):
    """A replica's process; each coroutine raises `ReplicaDiedError` upon its death."""

    async def start(self) -> tuple[int, str]:
        """Its process id and the id of its node, once it has its resources."""
        ...

    async def load(self) -> str: ...
    async def call(self, rows: Any, first: int, last: int) -> tuple[CallStatus, Any]: ...
    async def watch(self) -> None: ...
    def kill(self) -> None: ...


Launch = Callable[[int], ReplicaLink]


class Lives:
    """Keeps every replica of one model alive; `launch(index)` begins a process for one place.

    `on_ready` is called whenever a replica can take work, `on_failure` when there will be none.
    """

    def __init__(
        self,
        name: str,
        config: PoolConfig,
        launch: Launch,
        on_ready: Callable[[], None],
        on_failure: Callable[[Outcome], None],
        rest_after_s: float = 0.0,
    ) -> None:
        self._name = name
        self._config = config
        self._launch = launch
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._rest_after_s = rest_after_s
        self._is_asked = asyncio.Event()
        self._has_rest = False
        """Whether the other replicas of the start are still to come: not after a resize."""
        self.slots: dict[int, Slot] = {}
        self.links: dict[Slot, ReplicaLink] = {}
        """Also of lives that are over, until their calls have come back."""
        self.canary: Batch | None = None
        """What was answered last: its first row is the proof of a living engine."""
        self.num_loads = self.num_restarts = self.num_node_losses = self.num_given_up = 0
        self.load_s = 0.0
        self.last_failure = ""
        self._draining_nodes: frozenset[str] = frozenset()
        self._is_wanted = self._is_open = True
        self._places: set[int] = set()
        """The indices of the replicas that there are to be."""
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begins to load the first replicas; needs the running event loop."""
        self.resize(1 if self._rest_after_s else self._config.least_replicas)
        if self._rest_after_s:
            self._has_rest = True
            self.spawn(self._start_rest())
        self.spawn(self._keep_time())

    def ask(self) -> None:
        """There is work: replicas that were to come later are asked for now."""
        self._is_asked.set()

    async def _start_rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._rest_after_s):
                await self._is_asked.wait()
        if self._has_rest:
            self.resize(self._config.least_replicas)

    def resize(self, num_replicas: int) -> None:
        """Starts more replicas, or lets those go that are least at work, each after its batches."""
        self._has_rest = False
        if not self._is_wanted:
            return
        for _ in range(num_replicas - len(self._places)):
            if not self._call_back():
                taken = self._places | self.slots.keys()
                index = next(i for i in count() if i not in taken)
                self._places.add(index)
                self.spawn(self._keep_replica(index))
        surplus = max(0, len(self._places) - num_replicas)
        for index in sorted(self._places, key=self._use)[:surplus]:
            self._places.discard(index)
            if index in self.slots:
                self.move_if_idle(self.slots[index])

    def _call_back(self) -> bool:
        """Keeps a replica that was to go after its batches, if there is one: it need not load."""
        for index, slot in self.slots.items():
            if index not in self._places and not slot.end and not slot.is_over:
                self._places.add(index)
                self.move_if_idle(slot)
                return True
        return False

    def num_places(self) -> int:
        return len(self._places)

    def stop_replacing(self) -> None:
        """Lets the replicas there are work on, and starts no more."""
        self._is_wanted = False

    def kill_all(self) -> None:
        self._is_wanted = self._is_open = False
        for slot, link in self.links.items():
            slot.is_ready = False
            link.kill()

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def set_draining_nodes(self, node_ids: set[str]) -> None:
        self._draining_nodes = frozenset(node_ids)
        for slot in self.slots.values():
            self.move_if_idle(slot)

    def num_ready(self) -> int:
        return sum(slot.is_ready for slot in self.slots.values())

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(self._end_task)

    def _end_task(self, task: asyncio.Task[None]) -> None:
        """An exception that nobody expected ends the pool: unheard, its senders wait for ever."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("pool %s: the dispatcher failed", self._name, exc_info=error)
            what = f"the dispatcher of pool {self._name!r} failed with {type(error).__name__}"
            self._on_failure(Outcome(error=f"{what}: {error}"))

    def note_death(self, slot: Slot, error: ReplicaDiedError) -> None:
        """Unreachable is as good as dead: never two replicas on one batch."""
        # A node that is going may end its processes one by one, the replica before itself.
        is_node_lost = error.is_node_lost or slot.is_leaving
        self.kill(slot, End("node_lost" if is_node_lost else "replica_died", str(error)))

    def kill(self, slot: Slot, end: End) -> None:
        """Ends a life, for the first reason given; its calls come back as `ReplicaDiedError`."""
        slot.is_ready = False
        slot.end = slot.end or end
        self.links[slot].kill()

    async def _keep_replica(self, index: int) -> None:
        """Lives through the lives of one replica, until it has died too often in a row."""
        num_deaths, is_on_trial = 0, False
        while self._is_wanted and index in self._places:
            slot = self.slots[index] = Slot(index, since_s=now_s())
            cause = await self._live(slot, is_on_trial)
            num_deaths = deaths_in_row(num_deaths, slot)
            is_on_trial = must_prove(slot, is_on_trial)
            if index not in self._places:
                logger.info("pool %s: replica %s left: %s", self._name, index, cause)
                break
            self.num_node_losses += slot.end is not None and slot.end.kind == "node_lost"
            self.last_failure = f"replica {self._name}/{index} ended: {cause}"
            logger.warning("pool %s: %s", self._name, self.last_failure)
            if num_deaths > self._config.max_restarts:
                self._places.discard(index)
                self.num_given_up += 1
                break
            self.num_restarts += 1
            await asyncio.sleep(restart_delay_s(num_deaths))
        self.slots.pop(index, None)
        is_idle = self._config.is_elastic and num_deaths <= self._config.max_restarts
        if not self.slots and not (self._is_wanted and (self._places or is_idle)):
            message = (
                f"pool {self._name!r} has no replica left; {self.last_failure}; each "
                f"was replaced {self._config.max_restarts} times without finishing a batch"
            )
            is_load_error = self.num_loads == 0
            self._on_failure(Outcome(error=message, is_load_error=is_load_error))

    async def _live(self, slot: Slot, is_on_trial: bool) -> str:
        """One life: placed, loaded, proven where it must be, ready, dead; returns what ended it."""
        link = self.links[slot] = self._launch(slot.index)
        try:
            slot.pid, slot.node_id = await link.start()
            slot.since_s = now_s()
            self.move_if_idle(slot)
            async with asyncio.timeout(self._config.load_timeout_s):
                error = await link.load()
            if error:
                if self.num_loads == 0:
                    where = f"replica {self._name}/{slot.index} could not load its model"
                    self._on_failure(Outcome(error=f"{where}: {error}", is_load_error=True))
                return f"could not load its model: {error}"
            self.num_loads += 1
            self.load_s = now_s() - slot.since_s
            if is_on_trial and (error := await self._prove(slot, link)):
                return error
            slot.is_ready = True
            self._on_ready()
            await link.watch()
            return "it left"
        except TimeoutError:
            return f"loading took more than load_timeout_s = {self._config.load_timeout_s:g} s"
        except ReplicaDiedError as error:
            self.note_death(slot, error)
            return slot.end.reason if slot.end else str(error)
        finally:
            slot.is_ready = False
            slot.is_over = True
            link.kill()
            self.spawn(self._forget(slot))

    async def _prove(self, slot: Slot, link: ReplicaLink) -> str:
        """Repeats a row that was answered before; returns why that failed, or nothing.

        A pool that has answered nothing has no such row, and its replicas go on unproven.
        """
        if self.canary is None:
            return ""
        canary, timeout_s = self.canary, self._config.call_timeout_s
        slot.is_proving, slot.since_s = True, now_s()
        what = "it failed on a row that was answered before"
        try:
            async with asyncio.timeout(timeout_s):
                status, _ = await link.call(canary.rows, canary.first, canary.first + 1)
        except TimeoutError:
            return f"{what}: it took more than call_timeout_s = {timeout_s:g} s"
        except RowsLostError:
            self.canary = None  # with the process that sent it; the next answer is the next one
            return ""
        slot.is_proving = False
        slot.num_done += not status.error
        return f"{what}: {status.error}" if status.error else ""

    async def _forget(self, slot: Slot) -> None:
        """Drops a dead life once its calls have come back; until then they need its slot."""
        while slot.in_flight:
            await asyncio.sleep(0.05)
        del self.links[slot]

    async def _keep_time(self) -> None:
        timeout_s = self._config.call_timeout_s
        reason = f"a call took more than call_timeout_s = {timeout_s:g} s"
        while self._is_open:
            await asyncio.sleep(min(1.0, timeout_s / 5))
            for slot in self.slots.values():
                if slot.is_ready and is_overdue(slot, now_s(), timeout_s):
                    self.kill(slot, End("call_timeout", reason))

    def move_if_idle(self, slot: Slot) -> None:
        is_surplus = slot.index not in self._places
        slot.is_leaving = is_surplus or slot.node_id in self._draining_nodes
        if slot.is_leaving and not slot.in_flight and not slot.is_over:
            why = "the pool was made smaller" if is_surplus else "its node is draining"
            self.kill(slot, End("moved", why))

    def _use(self, index: int) -> tuple[bool, int, int, str]:
        """What would be lost with a replica: more with one at work than with one that loads.

        Of equals those that have least company go first, so that a whole node is left.
        """
        slot = self.slots.get(index)
        if slot is None:
            return (False, 0, 0, "")
        company = sum(other.node_id == slot.node_id for other in self.slots.values())
        return (slot.is_ready, len(slot.in_flight), company, slot.node_id)


def now_s() -> float:
    return asyncio.get_running_loop().time()
