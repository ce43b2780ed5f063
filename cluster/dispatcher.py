"""Knows every batch and every replica of one model: hands out work, and what comes of it.

Work begins with the first ready replica. A batch whose replica died, hung past its time or lost its
engine goes back to its place in the queue; what the failure means for it is decided in
`isolation.py`, and the replica's next life is `lives.py`'s. A pool that drains finishes what its
replicas have and refuses the rest. An elastic one has as many replicas as `demand.py` says.

Limits: keeps no state across its own death, which ends the pool: a run is resumed from its ledger,
not from here. Knows no Ray: it drives replicas through `ReplicaLink`, so tests drive it with plain
coroutines.
"""

import asyncio
import contextlib
import logging
from collections import Counter, defaultdict
from typing import Any

from cluster.demand import DemandWindow, Look
from cluster.dispatch import (
    Batch,
    BatchQueue,
    End,
    EndKind,
    Failure,
    PoolConfig,
    PoolStats,
    ReplicaState,
    Slot,
    describe_waiting,
    note_seconds,
    pick_slot,
    queue_seconds,
    state_of,
)
from cluster.isolation import (
    MAX_NODE_LOSSES,
    Verdict,
    charge,
    judge,
    node_losses_message,
    single_rows,
    take_blame,
    to_poison,
)
from cluster.lives import Launch, Lives, ReplicaDiedError, RowsLostError, now_s
from cluster.replica import CallStatus
from cluster.senders import Outcome, Senders

logger = logging.getLogger(__name__)

# Between two looks at what an elastic pool has to do.
LOOK_S = 1.0


class Dispatcher:
    """Spreads batches over a model's replicas; `launch(index)` begins a process for one place."""

    def __init__(
        self, name: str, config: PoolConfig, launch: Launch, rest_after_s: float = 0.0
    ) -> None:
        self._name = name
        self._config = config
        self._queue = BatchQueue()
        self._senders = Senders()
        self._suspects: list[Batch] = []  # poison, unless the engine is dead: nothing was answered
        self._lives = Lives(name, config, launch, self._take_ready, self._fail, rest_after_s)
        self._failure: Outcome | None = None
        self._is_draining = False
        self._changed = asyncio.Event()
        self._num_arrivals = self._num_calls = self._num_rows = 0
        self._num_poison = 0
        self._retries = Counter[EndKind]()
        self._busy_s_of: defaultdict[int, float] = defaultdict(float)

    def start(self) -> None:
        """Begins to load every replica; needs the running event loop."""
        self._lives.start()
        if self._config.is_elastic:
            self._lives.spawn(self._follow_demand())

    async def submit(self, rows: Any, num_rows: int, order: int) -> Outcome:
        """Queues one batch and waits for its answer."""
        if refusal := self._refusal():
            return refusal
        self._lives.ask()
        self._num_arrivals += 1
        batch = Batch(order, self._num_arrivals, 0, num_rows, rows)
        answer = self._senders.add(batch)
        self._queue.push(batch)
        self._hand_out()
        return await answer

    async def wait_ready(self, num_replicas: int, timeout_s: float) -> Outcome:
        """Waits until that many replicas are ready, the pool has ended, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._refusal() is None and self._lives.num_ready() < num_replicas:
                    await self._changed.wait()
        if refusal := self._refusal():
            return refusal
        num_ready = self._lives.num_ready()
        if num_ready >= num_replicas:
            return Outcome()
        return Outcome(
            error=f"pool {self._name!r} has {num_ready} of {num_replicas} replicas ready "
            f"after {timeout_s:g} s: {self._waiting() or 'no other starts'}; "
            f"{self._lives.last_failure or 'none has failed'}"
        )

    def stats(self) -> PoolStats:
        return PoolStats(
            num_replicas=self._lives.num_places(),
            num_replicas_ready=self._lives.num_ready(),
            num_loads=self._lives.num_loads,
            num_restarts=self._lives.num_restarts,
            num_calls=self._num_calls,
            num_rows=self._num_rows,
            num_retries=self._retries.total(),
            queue_length=len(self._queue) + len(self._suspects),
            in_flight=sum(len(slot.in_flight) for slot in self._lives.links),
            busy_s=sum(self._busy_s_of.values()),
            busy_s_of=dict(self._busy_s_of),
            load_s=self._lives.load_s,
            num_poison=self._num_poison,
            num_node_losses=self._lives.num_node_losses,
            is_draining=self._is_draining,
            replica_pids=tuple(slot.pid for slot in self._lives.slots.values() if slot.is_ready),
            last_failure=self._lives.last_failure,
            waiting="" if self._failure else self._waiting(),
            queue_rows=self._queue.num_rows + sum(batch.num_rows for batch in self._suspects),
            replica_states=Counter[ReplicaState](map(state_of, self._lives.slots.values())),
            retries=dict(self._retries),
        )

    def drain(self) -> None:
        """Refuses what no replica has yet, and all that comes; a second call changes nothing."""
        if self._is_draining or self._failure:
            return
        self._is_draining = True
        self._lives.stop_replacing()
        for batch in (*self._queue.take_all(), *self._suspects):
            self._put_back(batch, "moved")
        self._suspects.clear()
        self._notify()

    def resize(self, num_replicas: int) -> None:
        """Has that many replicas from now on; those that go finish what they have."""
        if self._refusal() is None:
            self._lives.resize(num_replicas)
            self._notify()
            self._hand_out()

    def set_draining_nodes(self, node_ids: set[str]) -> None:
        """Tells which nodes are going; replicas there get no new batch and are moved when idle."""
        self._lives.set_draining_nodes(node_ids)

    def close(self) -> None:
        """Kills every replica and answers whoever still waits; a second call changes nothing."""
        self._fail(Outcome(error=f"pool {self._name!r} is closed"))
        self._lives.cancel()

    async def _follow_demand(self) -> None:
        config, lives = self._config, self._lives
        least = config.min_replicas or 0
        demand = DemandWindow(least=least, room=config.max_in_flight, idle_s=config.idle_s)
        while not self._num_arrivals:
            # A replica that waits for the first batch is not idle: a captioner was given back, and
            # asked for again, while the generator still loaded.
            await asyncio.sleep(LOOK_S)
        while self._refusal() is None:
            ready = [slot for slot in lives.slots.values() if slot.is_ready and not slot.is_leaving]
            queue_length = len(self._queue) + len(self._suspects)
            look = Look(
                at_s=now_s(),
                queue_length=queue_length,
                queue_s=queue_seconds(ready, queue_length, config),
                num_busy=sum(bool(slot.in_flight) for slot in ready),
                num_ready=len(ready),
                num_replicas=lives.num_places(),
            )
            most = config.num_replicas - lives.num_given_up
            wanted = demand.see(look, most=most, load_s=lives.load_s)
            if wanted != look.num_replicas:
                logger.info("pool %s: %d replicas wanted (%s)", self._name, wanted, look)
                self.resize(wanted)
            await asyncio.sleep(LOOK_S)

    def _refusal(self) -> Outcome | None:
        """What a sender gets instead of an answer once this pool takes no more work."""
        if self._failure or not self._is_draining:
            return self._failure
        message = f"pool {self._name!r} is draining: it finishes what its replicas have, no more"
        return Outcome(error=message, is_draining=True)

    def _waiting(self) -> str:
        lives = self._lives
        return describe_waiting(lives.slots.values(), self._config, lives.num_places(), now_s())

    def _hand_out(self) -> None:
        while self._queue:
            batch = self._queue.peek()
            if not self._senders.is_waiting(batch):
                self._queue.pop()  # its sender was told already, because of another part
                continue
            slot = pick_slot(self._lives.slots.values(), batch, self._config, now_s())
            if slot is None:
                return
            self._queue.pop()
            if not slot.in_flight:
                slot.head_since_s = now_s()
            slot.in_flight.append(batch)
            self._lives.spawn(self._call(slot, batch))
        if self._lives.num_ready() and not any(slot.in_flight for slot in self._lives.links):
            self._release_suspects()  # nothing is left to tell poison from a dead engine by

    async def _call(self, slot: Slot, batch: Batch) -> None:
        """One attempt of `batch`, and what follows from it."""
        failure, is_settled = None, False
        try:
            status, answer = await self._lives.links[slot].call(batch.rows, batch.first, batch.last)
        except ReplicaDiedError as error:
            self._lives.note_death(slot, error)
            if take_blame(slot, batch):
                failure = charge(slot)
                batch.num_node_losses += failure is None
            elif charge(slot):
                batch.has_shared_death = True
        except RowsLostError as error:
            self._senders.end(batch.arrival, Outcome(error=str(error), is_lost=True))
            is_settled = True
        except Exception as error:  # an answer that does not pickle
            failure = Failure("engine_dead", f"{type(error).__name__}: {error}")
        else:
            failure = self._note_call(slot, status)
            if not status.error:
                self._note_answer(slot, batch, status.seconds, answer)
                is_settled = True
        if slot.in_flight[0] is batch:  # others may overtake it, and must not hide that it hangs
            slot.head_since_s = now_s()
        slot.in_flight.remove(batch)
        if failure:
            self._charge(batch, failure)
        elif not is_settled:
            self._put_back(batch, slot.end.kind if slot.end else "node_lost")
        self._lives.move_if_idle(slot)
        self._hand_out()

    def _note_call(self, slot: Slot, status: CallStatus) -> Failure | None:
        """What the batch is charged with; what runs on an engine that died before is not tried."""
        self._num_calls += 1
        self._busy_s_of[slot.index] += status.busy_s
        if slot.has_blamed or not status.error:
            return None
        if not status.is_engine_dead:
            return Failure("wrong_row_count", status.error)
        slot.has_blamed = True
        self._lives.kill(slot, End("engine_dead", f"its engine died: {status.error}"))
        return Failure("engine_dead", status.error)

    def _note_answer(self, slot: Slot, batch: Batch, seconds: float, answer: Any) -> None:
        slot.num_done += 1
        is_only = self._config.calls_per_replica == 1
        note_seconds(slot, now_s() - slot.head_since_s if is_only else seconds)
        self._num_rows += batch.num_rows
        self._lives.canary = batch  # the latest: its rows are the likeliest to be still there
        self._senders.answer(batch, answer)
        self._release_suspects()

    def _charge(self, batch: Batch, failure: Failure) -> None:
        batch.causes.append(failure)
        logger.warning("pool %s: a batch failed: %s", self._name, failure.message)
        verdict = judge(batch, self._config.max_attempts)
        if verdict is Verdict.POISON and (self._lives.canary or self._refusal() is None):
            self._suspects.append(batch)
            if self._lives.canary:
                self._release_suspects()
        elif verdict is Verdict.BREAK_UP:
            for row in single_rows(batch):
                self._put_back(row, failure.kind)
        else:
            self._put_back(batch, failure.kind)

    def _release_suspects(self) -> None:
        for batch in self._suspects:
            self._num_poison += 1
            self._senders.answer(batch, to_poison(self._name, batch))
        self._suspects.clear()

    def _put_back(self, batch: Batch, why: EndKind) -> None:
        if refusal := self._refusal():
            self._senders.end(batch.arrival, refusal)
        elif batch.num_node_losses > MAX_NODE_LOSSES:
            message = node_losses_message(self._name, batch, self._lives.last_failure)
            self._senders.end(batch.arrival, Outcome(error=message))
        else:
            self._retries[why] += 1
            self._queue.push(batch)

    def _fail(self, outcome: Outcome) -> None:
        """Ends the pool: every waiter, and every later sender, gets `outcome`.

        Where the pool is draining they get that instead: its work is wanted in the next attempt.
        """
        if self._failure:
            return
        self._failure = outcome = self._refusal() or outcome
        self._queue.take_all()
        self._suspects.clear()
        self._senders.end_all(outcome)
        self._lives.kill_all()
        self._notify()

    def _take_ready(self) -> None:
        self._notify()
        self._hand_out()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
