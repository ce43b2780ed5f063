"""The dispatcher over replicas that are plain coroutines: every failure, no process, no waiting."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from cluster.dispatch import PoolConfig
from cluster.dispatcher import Dispatcher, Outcome, ReplicaDiedError
from cluster.replica import CallStatus

Answer = Callable[["FakeReplica", Any], Awaitable[tuple[CallStatus, Any]]]


class FakeReplica:
    """A process that answers as the test says, one call at a time, until it is killed."""

    def __init__(
        self, index: int, answer: Answer, load_error: str, load_s: float, start_s: float
    ) -> None:
        self.index = index
        self.calls: list[Any] = []
        self._answer = answer
        self._load_error = load_error
        self._load_s = load_s
        self._start_s = start_s
        self._turn = asyncio.Lock()
        self.dead = asyncio.Event()
        self.last_words = "the process was killed"

    async def start(self) -> int:
        await self.until_dead(asyncio.sleep(self._start_s))
        return 1000 + self.index

    async def load(self) -> str:
        await self.until_dead(asyncio.sleep(self._load_s))
        return self._load_error

    async def call(self, rows: Any) -> tuple[CallStatus, Any]:
        return await self.until_dead(self._one(rows))

    async def watch(self) -> None:
        await self.until_dead(asyncio.Event().wait())

    def kill(self) -> None:
        self.dead.set()

    async def _one(self, rows: Any) -> tuple[CallStatus, Any]:
        async with self._turn:
            self.calls.append(rows)
            return await self._answer(self, rows)

    async def until_dead(self, work: Coroutine[Any, Any, Any]) -> Any:
        task, death = asyncio.ensure_future(work), asyncio.ensure_future(self.dead.wait())
        await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            death.cancel()
            return task.result()
        task.cancel()
        raise ReplicaDiedError(self.last_words)


async def echo(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
    await asyncio.sleep(0.005)
    return CallStatus(seconds=0.005), rows


class Pool:
    """A started dispatcher, and every replica it launched."""

    def __init__(self, answer: Answer = echo, /, **config: Any) -> None:
        self.replicas: list[FakeReplica] = []
        self.load_errors: list[str] = []
        self.load_seconds: dict[int, float] = {}
        self.start_seconds: dict[int, float] = {}
        self._answer = answer
        self.dispatcher = Dispatcher("generator", PoolConfig(**config), self._launch)
        self.dispatcher.start()

    def _launch(self, index: int) -> FakeReplica:
        error = self.load_errors.pop(0) if self.load_errors else ""
        load_s = self.load_seconds.get(index, 0.0)
        start_s = self.start_seconds.get(index, 0.0)
        self.replicas.append(FakeReplica(index, self._answer, error, load_s, start_s))
        return self.replicas[-1]

    async def run(self, batches: list[Any], order: int = 0) -> list[Outcome]:
        sent = (self.dispatcher.submit(rows, 8, order) for rows in batches)
        return await asyncio.wait_for(asyncio.gather(*sent), 5)


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 10))

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@in_loop
async def test_every_batch_is_answered_once_and_counted() -> None:
    pool = Pool(num_replicas=3)
    outcomes = await pool.run(list(range(20)))
    assert [outcome.payload for outcome in outcomes] == list(range(20))
    assert sorted(rows for replica in pool.replicas for rows in replica.calls) == list(range(20))
    stats = pool.dispatcher.stats()
    assert (stats.num_loads, stats.num_calls, stats.num_rows) == (3, 20, 160)
    assert (stats.queue_length, stats.in_flight, stats.num_retries) == (0, 0, 0)
    assert stats.busy_s == pytest.approx(0.1)


@in_loop
async def test_load_is_spread_evenly() -> None:
    pool = Pool(num_replicas=4, in_flight_per_replica=2)
    await pool.dispatcher.wait_ready(4, 5)
    await pool.run(list(range(8)))
    assert [len(replica.calls) for replica in pool.replicas] == [2, 2, 2, 2]


@in_loop
async def test_older_unit_overtakes_what_waits() -> None:
    pool = Pool(in_flight_per_replica=1)
    young = asyncio.ensure_future(pool.run(["y0", "y1", "y2"], order=9))
    await asyncio.sleep(0)
    await pool.run(["old"], order=1)
    await young
    assert pool.replicas[0].calls.index("old") <= 1


@in_loop
async def test_work_begins_with_the_first_ready_replica() -> None:
    pool = Pool(num_replicas=2)
    pool.load_seconds = {1: 60.0}
    assert await pool.run([1]) == [Outcome(payload=1)]
    waited = await pool.dispatcher.wait_ready(2, 0.01)
    assert "1 of 2 replicas ready after 0.01 s: of 2 replicas 1 load their model" in waited.error


@in_loop
async def test_stats_say_what_is_not_placed_and_what_still_loads() -> None:
    pool = Pool(num_replicas=4, num_gpus=2, load_timeout_s=50)
    pool.start_seconds = {0: 60.0, 1: 60.0}
    pool.load_seconds = {2: 60.0}
    await pool.dispatcher.wait_ready(1, 5)
    assert pool.dispatcher.stats().waiting == (
        "of 4 replicas 2 wait for resources (1 CPUs and 2 GPUs each, 0 s so far), "
        "1 load their model (0 s so far, load_timeout_s is 50)"
    )
    pool.dispatcher.close()
    assert pool.dispatcher.stats().waiting == ""


@in_loop
async def test_nothing_waits_once_every_replica_is_ready() -> None:
    pool = Pool(num_replicas=2)
    await pool.dispatcher.wait_ready(2, 5)
    assert pool.dispatcher.stats().waiting == ""


@in_loop
async def test_death_charges_the_running_batch_only() -> None:
    async def die_once(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        if len(pool.replicas) == 1:
            replica.kill()
            await asyncio.sleep(1)
        return await echo(replica, rows)

    pool = Pool(die_once, max_attempts=2)
    outcomes = await pool.run(["runs", "waits", "queued"])
    assert [outcome.payload for outcome in outcomes] == ["runs", "waits", "queued"]
    stats = pool.dispatcher.stats()
    assert (stats.num_loads, stats.num_restarts, stats.num_retries) == (2, 1, 2)
    assert "the process was killed" in stats.last_failure


@in_loop
async def test_death_of_an_idle_replica_is_noticed_and_mended() -> None:
    pool = Pool()
    await pool.dispatcher.wait_ready(1, 5)
    pool.replicas[0].kill()
    await asyncio.sleep(0.01)
    assert pool.dispatcher.stats().num_restarts == 1
    assert (await pool.run([1]))[0].payload == 1


@in_loop
async def test_any_number_of_deaths_is_borne_while_work_gets_done_between() -> None:
    async def die_after_two(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        if len(replica.calls) > 2:
            replica.kill()
            await asyncio.sleep(1)
        return await echo(replica, rows)

    pool = Pool(die_after_two, max_restarts=1, max_attempts=2)
    outcomes = await pool.run(list(range(12)))
    assert [outcome.payload for outcome in outcomes] == list(range(12))
    assert pool.dispatcher.stats().num_restarts >= 4


@in_loop
async def test_deaths_in_a_row_exhaust_the_pool_and_tell_everyone() -> None:
    async def die(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        replica.last_words = "Worker exit type: OOM"
        replica.kill()
        await asyncio.sleep(1)
        raise AssertionError

    pool = Pool(die, max_restarts=1, max_attempts=99)
    outcomes = await pool.run([1, 2, 3])
    for outcome in (*outcomes, await pool.dispatcher.submit(4, 8, 0)):
        assert "pool 'generator' has no replica left" in outcome.error
        assert "Worker exit type: OOM" in outcome.error
        assert not outcome.is_load_error


@in_loop
async def test_dead_engine_costs_an_attempt_and_the_replica() -> None:
    async def broken(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        if rows == "poison":
            return CallStatus(seconds=0, error="RuntimeError: boom", is_engine_dead=True), None
        return await echo(replica, rows)

    pool = Pool(broken, max_attempts=2, max_restarts=5)
    poison, good = await pool.run(["poison", "good"])
    assert "attempt 1: RuntimeError: boom; attempt 2: RuntimeError: boom" in poison.error
    assert good.payload == "good"
    await pool.dispatcher.wait_ready(1, 5)
    assert pool.dispatcher.stats().num_loads == 3


@in_loop
async def test_wrong_answer_costs_an_attempt_but_no_replica() -> None:
    async def wrong(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        return CallStatus(seconds=0, error="returned 7 rows for 8 rows"), None

    pool = Pool(wrong, max_attempts=3)
    (outcome,) = await pool.run([1])
    assert "after 3 attempts (attempt 1: returned 7 rows for 8 rows" in outcome.error
    assert pool.dispatcher.stats().num_loads == 1


@in_loop
async def test_rows_lost_on_the_way_cost_an_attempt() -> None:
    async def lose(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        if len(replica.calls) == 1:
            raise OSError("object lost")
        return await echo(replica, rows)

    pool = Pool(lose)
    assert (await pool.run([1]))[0].payload == 1
    assert pool.dispatcher.stats().num_retries == 1


@in_loop
async def test_overdue_call_kills_its_replica_and_goes_elsewhere() -> None:
    async def hang_first(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        if replica is pool.replicas[0]:
            await asyncio.sleep(60)
        return await echo(replica, rows)

    pool = Pool(hang_first, call_timeout_s=0.1)
    outcomes = await pool.run(["slow", "behind"])
    assert [outcome.payload for outcome in outcomes] == ["slow", "behind"]
    assert "a call took more than call_timeout_s = 0.1 s" in pool.dispatcher.stats().last_failure


@in_loop
async def test_first_load_that_fails_fails_everyone_at_once() -> None:
    pool = Pool(num_replicas=2)
    pool.load_errors = ["OSError: no file model.safetensors"] * 2
    outcomes = await pool.run([1, 2])
    for outcome in (*outcomes, await pool.dispatcher.wait_ready(1, 5)):
        assert outcome.is_load_error
        assert "could not load its model: OSError: no file model.safetensors" in outcome.error
    assert len(pool.replicas) == 2


@in_loop
async def test_replacement_that_fails_to_load_is_one_more_death() -> None:
    pool = Pool()
    await pool.dispatcher.wait_ready(1, 5)
    pool.load_errors = ["CUDA out of memory"]
    pool.replicas[0].kill()
    await asyncio.sleep(0.01)
    assert (await pool.run([1]))[0].payload == 1
    stats = pool.dispatcher.stats()
    assert (stats.num_loads, stats.num_restarts) == (2, 2)


@in_loop
async def test_load_past_its_time_is_a_death() -> None:
    pool = Pool(load_timeout_s=0.02, max_restarts=0)
    pool.load_seconds = {0: 60.0}
    outcome = await pool.dispatcher.wait_ready(1, 5)
    assert "loading took more than load_timeout_s = 0.02 s" in outcome.error
    assert outcome.is_load_error
    assert pool.replicas[0].dead.is_set()


@in_loop
async def test_close_answers_whoever_waits_and_kills_every_replica() -> None:
    async def hang(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        await asyncio.sleep(60)
        raise AssertionError

    pool = Pool(hang, num_replicas=2)
    waiting = asyncio.ensure_future(pool.run([1, 2, 3, 4, 5, 6]))
    await pool.dispatcher.wait_ready(2, 5)
    pool.dispatcher.close()
    pool.dispatcher.close()
    assert {outcome.error for outcome in await waiting} == {"pool 'generator' is closed"}
    assert all(replica.dead.is_set() for replica in pool.replicas)
    assert (await pool.dispatcher.submit(7, 8, 0)).error == "pool 'generator' is closed"
