"""The lives of replicas that are plain coroutines: loads, deaths, proofs, draining nodes."""

import asyncio
from typing import Any

from replicas import FakePool, FakeReplica, echo, flat, in_loop, run_jumping

from cluster.dispatch import Poison
from cluster.lives import RowsLostError
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
async def test_what_nobody_expected_ends_the_pool_with_its_words() -> None:
    pool = FakePool()
    pool.load_errors = [RuntimeError("panicked at library.rs")]
    (outcome,) = await asyncio.wait_for(pool.run([1]), 5)
    assert "the dispatcher of pool 'generator' failed with RuntimeError: panicked" in outcome.error


@in_loop
async def test_load_past_its_time_is_a_death() -> None:
    pool = FakePool(load_timeout_s=0.02, max_restarts=0)
    pool.load_seconds = {0: 60.0}
    outcome = await pool.dispatcher.wait_ready(1, 5)
    assert "loading took more than load_timeout_s = 0.02 s" in outcome.error
    assert outcome.is_load_error
    assert pool.replicas[0].dead.is_set()


@in_loop
async def test_proof_is_told_while_it_is_taken_and_a_hanging_one_is_a_death() -> None:
    async def hangs_later(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        if replica is pool.replicas[0] and rows != ["die"]:
            return await echo(replica, rows)
        if rows == ["die"]:
            replica.kill()
        await asyncio.sleep(10_000)
        raise AssertionError

    pool = FakePool(hangs_later, max_restarts=1, call_timeout_s=60.0)
    assert flat((await pool.run([["x"]]))[0]) == ["x"]
    doomed = asyncio.ensure_future(pool.run([["die"]]))
    await asyncio.sleep(10)
    stats = pool.dispatcher.stats()
    assert stats.waiting == (
        "of 1 replicas 1 proves itself again after a death (10 s so far, call_timeout_s is 60)"
    )
    assert stats.num_replicas_ready == 0
    (outcome,) = await doomed
    assert "answered before: it took more than call_timeout_s = 60 s" in outcome.error


@in_loop
async def test_proof_that_is_lost_with_its_sender_lets_the_replica_work_unproven() -> None:
    async def lost_or_dead(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        if rows == ["die"]:
            replica.kill()
            await asyncio.sleep(1)
        if rows == ["x"] and replica is not pool.replicas[0]:
            raise RowsLostError("the owner has exited")
        return await echo(replica, rows)

    pool = FakePool(lost_or_dead)
    assert flat((await pool.run([["x"]]))[0]) == ["x"]
    poison, good = await pool.run([["die"], ["y"]])
    assert isinstance(flat(poison)[0], Poison)
    assert flat(good) == ["y"]


@in_loop
async def test_lost_nodes_are_free_up_to_a_bound() -> None:
    async def lose_nodes(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        if (rows == ["ten"] and len(pool.replicas) <= 10) or rows == ["eleven"]:
            replica.is_node_lost = True
            replica.kill()
            await asyncio.sleep(1)
        return await echo(replica, rows)

    pool = FakePool(lose_nodes, max_attempts=2, max_restarts=99)
    assert flat((await pool.run([["ten"]]))[0]) == ["ten"]
    stats = pool.dispatcher.stats()
    assert (stats.num_node_losses, stats.num_poison) == (10, 0)
    lost, good = await pool.run([["eleven"], ["y"]])
    assert "was lost with its node 11 times" in lost.error
    assert not lost.is_draining
    assert flat(good) == ["y"]


@in_loop
async def test_replica_on_a_draining_node_finishes_and_is_started_elsewhere() -> None:
    async def slow(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        await asyncio.sleep(10)
        return CallStatus(seconds=10, busy_s=10), rows

    pool = FakePool(slow, max_restarts=0, in_flight_per_replica=1)
    running = asyncio.ensure_future(pool.run([["a"], ["b"]]))
    await asyncio.sleep(5)
    pool.dispatcher.set_draining_nodes({"n0"})
    assert "1 finish their batches on a draining node" in pool.dispatcher.stats().waiting
    assert pool.replicas[0].calls == [["a"]]
    pool.node_ids = {0: "n9"}
    assert [flat(outcome) for outcome in await running] == [["a"], ["b"]]
    assert [replica.calls for replica in pool.replicas] == [[["a"]], [["b"]]]
    stats = pool.dispatcher.stats()
    assert (stats.num_retries, stats.num_node_losses, stats.num_restarts) == (0, 0, 1)
    assert "its node is draining" in stats.last_failure


@in_loop
async def test_replica_that_still_loads_on_a_draining_node_is_moved_at_once() -> None:
    pool = FakePool(max_restarts=0)
    pool.load_seconds = {0: 100.0}
    await asyncio.sleep(1)
    pool.load_seconds = {}
    pool.node_ids = {0: "n9"}
    pool.dispatcher.set_draining_nodes({"n0"})
    await asyncio.sleep(1)
    assert pool.dispatcher.stats().num_replicas_ready == 1
    assert pool.replicas[0].dead.is_set()


@in_loop
async def test_death_on_a_draining_node_is_the_node_s() -> None:
    async def die_with_node(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        if replica is pool.replicas[0]:
            await asyncio.sleep(10)
            replica.kill()
            await asyncio.sleep(10)
        return await echo(replica, rows)

    pool = FakePool(die_with_node)
    running = asyncio.ensure_future(pool.run([["a"]]))
    await asyncio.sleep(5)
    pool.node_ids = {0: "n9"}
    pool.dispatcher.set_draining_nodes({"n0"})
    assert flat((await running)[0]) == ["a"]
    stats = pool.dispatcher.stats()
    assert (stats.num_node_losses, stats.num_retries, stats.num_poison) == (1, 1, 0)


@in_loop
async def test_pool_that_is_made_larger_uses_all_its_replicas() -> None:
    async def slow_echo(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        await asyncio.sleep(1.0)  # long against what the machine's own load adds
        return CallStatus(seconds=1.0, busy_s=1.0), rows

    pool = FakePool(slow_echo)
    await pool.dispatcher.wait_ready(1, 5)
    pool.dispatcher.resize(4)
    await pool.dispatcher.wait_ready(4, 5)
    await pool.run(list(range(40)))
    assert [len(replica.calls) for replica in pool.replicas] == [10] * 4
    stats = pool.dispatcher.stats()
    assert (stats.num_replicas, stats.num_loads, stats.num_restarts) == (4, 4, 0)


@in_loop
async def test_pool_that_is_made_smaller_loses_no_batch_and_counts_no_death() -> None:
    pool = FakePool(num_replicas=4, max_restarts=0)
    work = asyncio.ensure_future(pool.run(list(range(80))))
    await asyncio.sleep(0.02)
    pool.dispatcher.resize(1)
    outcomes = await work
    assert [outcome.parts[0] for outcome in outcomes] == list(range(80))
    assert sum(len(replica.calls) for replica in pool.replicas) == 80, "nothing is done twice"
    stats = pool.dispatcher.stats()
    assert (stats.num_replicas, stats.num_replicas_ready, stats.num_restarts) == (1, 1, 0)
    assert sum(not replica.dead.is_set() for replica in pool.replicas) == 1


@in_loop
async def test_replicas_that_are_not_at_work_yet_go_first() -> None:
    pool = FakePool(num_replicas=3)
    pool.load_seconds = {1: 600.0}
    await pool.dispatcher.wait_ready(2, 5)
    pool.dispatcher.resize(2)
    await asyncio.sleep(0.01)
    assert [replica.dead.is_set() for replica in pool.replicas] == [False, True, False]


@in_loop
async def test_a_pool_goes_up_and_down_and_up_again() -> None:
    pool = FakePool(num_replicas=2)
    for num_replicas in (5, 1, 3, 1, 2):
        pool.dispatcher.resize(num_replicas)
        outcomes = await pool.run(list(range(20)))
        assert [outcome.parts[0] for outcome in outcomes] == list(range(20))
        await asyncio.sleep(1)
        assert pool.dispatcher.stats().num_replicas_ready == num_replicas


def test_all_but_the_first_replica_are_asked_for_with_the_first_batch_or_when_it_is_time() -> None:
    async def run() -> None:
        asked, idle = (FakePool(num_replicas=3, rest_after_s=5.0) for _ in range(2))
        await asyncio.sleep(4.0)
        assert [len(pool.replicas) for pool in (asked, idle)] == [1, 1]
        await asked.run([1])
        await asyncio.sleep(0.0)
        assert [len(pool.replicas) for pool in (asked, idle)] == [3, 1]
        await asyncio.sleep(2.0)
        assert len(idle.replicas) == 3
        for pool in (asked, idle):
            pool.dispatcher.close()

    run_jumping(run())


def test_a_pool_that_is_drained_before_its_other_replicas_are_asked_for_does_without_them() -> None:
    async def run() -> None:
        pool = FakePool(num_replicas=3, rest_after_s=5.0)
        await asyncio.sleep(1.0)
        pool.dispatcher.drain()
        await asyncio.sleep(9.0)
        assert len(pool.replicas) == 1
        pool.dispatcher.close()

    run_jumping(run())


def test_a_size_that_was_asked_for_meanwhile_holds() -> None:
    async def run() -> None:
        pool = FakePool(num_replicas=3, rest_after_s=5.0)
        await asyncio.sleep(1.0)
        pool.dispatcher.resize(2)
        await asyncio.sleep(9.0)
        assert len(pool.replicas) == 2
        pool.dispatcher.close()

    run_jumping(run())
