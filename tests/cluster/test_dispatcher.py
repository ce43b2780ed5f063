"""The dispatcher over replicas that are plain coroutines: what it hands out and answers."""

import asyncio
from typing import Any

import pytest
from replicas import FakePool, FakeReplica, echo, flat, in_loop

from cluster.dispatch import Poison
from cluster.lives import RowsLostError
from cluster.replica import CallStatus
from cluster.senders import Outcome


@in_loop
async def test_every_batch_is_answered_once_and_counted() -> None:
    pool = FakePool(num_replicas=3)
    outcomes = await pool.run(list(range(20)))
    assert [outcome.parts[0] for outcome in outcomes] == list(range(20))
    assert sorted(rows for replica in pool.replicas for rows in replica.calls) == list(range(20))
    stats = pool.dispatcher.stats()
    assert (stats.num_loads, stats.num_calls, stats.num_rows) == (3, 20, 160)
    assert (stats.queue_length, stats.in_flight, stats.num_retries) == (0, 0, 0)
    assert stats.busy_s == pytest.approx(0.1)


@in_loop
async def test_load_is_spread_evenly() -> None:
    pool = FakePool(num_replicas=4, in_flight_per_replica=2)
    await pool.dispatcher.wait_ready(4, 5)
    await pool.run(list(range(8)))
    assert [len(replica.calls) for replica in pool.replicas] == [2, 2, 2, 2]


@in_loop
async def test_older_unit_overtakes_what_waits() -> None:
    pool = FakePool(in_flight_per_replica=1)
    young = asyncio.ensure_future(pool.run(["y0", "y1", "y2"], order=9))
    await asyncio.sleep(0)
    await pool.run(["old"], order=1)
    await young
    assert pool.replicas[0].calls.index("old") <= 1


@in_loop
async def test_work_begins_with_the_first_ready_replica() -> None:
    pool = FakePool(num_replicas=2)
    pool.load_seconds = {1: 60.0}
    assert await pool.run([1]) == [Outcome(parts=(1,))]
    waited = await pool.dispatcher.wait_ready(2, 0.01)
    assert "1 of 2 replicas ready after 0.01 s: of 2 replicas 1 load their model" in waited.error


@in_loop
async def test_stats_say_what_is_not_placed_and_what_still_loads() -> None:
    pool = FakePool(num_replicas=4, num_gpus=2, load_timeout_s=50)
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
    pool = FakePool(num_replicas=2)
    await pool.dispatcher.wait_ready(2, 5)
    assert pool.dispatcher.stats().waiting == ""


@in_loop
async def test_death_charges_the_running_batch_only() -> None:
    async def die_once(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        if len(pool.replicas) == 1:
            replica.kill()
            await asyncio.sleep(1)
        return await echo(replica, rows)

    pool = FakePool(die_once)
    outcomes = await pool.run(["runs", "waits", "queued"])
    assert [outcome.parts[0] for outcome in outcomes] == ["runs", "waits", "queued"]
    stats = pool.dispatcher.stats()
    assert (stats.num_loads, stats.num_restarts, stats.num_retries) == (2, 1, 2)
    assert "the process was killed" in stats.last_failure


@in_loop
async def test_an_engine_that_batches_by_itself_works_on_several_calls_at_a_time() -> None:
    async def answer(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        await asyncio.sleep(1.0)
        return CallStatus(seconds=1.0, busy_s=1.0), rows

    pool = FakePool(answer, calls_per_replica=4)
    began = asyncio.get_running_loop().time()
    await pool.run(list(range(20)))
    assert asyncio.get_running_loop().time() - began == pytest.approx(5.0, abs=0.9)


@in_loop
async def test_a_call_that_hangs_is_seen_though_others_overtake_it() -> None:
    async def hang_once(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        if rows == "hangs" and len(pool.replicas) == 1:
            await asyncio.Event().wait()
        await asyncio.sleep(1.0)
        return CallStatus(seconds=1.0, busy_s=1.0), rows

    pool = FakePool(hang_once, calls_per_replica=3, call_timeout_s=10.0)
    outcomes = await pool.run(["hangs", *range(100)])
    assert outcomes == [Outcome(parts=(rows,)) for rows in ["hangs", *range(100)]]
    assert len(pool.replicas) == 2
    assert 18 <= len(pool.replicas[0].calls) <= 26, "2 a second until its time was over"


@in_loop
async def test_a_fault_of_its_own_ends_the_pool_and_costs_no_row() -> None:
    async def answer_without_status(replica: FakeReplica, rows: Any) -> Any:
        return None, rows

    pool = FakePool(answer_without_status)
    (outcome,) = await pool.run([["a", "b"]])
    assert "AttributeError" in outcome.error
    assert not outcome.parts
    assert pool.dispatcher.stats().num_poison == 0


@in_loop
async def test_overdue_call_kills_its_replica_and_goes_elsewhere() -> None:
    async def hang_first(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        if replica is pool.replicas[0]:
            await asyncio.sleep(60)
        return await echo(replica, rows)

    pool = FakePool(hang_first, call_timeout_s=0.1)
    outcomes = await pool.run(["slow", "behind"])
    assert [outcome.parts[0] for outcome in outcomes] == ["slow", "behind"]
    assert "a call took more than call_timeout_s = 0.1 s" in pool.dispatcher.stats().last_failure


@in_loop
async def test_close_answers_whoever_waits_and_kills_every_replica() -> None:
    async def hang(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        await asyncio.sleep(60)
        raise AssertionError

    pool = FakePool(hang, num_replicas=2)
    waiting = asyncio.ensure_future(pool.run([1, 2, 3, 4, 5, 6]))
    await pool.dispatcher.wait_ready(2, 5)
    pool.dispatcher.close()
    pool.dispatcher.close()
    assert {outcome.error for outcome in await waiting} == {"pool 'generator' is closed"}
    assert all(replica.dead.is_set() for replica in pool.replicas)
    assert (await pool.dispatcher.submit(7, 8, 0)).error == "pool 'generator' is closed"


@in_loop
async def test_draining_pool_answers_what_replicas_have_and_refuses_the_rest() -> None:
    pool = FakePool(in_flight_per_replica=2)
    await pool.dispatcher.wait_ready(1, 5)
    sent = asyncio.ensure_future(pool.run([["runs"], ["waits"], ["queued"]]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    pool.dispatcher.drain()
    pool.dispatcher.drain()
    runs, waits, queued = await sent
    assert (flat(runs), flat(waits)) == (["runs"], ["waits"])
    late = await pool.dispatcher.submit(["late"], 1, 0)
    ready = await pool.dispatcher.wait_ready(9, 5)
    for outcome in (queued, late, ready):
        assert outcome.is_draining
        assert "pool 'generator' is draining" in outcome.error
    assert pool.dispatcher.stats().is_draining


@in_loop
async def test_draining_pool_tries_nothing_again_and_replaces_nobody() -> None:
    async def die(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        await asyncio.sleep(10)
        replica.kill()
        await asyncio.sleep(10)
        raise AssertionError

    pool = FakePool(die)
    sent = asyncio.ensure_future(pool.run([["a"], ["b"]]))
    await asyncio.sleep(5)
    pool.dispatcher.drain()
    assert [outcome.is_draining for outcome in await sent] == [True, True]
    await asyncio.sleep(100)
    assert len(pool.replicas) == 1


@in_loop
async def test_rows_lost_on_the_way_go_back_to_their_sender() -> None:
    async def lose(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        raise RowsLostError("object lost")

    pool = FakePool(lose)
    (outcome,) = await pool.run([["a"]])
    assert (outcome.is_lost, outcome.error) == (True, "object lost")
    assert pool.dispatcher.stats().num_retries == 0


@in_loop
async def test_answer_that_does_not_pickle_is_a_failed_attempt_of_a_living_engine() -> None:
    async def odd(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        if "odd" in rows:
            raise TypeError("cannot pickle 'generator' object")
        return await echo(replica, rows)

    pool = FakePool(odd)
    (outcome,) = await pool.run([["a", "odd", "b"]])
    a, poison, b = flat(outcome)
    assert (a, b) == ("a", "b")
    assert isinstance(poison, Poison)
    assert "TypeError: cannot pickle 'generator' object" in poison.message
    assert pool.dispatcher.stats().num_loads == 1
