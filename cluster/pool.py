"""The shared pool of one model: any number of stages send batches, each GPU holds the model once.

A `Pool` is a small handle that pickles into stages. Behind it stand one dispatcher actor (policy:
`dispatcher.py`) and its replicas (`replica.py`). Rows travel as object references: a stage puts a
batch, a replica fetches it, and the answer is a reference again; the dispatcher sees a reference
and a small status, the driver nothing. Rows come back answered, or as `Poison`.

Limits: answers under 100 KB are inlined by Ray and so do pass the dispatcher's process, unread.
The dispatcher is not restarted: when it dies, or the driver does, the pool is gone and the run is
resumed from its ledger.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cluster.dispatch import BatchFunction, Poison, PoolConfig, PoolStats, Row, slices
from cluster.dispatcher import Dispatcher
from cluster.errors import DrainingError, ModelLoadError, PoolError
from cluster.lives import ReplicaDiedError, RowsLostError
from cluster.metrics import fill_observer
from cluster.placement import on_node
from cluster.replica import CallStatus, Replica
from cluster.senders import Outcome

__all__ = ["BatchFunction", "Poison", "Pool", "PoolConfig", "PoolStats", "Row", "start_pool"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A waiting sender costs the dispatcher a coroutine; Ray's default of 1000 would block the rest.
MAX_WAITING = 100_000
# Before a batch is sent again whose way to the dispatcher was cut.
UNAVAILABLE_S = 1.0
DRAIN_TRIES, DRAIN_TIMEOUT_S = 3, 5.0
# A spot notice is 30 s (Azure) to 120 s (AWS) ahead; asking costs 0.3 ms.
NODES_POLL_S = 1.0


def _ray() -> Any:
    """Ray, imported late (`pairloom plan` must not pay for it) and untyped: the seam to Any."""
    import ray

    return ray


@dataclass(kw_only=True)
class Pool:
    """A handle on a running pool; copies of it in other processes reach the same replicas."""

    name: str
    config: PoolConfig
    _dispatcher: Any = field(repr=False)

    async def run(self, rows: list[Row], *, order: int = 0) -> list[Row | Poison]:
        """Answers `rows` in their order; a lower `order` (an older unit) is served first.

        A row that failed `max_attempts` times, alone in the end, is a `Poison` in its place.

        Raises:
            DrainingError: the pool takes no more work, so some of these rows were refused.
            ModelLoadError: the model could not be loaded.
            PoolError: the pool has no replica left, or rows were lost with their nodes too often.
        """
        batches = slices(rows, self.config.batch_size)
        answers = await asyncio.gather(*(self._run_batch(batch, order) for batch in batches))
        return [row for answer in answers for row in answer]

    def run_blocking(self, rows: list[Row], *, order: int = 0) -> list[Row | Poison]:
        """`run` for a caller without an event loop."""
        return asyncio.run(self.run(rows, order=order))

    def wait_ready(self, timeout_s: float, *, num_replicas: int = 1) -> None:
        """Waits for the first `num_replicas` replicas, or raises what keeps them away."""
        wait = self._dispatcher.wait_ready.remote(num_replicas, timeout_s)
        _raise_failure(self._get(wait))

    def stats(self, timeout_s: float | None = None) -> PoolStats:
        """What the pool has done so far.

        Raises:
            PoolError: it is gone.
            ray.exceptions.GetTimeoutError: it did not answer in time.
        """
        return self._get(self._dispatcher.stats.remote(), timeout_s)

    def resize(self, num_replicas: int) -> None:
        """Has that many replicas from now on; returns before they are there, or gone.

        Raises:
            ValueError: fewer than one, or the pool sizes itself.
        """
        if self.config.is_elastic:
            raise ValueError(
                f"pool {self.name!r} follows its work, between min_replicas = "
                f"{self.config.min_replicas} and num_replicas = {self.config.num_replicas}: leave "
                "min_replicas out if others are to size it"
            )
        if num_replicas < 1:
            raise ValueError(f"pool {self.name!r}: num_replicas is {num_replicas}: at least 1")
        self._dispatcher.resize.remote(num_replicas)

    def drain(self) -> None:
        """Finishes what the replicas have and refuses the rest; returns before that is done."""
        # Heard, not just said: with a drain that was lost on its way new work was begun for the
        # whole grace time.
        ray = _ray()
        for _ in range(DRAIN_TRIES):
            try:
                return ray.get(self._dispatcher.drain.remote(), timeout=DRAIN_TIMEOUT_S)
            except (ray.exceptions.ActorUnavailableError, ray.exceptions.GetTimeoutError) as error:
                logger.warning("pool %s did not hear that it is to drain: %s", self.name, error)
            except ray.exceptions.RayActorError:
                return  # it is gone: nothing begins there any more

    def close(self) -> None:
        """Kills the replicas, then the dispatcher; nothing happens where they are gone already."""
        ray = _ray()
        if not ray.is_initialized():
            return
        with contextlib.suppress(ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            ray.get(self._dispatcher.close.remote(), timeout=10)
        # Its replicas are owned by it, so Ray ends them with it even if `close` was not answered.
        ray.kill(self._dispatcher, no_restart=True)

    async def _run_batch(self, rows: list[Row], order: int) -> list[Row | Poison]:
        ray = _ray()
        for _ in range(self.config.max_attempts):
            rows_ref = ray.put(rows)
            # In a list Ray passes a reference on; bare, it would carry the rows there.
            sent = self._dispatcher.submit.remote([rows_ref], len(rows), order)
            try:
                outcome: Outcome = await sent
            except ray.exceptions.ActorUnavailableError as error:
                # The way there, not the dispatcher: the batch may be done twice, never wrongly.
                logger.warning("pool %s: %s", self.name, _one_line(error))
                await asyncio.sleep(UNAVAILABLE_S)
                continue
            except ray.exceptions.RayActorError as error:
                raise self._is_gone(error) from error
            if outcome.is_lost:
                logger.warning("pool %s: rows were lost on their way: %s", self.name, outcome.error)
                continue
            _raise_failure(outcome)
            try:
                return [row for part in outcome.parts for row in await _open(part)]
            except ray.exceptions.ObjectLostError as error:
                logger.warning("pool %s: an answer was lost with its node: %s", self.name, error)
        raise PoolError(
            f"pool {self.name!r}: a batch of {len(rows)} rows, or its answer, was lost on its way "
            f"{self.config.max_attempts} times; look for nodes that run out of memory or disk, or "
            "cannot reach each other"
        )

    def _get(self, reference: Any, timeout_s: float | None = None) -> Any:
        ray = _ray()
        try:
            return ray.get(reference, timeout=timeout_s)
        except ray.exceptions.RayActorError as error:
            raise self._is_gone(error) from error

    def _is_gone(self, error: Exception) -> PoolError:
        return PoolError(
            f"the dispatcher of pool {self.name!r} is gone ({_one_line(error)}): the pool was "
            "closed or its process died; run the same command again to resume"
        )


def start_pool(
    name: str,
    factory: Callable[[], BatchFunction],
    config: PoolConfig,
    *,
    rest_after_s: float = 0.0,
    places: Sequence[Mapping[str, Any]] = (),
) -> Pool:
    """Starts a pool and returns at once; meanwhile each replica calls `factory` in its process.

    All replicas but the first are asked for with the first batch, or `rest_after_s` later.

    Args:
        places: further actor options of the first replicas, one by one (`sharing.py`).
    """
    ray = _ray()
    dispatcher = (
        ray.remote(_DispatcherActor)
        .options(
            num_cpus=0,
            max_concurrency=MAX_WAITING,
            max_restarts=0,
            max_task_retries=0,
            **on_node(ray.get_runtime_context().get_node_id()),
        )
        # Pickled here, unpickled in replicas only: the dispatcher needs no model packages.
        .remote(name, config, ray.cloudpickle.dumps(factory), rest_after_s, list(places))
    )
    dispatcher.start.remote()
    return Pool(name=name, config=config, _dispatcher=dispatcher)


async def _open(part: Any) -> list[Row | Poison]:
    """One part of an answer: a reference to rows, or what stands in the place of one row."""
    return [part] if isinstance(part, Poison) else await part


def _raise_failure(outcome: Outcome) -> None:
    if outcome.is_draining:
        raise DrainingError(outcome.error)
    if outcome.error:
        raise (ModelLoadError if outcome.is_load_error else PoolError)(outcome.error)


def _one_line(error: Exception, limit: int = 300) -> str:
    """The end of Ray's paragraph on a dead actor: the start is ids, the cause comes last."""
    text = " ".join(str(error).split())
    starts = [text.find(words) for words in ("The actor is dead because", "The actor died because")]
    return text[max(*starts, 0) :][:limit]


def _to_death(error: Exception) -> ReplicaDiedError:
    """What Ray says of a lost process, as far as it matters whose fault that was.

    A process that dies on a living node (abort, kernel OOM kill) is reported as such within
    milliseconds by that node, and a kill by Ray's memory monitor is an OutOfMemoryError. An actor
    that is merely unavailable has nobody left to report it: its node, or the way there, is gone
    (2 s after the loss; Ray itself is sure only after 10 s of missed heartbeats).
    """
    exceptions = _ray().exceptions
    is_node_lost = (
        isinstance(error, exceptions.ActorUnavailableError)
        or getattr(error, "preempted", False)
        or "because its node has died" in str(error)
    )
    return ReplicaDiedError(_one_line(error), is_node_lost=is_node_lost)


def _node_id() -> str:
    return _ray().get_runtime_context().get_node_id()


def _draining_nodes() -> set[str]:
    # Private, but what Ray Data and Ray Train ask as well (2.60): a node that got a spot notice.
    return set(_ray()._private.state.state.get_draining_nodes())


class _DispatcherActor:
    """The dispatcher as Ray sees it. Replicas belong to this process, so none outlives it."""

    def __init__(
        self,
        name: str,
        config: PoolConfig,
        factory_pickle: bytes,
        rest_after_s: float,
        places: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._label = f"{name}/dispatcher"
        replica_class = _ray().remote(Replica)

        def launch(index: int) -> _RayReplica:
            place = places[index] if index < len(places) else {}
            return _RayReplica(replica_class, f"{name}/{index}", config, factory_pickle, place)

        self._dispatcher = Dispatcher(name, config, launch, rest_after_s)
        self._watch: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return self._label

    async def start(self) -> None:
        """Whatever comes first does it: a call of `start` that was lost would be no call at all."""
        if self._watch is None:
            self._dispatcher.start()
            self._watch = asyncio.create_task(self._watch_nodes())

    async def submit(self, rows: list[Any], num_rows: int, order: int) -> Outcome:
        await self.start()
        return await self._dispatcher.submit(rows[0], num_rows, order)

    async def wait_ready(self, num_replicas: int, timeout_s: float) -> Outcome:
        await self.start()
        return await self._dispatcher.wait_ready(num_replicas, timeout_s)

    async def stats(self) -> PoolStats:
        return self._dispatcher.stats()

    async def resize(self, num_replicas: int) -> None:
        self._dispatcher.resize(num_replicas)

    async def drain(self) -> None:
        self._dispatcher.drain()

    async def close(self) -> None:
        if self._watch is not None:  # Ray may let a close overtake the start
            self._watch.cancel()
        self._dispatcher.close()

    async def _watch_nodes(self) -> None:
        while True:
            await asyncio.sleep(NODES_POLL_S)
            try:
                # On a thread: while the head restarts the question has no answer for a while.
                nodes = await asyncio.to_thread(_draining_nodes)
            except (OSError, _ray().exceptions.RayError) as error:
                logger.warning("%s: cannot ask which nodes drain: %s", self._label, error)
            else:
                self._dispatcher.set_draining_nodes(nodes)


class _RayReplica:
    """`ReplicaLink` over a Ray actor, pending until it is placed, so that autoscalers see it."""

    def __init__(
        self,
        replica_class: Any,
        label: str,
        config: PoolConfig,
        factory_pickle: bytes,
        place: Mapping[str, Any],
    ) -> None:
        self._factory_pickle = factory_pickle
        self._actor = replica_class.options(
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus,
            max_restarts=0,  # the dispatcher replaces it; Ray would bind its queue to the restart
            max_task_retries=0,
            max_concurrency=config.max_in_flight + 8,  # `watch` and a late call stay inside
            **place,
        ).remote(
            label,
            _node_id,
            config.calls_per_replica,
            fill_observer(label.partition("/")[0], config.batch_size),
        )

    async def start(self) -> tuple[int, str]:
        return await self._or_died(self._actor.start.remote())

    async def load(self) -> str:
        return await self._or_died(self._actor.load.remote(self._factory_pickle))

    async def call(self, rows: Any, first: int, last: int) -> tuple[CallStatus, Any]:
        # Bare here, so that Ray fetches the rows to the replica's node while the batch before runs.
        # Two results, because awaiting a reference unpickles it: the payload is passed on unopened.
        status, payload = self._actor.call.options(num_returns=2).remote(rows, first, last)
        try:
            return await self._or_died(status), payload
        except _ray().exceptions.ObjectLostError as error:
            raise RowsLostError(str(error)) from error

    async def watch(self) -> None:
        await self._or_died(self._actor.watch.remote())

    def kill(self) -> None:
        _ray().kill(self._actor, no_restart=True)

    async def _or_died(self, reference: Awaitable[T]) -> T:
        exceptions = _ray().exceptions
        try:
            return await reference
        except (exceptions.RayTaskError, exceptions.ObjectLostError):
            raise
        except exceptions.RayError as error:  # also what is no RayActorError: OutOfMemoryError
            raise _to_death(error) from error
