"""Pools on a real local Ray: processes, kills, references. Policy alone: test_dispatcher.py."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError

from cluster.errors import DrainingError, ModelLoadError, PoolError
from cluster.pool import (
    BatchFunction,
    Poison,
    Pool,
    PoolConfig,
    Row,
    _DispatcherActor,
    _to_death,
    start_pool,
)
from cluster.senders import Outcome
from cluster.session import SessionInfo

START_S = 60.0
SMALL = {"num_cpus": 0.1, "batch_size": 4}

StartPool = Callable[..., Pool]


@pytest.fixture
def start(local_ray: SessionInfo) -> Iterator[StartPool]:
    pools: list[Pool] = []

    def start_one(function: BatchFunction, **config: Any) -> Pool:
        pools.append(start_pool("generator", lambda: function, PoolConfig(**SMALL | config)))
        return pools[-1]

    yield start_one
    for pool in pools:
        pool.close()


def numbered(count: int, **more: Any) -> list[Row]:
    return [{"i": i, **more} for i in range(count)]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_until(is_met: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not is_met():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.05)


def test_two_replicas_answer_in_order_and_at_once(start: StartPool) -> None:
    def sleep(rows: list[Row]) -> list[Row]:
        time.sleep(0.4)
        return [{**row, "pid": os.getpid()} for row in rows]

    # Two logical GPUs and a fifth of a CPU, on a machine that need not have more.
    pool = start(sleep, num_replicas=2, num_gpus=1)
    pool.wait_ready(START_S, num_replicas=2)
    started_s = time.monotonic()
    rows = pool.run_blocking(numbered(30))
    wall_s = time.monotonic() - started_s
    stats = pool.stats()
    assert [row["i"] for row in rows] == list(range(30))
    assert {row["pid"] for row in rows} == set(stats.replica_pids)
    assert len(stats.replica_pids) == stats.num_loads == 2
    assert (stats.num_calls, stats.num_rows, stats.num_retries) == (8, 30, 0)
    assert stats.busy_s >= 8 * 0.4
    assert wall_s < 0.8 * stats.busy_s
    assert pool.run_blocking([]) == []


class Spy:
    """Notes which process unpickles it."""

    def __init__(self, log: str) -> None:
        self.log = log

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle_spy, (self.log,)


def _unpickle_spy(log: str) -> Spy:
    with Path(log).open("a") as out:
        out.write(f"{os.getpid()}\n")
    return Spy(log)


@pytest.mark.parametrize("size_bytes", [10, 300_000])
def test_rows_are_opened_by_the_replica_and_the_sender_only(
    start: StartPool, tmp_path: Path, size_bytes: int
) -> None:
    pool = start(lambda rows: rows)
    log = str(tmp_path / "pids")
    pool.run_blocking([{"spy": Spy(log), "image": b"x" * size_bytes}])
    opened_by = {int(line) for line in Path(log).read_text().split()}
    assert opened_by == {*pool.stats().replica_pids, os.getpid()}


def test_replica_that_dies_in_a_batch_loses_nothing(start: StartPool, tmp_path: Path) -> None:
    marker = tmp_path / "died"

    def die_once(rows: list[Row]) -> list[Row]:
        if rows[0]["i"] == 8 and not marker.exists():
            marker.touch()
            os._exit(1)
        return [{**row, "square": row["i"] ** 2} for row in rows]

    pool = start(die_once)
    rows = pool.run_blocking(numbered(40))
    assert rows == [{"i": i, "square": i**2} for i in range(40)]
    stats = pool.stats()
    assert (stats.num_loads, stats.num_restarts, stats.num_rows) == (2, 1, 40)
    assert "generator/0" in stats.last_failure


def test_replica_killed_from_outside_is_replaced_before_the_next_batch(start: StartPool) -> None:
    pool = start(lambda rows: rows)
    pool.wait_ready(START_S)
    (pid,) = pool.stats().replica_pids
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pool.stats().num_loads == 2)
    assert pool.run_blocking(numbered(9)) == numbered(9)
    assert pool.stats().num_retries == 0


def test_model_that_cannot_load_says_why_to_everyone_within_seconds(
    local_ray: SessionInfo,
) -> None:
    def broken() -> BatchFunction:
        raise OSError("no file model.safetensors in /models/sdxl")

    pool = start_pool("generator", broken, PoolConfig(**SMALL))
    started_s = time.monotonic()
    with pytest.raises(
        ModelLoadError, match=r"OSError: no file model\.safetensors in /models/sdxl"
    ):
        pool.run_blocking(numbered(2))
    with pytest.raises(ModelLoadError, match="generator/0 could not load its model"):
        pool.wait_ready(START_S)
    assert time.monotonic() - started_s < 20
    pool.close()


def test_function_that_always_raises_ends_the_pool_with_its_message(start: StartPool) -> None:
    def broken(rows: list[Row]) -> list[Row]:
        raise RuntimeError("CUDA error: device-side assert")

    pool = start(broken, max_restarts=1)
    with pytest.raises(PoolError, match=r"no replica left.*CUDA error: device-side assert"):
        pool.run_blocking(numbered(2))
    assert (pool.stats().num_calls, pool.stats().num_poison) == (2, 0)


def test_rows_that_always_come_back_in_the_wrong_number_are_poison(start: StartPool) -> None:
    def drop_the_last(rows: list[Row]) -> list[Row]:
        return [row for row in rows if row["i"] != 3]

    pool = start(drop_the_last)
    *good, poison = pool.run_blocking(numbered(4))
    assert good == numbered(3)
    assert isinstance(poison, Poison)
    assert (poison.kind, poison.attempts) == ("wrong_row_count", 3)
    assert "attempt 2: returned 3 rows for 4 rows" in poison.message
    assert "attempt 3: returned 0 rows for 1 rows" in poison.message
    assert (pool.stats().num_loads, pool.stats().num_poison) == (1, 1)


def test_poison_rows_cost_themselves_only(start: StartPool) -> None:
    def fragile(rows: list[Row]) -> list[Row]:
        if any(row["i"] == 5 for row in rows):
            os.abort()
        if any(row["i"] == 10 for row in rows):
            time.sleep(600)
        return rows

    pool = start(fragile, num_replicas=2, call_timeout_s=2.0)
    started_s = time.monotonic()
    rows = pool.run_blocking(numbered(24))
    wall_s = time.monotonic() - started_s
    aborts, hangs = rows[5], rows[10]
    assert isinstance(aborts, Poison)
    assert (aborts.kind, aborts.attempts) == ("replica_died", 3)
    assert isinstance(hangs, Poison)
    assert (hangs.kind, hangs.attempts) == ("call_timeout", 3)
    assert "attempt 3: a call took more than call_timeout_s = 2 s" in hangs.message
    assert [row for row in rows if not isinstance(row, Poison)] == [
        row for row in numbered(24) if row["i"] not in (5, 10)
    ]
    stats = pool.stats()
    assert stats.num_poison == 2
    # Three each; one more for a death that was charged to the batch sent along with the poison one.
    assert 6 <= stats.num_restarts <= 8
    assert wall_s < 30


def test_replicas_killed_from_outside_cost_no_row(start: StartPool) -> None:
    def slow(rows: list[Row]) -> list[Row]:
        time.sleep(0.2)
        return rows

    pool = start(slow, num_replicas=2)
    pool.wait_ready(START_S, num_replicas=2)

    async def kill_twice() -> list[Row | Poison]:
        answers = asyncio.ensure_future(pool.run(numbered(80)))
        for _ in range(2):
            await asyncio.sleep(1.0)
            pids = (await asyncio.to_thread(pool.stats)).replica_pids
            os.kill(pids[0], signal.SIGKILL)
        return await answers

    assert asyncio.run(kill_twice()) == numbered(80)
    stats = pool.stats()
    assert (stats.num_poison, stats.num_restarts, stats.num_rows) == (0, 2, 80)


def test_draining_pool_finishes_what_its_replica_has_and_refuses_the_rest(
    start: StartPool, tmp_path: Path
) -> None:
    log = tmp_path / "served"

    def note(rows: list[Row]) -> list[Row]:
        with log.open("a") as out:
            out.write(f"{rows[0]['unit']} ")
        time.sleep(1.0)
        return rows

    pool = start(note)

    async def send() -> list[Any]:
        units = [asyncio.ensure_future(pool.run(numbered(4, unit=unit))) for unit in "abc"]
        await asyncio.to_thread(wait_until, log.exists)
        pool.drain()
        pool.drain()
        return await asyncio.gather(*units, return_exceptions=True)

    # Which two of the three came first is not known: they are sent at once.
    answers = dict(zip("abc", asyncio.run(send()), strict=True))
    refused = [unit for unit, answer in answers.items() if isinstance(answer, DrainingError)]
    assert len(refused) == 1
    assert "pool 'generator' is draining" in str(answers.pop(refused[0]))
    for unit, answer in answers.items():
        assert answer == numbered(4, unit=unit)
    with pytest.raises(DrainingError):
        pool.run_blocking(numbered(1))
    assert pool.stats().is_draining
    assert sorted(log.read_text().split()) == sorted(answers)


def test_call_past_its_time_is_killed_and_retried(start: StartPool, tmp_path: Path) -> None:
    marker = tmp_path / "hung"

    def hang_once(rows: list[Row]) -> list[Row]:
        if not marker.exists():
            marker.touch()
            time.sleep(600)
        return rows

    pool = start(hang_once, call_timeout_s=1.0)
    assert pool.run_blocking(numbered(3)) == numbered(3)
    assert "call_timeout_s = 1 s" in pool.stats().last_failure


def test_older_unit_is_served_first(start: StartPool, tmp_path: Path) -> None:
    log = tmp_path / "served"

    def note(rows: list[Row]) -> list[Row]:
        with log.open("a") as out:
            out.write(f"{rows[0]['unit']} ")
        time.sleep(0.3)
        return rows

    pool = start(note, in_flight_per_replica=1)
    pool.wait_ready(START_S)

    async def send() -> None:
        first = asyncio.ensure_future(pool.run(numbered(4, unit="first"), order=9))
        await asyncio.to_thread(wait_until, log.exists)
        young = asyncio.ensure_future(pool.run(numbered(8, unit="young"), order=5))
        old = asyncio.ensure_future(pool.run(numbered(8, unit="old"), order=1))
        await asyncio.gather(first, young, old)

    asyncio.run(send())
    assert log.read_text().split() == ["first", "old", "old", "young", "young"]


def test_handle_works_in_tasks_and_in_async_actors(start: StartPool) -> None:
    pool = start(lambda rows: [{**row, "is_done": True} for row in rows])

    @ray.remote(num_cpus=0)
    def task(pool: Pool) -> list[Row]:
        return pool.run_blocking(numbered(6))

    @ray.remote(num_cpus=0)
    class Stage:
        def __init__(self, pool: Pool) -> None:
            self.pool = pool

        async def unit(self, order: int) -> list[Row]:
            return await self.pool.run(numbered(6), order=order)

    stage: Any = Stage.remote(pool)
    answers = ray.get([task.remote(pool), *(stage.unit.remote(order) for order in range(3))])
    assert answers == [numbered(6, is_done=True)] * 4
    assert pool.stats().num_loads == 1


def test_close_leaves_no_process_and_may_be_called_again(start: StartPool) -> None:
    pool = start(lambda rows: rows, num_replicas=2)
    pool.wait_ready(START_S, num_replicas=2)
    pids = pool.stats().replica_pids
    pool.close()
    pool.close()
    wait_until(lambda: not any(is_alive(pid) for pid in pids))
    with pytest.raises(PoolError, match="the dispatcher of pool 'generator' is gone"):
        pool.run_blocking(numbered(1))
    with pytest.raises(PoolError, match="run the same command again"):
        pool.stats()


def test_pool_without_resources_says_what_it_waits_for(start: StartPool) -> None:
    pool = start(lambda rows: rows, num_gpus=99)
    with pytest.raises(PoolError, match=r"0 of 1 replicas ready after 0\.2 s.*99 GPUs each"):
        pool.wait_ready(0.2)
    assert "of 1 replicas 1 wait for resources" in pool.stats().waiting


def test_dispatcher_and_replica_speak_ray_as_expected(local_ray: SessionInfo) -> None:
    """The actor's own code, run here where it can be watched, with a real replica behind it."""
    config = PoolConfig(**SMALL)
    factory = ray.cloudpickle.dumps(lambda: lambda rows: rows)

    async def work() -> None:
        actor = _DispatcherActor("generator", config, factory, 0.0, [])
        assert repr(actor) == "generator/dispatcher"
        await actor.start()
        assert await actor.wait_ready(1, START_S) == Outcome()
        outcome = await actor.submit([ray.put(numbered(3))], 3, 0)
        assert await outcome.parts[0] == numbered(3)
        os.kill((await actor.stats()).replica_pids[0], signal.SIGKILL)
        outcome = await actor.submit([ray.put(numbered(3))], 3, 0)
        assert await outcome.parts[0] == numbered(3)
        stats = await actor.stats()
        assert (stats.num_loads, stats.num_restarts) == (2, 1)
        assert "worker process has died" in stats.last_failure
        await actor.close()

    asyncio.run(work())


class LostAnswer:
    """A dispatcher whose answers are lost with their node, `num_lost` times."""

    def __init__(self, num_lost: int, rows: list[Row]) -> None:
        self.num_lost = num_lost
        self.rows = rows
        self.submit = self

    def remote(self, *sent: object) -> Awaitable[Outcome]:
        self.num_lost -= 1
        answer: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()
        if self.num_lost >= 0:
            answer.set_exception(ray.exceptions.ObjectLostError("ab" * 14, None, ""))
        else:
            answer.set_result(self.rows)

        async def outcome() -> Outcome:
            return Outcome(parts=(answer,))

        return outcome()


def test_answer_lost_with_its_node_is_asked_for_again(local_ray: SessionInfo) -> None:
    rows, config = numbered(2), PoolConfig(max_attempts=3)
    pool = Pool(name="generator", config=config, _dispatcher=LostAnswer(2, rows))
    assert pool.run_blocking(rows) == rows
    pool = Pool(name="generator", config=config, _dispatcher=LostAnswer(3, rows))
    with pytest.raises(PoolError, match="was lost on its way 3 times"):
        pool.run_blocking(rows)


@pytest.mark.parametrize(
    ("error", "is_node_lost"),
    [
        (RayActorError(error_msg="The actor is dead because its worker process has died."), False),
        (OutOfMemoryError("1 worker(s) were killed due to the node running low on memory"), False),
        (RayActorError(error_msg="The actor died because its node has died. Node Id: 9d6d"), True),
        (RayActorError(preempted=True), True),
        (ActorUnavailableError("RpcError: Socket closed rpc_code: 14", None), True),
    ],
)
def test_death_is_told_apart_from_the_loss_of_its_node(
    error: Exception, is_node_lost: bool
) -> None:
    """In the words of Ray 2.60 for: abort, memory monitor, SIGTERM, spot, raylet -9."""
    death = _to_death(error)
    assert death.is_node_lost is is_node_lost
    assert str(death)


DRIVER = """
import time
from cluster.pool import PoolConfig, start_pool
from cluster.session import SessionConfig, session
with session(SessionConfig()) as info:
    pool = start_pool("generator", lambda: lambda rows: rows, PoolConfig(num_cpus=0.1))
    pool.wait_ready(60)
    print(info.is_started_here, pool.stats().replica_pids[0], flush=True)
    time.sleep(600)
"""


def test_nothing_outlives_a_killed_driver(local_ray: SessionInfo) -> None:
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        env={**os.environ, "RAY_ADDRESS": address},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert driver.stdout is not None
        is_started_here, pid = driver.stdout.readline().split()
        assert is_started_here == "False"
        assert is_alive(int(pid))
    finally:
        driver.kill()
        driver.wait()
    wait_until(lambda: not is_alive(int(pid)))


NODES = """
import asyncio, time
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from cluster.pool import PoolConfig, start_pool

def slow(rows):
    time.sleep(rows[0]["sleep_s"])
    return [{**row, "node": ray.get_runtime_context().get_node_id()} for row in rows]

async def during(pool, sleep_s, act):
    answer = asyncio.ensure_future(pool.run([{"sleep_s": sleep_s}]))
    while not (await asyncio.to_thread(pool.stats)).in_flight:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(act)
    return (await answer)[0]["node"]

store = {"object_store_memory": 100 << 20}
heartbeats = {"health_check_period_ms": 300, "health_check_timeout_ms": 3000}  # 10 s by default
head = {"num_cpus": 1, "include_dashboard": False, "_system_config": heartbeats, **store}
cluster = Cluster(initialize_head=True, head_node_args=head)
first = cluster.add_node(num_cpus=1, num_gpus=1, **store)
ray.init(address=cluster.address, log_to_driver=False)
pool = start_pool("generator", lambda: slow, PoolConfig(num_cpus=0.1, num_gpus=1, max_restarts=1))
pool.wait_ready(60)
second = cluster.add_node(num_cpus=1, num_gpus=1, **store)

def drain_first():
    gcs = GcsClient(address=ray.get_runtime_context().gcs_address)
    deadline_ms = int((time.time() + 600) * 1000)
    assert gcs.drain_node(first.node_id, 2, "spot notice", deadline_ms)[0]

assert asyncio.run(during(pool, 2.5, drain_first)) == first.node_id
while not (stats := pool.stats()).num_replicas_ready or stats.num_loads < 2:
    time.sleep(0.1)
assert (stats.num_retries, stats.num_node_losses) == (0, 0), stats
assert "its node is draining" in stats.last_failure
third = cluster.add_node(num_cpus=1, num_gpus=1, **store)
started_s = time.monotonic()
lose_second = lambda: cluster.remove_node(second, allow_graceful=False)
assert asyncio.run(during(pool, 2.5, lose_second)) == third.node_id
stats = pool.stats()
assert (stats.num_retries, stats.num_node_losses, stats.num_poison) == (1, 1, 0), stats
print("recovered in", time.monotonic() - started_s)
pool.close()
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.faults
def test_nodes_that_drain_or_vanish_cost_no_row_and_no_attempt() -> None:
    """A cluster of several nodes, in a process of its own: this one has a Ray already."""
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    run = subprocess.run(
        [sys.executable, "-c", NODES], env=env, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "recovered in" in run.stdout


@pytest.mark.slow
def test_an_elastic_pool_frees_its_gpu_and_takes_it_again(start: StartPool) -> None:
    def num_free() -> float:
        return ray.available_resources().get("GPU", 0.0)

    free_before = num_free()
    pool = start(lambda rows: rows, min_replicas=0, idle_s=1.0, num_gpus=1)
    for num_loads in (1, 2):
        assert pool.run_blocking(numbered(8)) == numbered(8)
        assert pool.stats().num_loads == num_loads
        wait_until(lambda: pool.stats().num_replicas == 0 and num_free() == free_before)
    assert (pool.stats().num_restarts, pool.stats().replica_pids) == (0, ())
