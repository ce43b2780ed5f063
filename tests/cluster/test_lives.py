"""The lives of replicas that are plain coroutines: loads, deaths, proofs, draining nodes."""

import asyncio
from typing import Any

from replicas import FakePool, FakeReplica, echo, in_loop

from cluster.replica import CallStatus


@in_loop
async def test_death_of_an_idle_replica_is_noticed_and_mended() -> None:
    pool = FakePool()
    await pool.dispatcher.wait_ready(1, 5)
    pool.replicas[0].kill()
    await asyncio.sleep(0.01)
    assert pool.dispatcher.stats().num_restarts == 1
    assert (await pool.run([1]))[0].parts[0] == 1


@in_loop
async def test_any_number_of_deaths_is_borne_while_work_gets_done_between() -> None:
    async def die_after_two(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        if len(replica.calls) > 2:
            replica.kill()
            await asyncio.sleep(1)
        return await echo(replica, rows)

    pool = FakePool(die_after_two, max_restarts=1, max_attempts=2)
    outcomes = await pool.run(list(range(12)))
    assert [outcome.parts[0] for outcome in outcomes] == list(range(12))
    assert pool.dispatcher.stats().num_restarts >= 4


@in_loop
async def test_deaths_in_a_row_exhaust_the_pool_and_tell_everyone() -> None:
    async def die(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        replica.last_words = "Worker exit type: OOM"
        replica.kill()
        await asyncio.sleep(1)
        raise AssertionError

    pool = FakePool(die, max_restarts=1, max_attempts=99)
    outcomes = await pool.run([1, 2, 3])
    for outcome in (*outcomes, await pool.dispatcher.submit(4, 8, 0)):
        assert "pool 'generator' has no replica left" in outcome.error
        assert "Worker exit type: OOM" in outcome.error
        assert not outcome.is_load_error


@in_loop
async def test_first_load_that_fails_fails_everyone_at_once() -> None:
    pool = FakePool(num_replicas=2)
    pool.load_errors = ["OSError: no file model.safetensors"] * 2
    outcomes = await pool.run([1, 2])
    for outcome in (*outcomes, await pool.dispatcher.wait_ready(1, 5)):
        assert outcome.is_load_error
        assert "could not load its model: OSError: no file model.safetensors" in outcome.error
    assert len(pool.replicas) == 2


@in_loop
async def test_replacement_that_fails_to_load_is_one_more_death() -> None:
    pool = FakePool()
    await pool.dispatcher.wait_ready(1, 5)
    pool.load_errors = ["CUDA out of memory"]
    pool.replicas[0].kill()
    await asyncio.sleep(0.01)
    assert (await pool.run([1]))[0].parts[0] == 1
    stats = pool.dispatcher.stats()
    assert (stats.num_loads, stats.num_restarts) == (2, 2)


@in_loop
async def test_load_past_its_time_is_a_death() -> None:
    pool = FakePool(load_timeout_s=0.02, max_restarts=0)
    pool.load_seconds = {0: 60.0}
    outcome = await pool.dispatcher.wait_ready(1, 5)
    assert "loading took more than load_timeout_s = 0.02 s" in outcome.error
    assert outcome.is_load_error
    assert pool.replicas[0].dead.is_set()
