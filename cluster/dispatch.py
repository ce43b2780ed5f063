"""What a pool decides, purely: which batch next, to whom, and what keeps a replica from work.

Policy: the lowest `order` first, then the earliest arrival, to the replica that will get to it
soonest by how long its calls took so far. What a failed attempt means is in `isolation.py`.

Limits: no clock, no Ray, no asyncio, so that a policy can be tested, or replayed, without a
cluster.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal, Protocol, runtime_checkable

Row = dict[str, Any]
BatchFunction = Callable[[list[Row]], list[Row]]


@runtime_checkable
class BatchSteps(Protocol):
    """A batch function in three steps, so that its model never waits for the CPU.

    While `work` has one batch, `prepare` may have the next one and `finish` the one before, each on
    a thread of its own; all the batches go through each of them in one order.
    """

    def prepare(self, rows: list[Row]) -> Any: ...
    def work(self, prepared: Any) -> Any: ...
    def finish(self, worked: Any) -> list[Row]: ...


PoisonKind = Literal["replica_died", "call_timeout", "engine_dead", "wrong_row_count"]
EndKind = PoisonKind | Literal["node_lost", "moved"]
ReplicaState = Literal["ready", "loading", "pending", "leaving", "over"]


@dataclass(frozen=True)
class Poison:
    """What stands in the place of a row that failed alone, again and again."""

    kind: PoisonKind
    """How its last attempt failed."""
    message: str
    attempts: int
    """Charged to it and, before it was alone, to its batch."""


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """How many replicas of one model there are, what each holds, and how much failure is borne."""

    num_replicas: int = 1
    """With `min_replicas` the most that there may be."""
    min_replicas: int | None = None
    """The pool grows and shrinks with its work, between this and `num_replicas`, and a replica that
    is not there holds no GPU: a cluster that scales brings nodes for those to come and takes the
    empty ones back. 0 where no pool should hold a GPU without work. null: always all."""
    idle_s: float = 120.0
    """For so long fewer replicas must have done before any go; more than a load takes."""
    num_gpus: float = 0.0
    """GPUs of one replica: a fraction lets several share one."""
    num_cpus: float = 1.0
    """CPUs of one replica; Ray also sets OMP_NUM_THREADS from it (at least 1)."""
    batch_size: int = 8
    in_flight_per_replica: int = 2
    """One batch running, one waiting with its rows already fetched."""
    calls_per_replica: int = 1
    """Batches that a replica works on at a time: more only for an engine that batches by itself, as
    vLLM does; each adds one to those in flight."""
    max_restarts: int = 3
    """Replacements of one replica in a row, without a finished batch in between: a spot fleet may
    lose a replica any number of times, a model that always crashes ends the run."""
    max_attempts: int = 3
    """Failed attempts that make a row poison; all but the last one may be its whole batch's."""
    load_timeout_s: float = 900.0
    """From the moment the replica has its resources; waiting for a node does not count."""
    call_timeout_s: float = 600.0

    def __post_init__(self) -> None:
        counts = ("num_replicas", "batch_size", "in_flight_per_replica", "calls_per_replica")
        for name in counts:
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        # With one attempt a whole batch would have to answer for its worst row.
        _require("max_attempts", self.max_attempts, self.max_attempts >= 2, "at least 2")
        for name in ("num_gpus", "num_cpus", "max_restarts"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        is_between = 0 <= (self.min_replicas or 0) <= self.num_replicas
        _require("min_replicas", self.min_replicas, is_between, "from 0 to num_replicas")
        for name in ("load_timeout_s", "call_timeout_s", "idle_s"):
            _require(name, getattr(self, name), getattr(self, name) > 0, "seconds above 0")
        is_possible = self.num_gpus <= 1 or self.num_gpus == int(self.num_gpus)
        _require("num_gpus", self.num_gpus, is_possible, "a fraction up to 1 or whole")

    @property
    def is_elastic(self) -> bool:
        """The pool sizes itself."""
        return self.least_replicas < self.num_replicas or self.min_replicas == 0

    @property
    def least_replicas(self) -> int:
        """As many are asked for at the start; with fewer, nothing gets done."""
        return self.num_replicas if self.min_replicas is None else max(1, self.min_replicas)

    @property
    def max_in_flight(self) -> int:
        """Batches that a replica has at most, running and waiting."""
        return self.in_flight_per_replica + self.calls_per_replica - 1


def _require(name: str, value: object, is_met: bool, demand: str) -> None:
    if not is_met:
        raise ValueError(f"field {name!r} of a pool is {value!r}: must be {demand}; correct it")


@dataclass(frozen=True, kw_only=True)
class PoolStats:
    """Counts since the pool started; `busy_s` sums the seconds in which batch functions
    worked, those with several at a time once."""

    num_replicas: int
    """As many as there are to be now: `PoolConfig.num_replicas`, what `resize` said last, or what
    the work of an elastic pool asks for."""
    num_replicas_ready: int
    num_loads: int
    num_restarts: int
    num_calls: int
    num_rows: int
    num_retries: int
    queue_length: int
    in_flight: int
    busy_s: float
    load_s: float = 0.0
    """What the latest load took, from the process's start to a replica that takes work."""
    num_poison: int = 0
    """Rows that were given up; each is in the place of its answer."""
    num_node_losses: int = 0
    """Lives of replicas that ended with their node."""
    is_draining: bool = False
    replica_pids: tuple[int, ...] = ()
    last_failure: str = ""
    waiting: str = ""
    """Which replicas are not at work and what for, as a text to log; empty when all are."""
    queue_rows: int = 0
    replica_states: Mapping[ReplicaState, int] = field(default_factory=dict[ReplicaState, int])
    retries: Mapping[EndKind, int] = field(default_factory=dict[EndKind, int])
    """`num_retries` by how the call before had ended."""
    busy_s_of: Mapping[int, float] = field(default_factory=dict[int, float])
    """`busy_s` by the number of the replica, which its next lives keep."""


@dataclass(frozen=True)
class Failure:
    """One attempt that a batch is charged with."""

    kind: PoisonKind
    message: str


@dataclass(order=True)
class Batch:
    """One call to come, ordered by the age of its unit, then by arrival, also when retried."""

    order: int
    arrival: int
    first: int
    """With `last`: which part of `rows` is meant, as in a slice."""
    last: int = field(compare=False)
    rows: Any = field(compare=False, repr=False)
    """Opaque here: a reference to the rows, never the rows."""
    causes: list[Failure] = field(default_factory=list[Failure], compare=False)
    num_node_losses: int = field(default=0, compare=False)
    """Attempts that were lost with a node, which is nobody's fault."""
    has_shared_death: bool = field(default=False, compare=False)
    """Its replica died with it behind the batch that was charged."""

    @property
    def must_run_alone(self) -> bool:
        return bool(self.causes) or self.has_shared_death

    @property
    def num_rows(self) -> int:
        return self.last - self.first


class BatchQueue:
    """The batches nobody has taken yet, oldest first."""

    def __init__(self) -> None:
        self._heap: list[Batch] = []

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, batch: Batch) -> None:
        heapq.heappush(self._heap, batch)

    def peek(self) -> Batch:
        return self._heap[0]

    def pop(self) -> Batch:
        return heapq.heappop(self._heap)

    @property
    def num_rows(self) -> int:
        return sum(batch.num_rows for batch in self._heap)

    def take_all(self) -> list[Batch]:
        taken, self._heap = self._heap, []
        return taken


@dataclass(frozen=True)
class End:
    """Why a life of a replica ended: by a batch, with its node, or to be moved off that node."""

    kind: EndKind
    reason: str


@dataclass(eq=False)
class Slot:
    """One life of one replica as the dispatcher sees it."""

    index: int
    since_s: float = 0.0
    """When it began to wait for its resources or, once it has a `pid`, to load."""
    is_ready: bool = False
    is_proving: bool = False
    """It answers for the life before it, on a row that was answered once, before it gets work."""
    is_leaving: bool = False
    """Its node is draining: it finishes what it has and is replaced elsewhere."""
    is_over: bool = False
    pid: int = 0
    node_id: str = ""
    num_done: int = 0
    """Answers, its proof included."""
    in_flight: list[Batch] = field(default_factory=list[Batch])
    """In the order they were sent: the first `calls_per_replica` of them run."""
    head_since_s: float = 0.0
    """When the first one in flight became the first one."""
    call_s: float | None = None
    """What a call takes here: a mean in which the latest count most; None before the first."""
    end: End | None = None
    has_blamed: bool = False
    """Some batch already answers for the end of this life."""


def state_of(slot: Slot) -> ReplicaState:
    """Where a life is; `pending` while it waits for resources, `loading` also while it proves
    itself, `over` until the next life begins."""
    if slot.is_over or slot.end:
        return "over"
    if slot.is_leaving:
        return "leaving"
    if slot.is_ready:
        return "ready"
    return "loading" if slot.pid else "pending"


def note_seconds(slot: Slot, seconds: float) -> None:
    """Keeps what a call takes at `slot`; of the first, which may compile, little is left soon."""
    slot.call_s = seconds if slot.call_s is None else slot.call_s + 0.3 * (seconds - slot.call_s)


def pick_slot(slots: Iterable[Slot], batch: Batch, config: PoolConfig, now_s: float) -> Slot | None:
    """The ready replica that is expected to get to `batch` first, or None while that one is full.

    So a GPU that is three times slower than the others does not take a second batch that they would
    have finished before it began (tests/benchmarks/order_policies.py: where one of 8 is slow and
    calls vary by cv .5, efficiency .974 instead of .960).

    A batch that was in a death before runs alone: while one is finished, or its answer on its way,
    the next batch may kill the process, and the one before is charged. Seen with calls of 0 s: an
    innocent row was beside a poison one at all three attempts, and became poison. And a poison
    batch that hid behind busy ones went from replica to replica and killed all of them.
    """
    most = 1 if batch.must_run_alone else config.max_in_flight
    takers = [
        slot
        for slot in slots
        if slot.is_ready
        and not slot.is_leaving
        and not any(other.must_run_alone for other in slot.in_flight)
    ]
    known = [slot.call_s for slot in takers if slot.call_s is not None]
    usual_s = sum(known) / len(known) if known else 0.0

    def wait_s(slot: Slot) -> tuple[float, int]:
        call_s = usual_s if slot.call_s is None else slot.call_s
        so_far_s = min(now_s - slot.head_since_s, call_s) if slot.in_flight else 0.0
        before_s = call_s * len(slot.in_flight) - so_far_s
        return before_s / config.calls_per_replica, len(slot.in_flight)

    first = min(takers, key=wait_s, default=None)
    return first if first is not None and len(first.in_flight) < most else None


def queue_seconds(ready: Sequence[Slot], queue_length: int, config: PoolConfig) -> float:
    """What so many batches take with these replicas, by their calls so far; infinite without any.

    Before the first call, 0: it may be the slowest of all, and nothing else is known.
    """
    if not ready:
        return inf
    known = [slot.call_s for slot in ready if slot.call_s is not None]
    usual_s = sum(known) / len(known) if known else 0.0
    return queue_length * usual_s / (len(ready) * config.calls_per_replica)


def is_overdue(slot: Slot, now_s: float, call_timeout_s: float) -> bool:
    """Whether the running batch of `slot` has had its time; those behind it have no clock yet."""
    return bool(slot.in_flight) and now_s - slot.head_since_s > call_timeout_s


def restart_delay_s(num_deaths: int) -> float:
    """Seconds before the next life: none at first, then doubling, so that crash loops are slow."""
    return 0.0 if num_deaths <= 1 else min(30.0, 0.5 * 2 ** (num_deaths - 2))


def describe_waiting(
    slots: Iterable[Slot], config: PoolConfig, num_replicas: int, now_s: float
) -> str:
    """Which replicas get no work, why and for how long; empty when all do."""
    states = [(slot, state_of(slot)) for slot in slots]

    def those(state: ReplicaState) -> list[Slot]:
        return [slot for slot, its in states if its == state]

    over, leaving, unplaced = those("over"), those("leaving"), those("pending")
    proving = [slot for slot in those("loading") if slot.is_proving]
    loading = [slot for slot in those("loading") if not slot.is_proving]
    parts: list[str] = []
    if unplaced:
        parts.append(
            f"{len(unplaced)} wait for resources ({config.num_cpus:g} CPUs and "
            f"{config.num_gpus:g} GPUs each, {_longest_s(unplaced, now_s):.0f} s so far)"
        )
    if loading:
        parts.append(
            f"{len(loading)} load their model ({_longest_s(loading, now_s):.0f} s so far, "
            f"load_timeout_s is {config.load_timeout_s:g})"
        )
    if proving:
        verb = "proves itself" if len(proving) == 1 else "prove themselves"
        parts.append(
            f"{len(proving)} {verb} again after a death ({_longest_s(proving, now_s):.0f} s so "
            f"far, call_timeout_s is {config.call_timeout_s:g})"
        )
    if leaving:
        parts.append(f"{len(leaving)} finish their batches on a draining node")
    if over:
        parts.append(f"{len(over)} ended and are started again")
    return f"of {num_replicas} replicas " + ", ".join(parts) if parts else ""


def _longest_s(slots: Iterable[Slot], now_s: float) -> float:
    return max(now_s - slot.since_s for slot in slots)


def slices(rows: Sequence[Row], batch_size: int) -> list[list[Row]]:
    """`rows` cut into batches of `batch_size`, in order, the last one possibly shorter."""
    return [list(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]
