"""Whose fault a failure was: pure rules, then poison rows in pools of plain coroutines."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import FakePool, FakeReplica, echo, flat, in_loop, run_jumping

from cluster.dispatch import Batch, End, Failure, Poison, Slot
from cluster.isolation import (
    Verdict,
    charge,
    deaths_in_row,
    judge,
    must_prove,
    node_losses_message,
    single_rows,
    take_blame,
    to_poison,
)
from cluster.replica import CallStatus

DIED = Failure("replica_died", "it died")


def batch(num_rows: int, num_causes: int = 0) -> Batch:
    return Batch(3, 7, 0, num_rows, "rows", causes=[DIED] * num_causes)


@pytest.mark.parametrize(
    ("num_rows", "num_causes", "verdict"),
    [
        (8, 1, Verdict.AGAIN),
        (8, 2, Verdict.BREAK_UP),
        (1, 2, Verdict.AGAIN),
        (1, 3, Verdict.POISON),
    ],
)
def test_verdict_by_rows_and_attempts(num_rows: int, num_causes: int, verdict: Verdict) -> None:
    assert judge(batch(num_rows, num_causes), 3) is verdict


def test_single_rows_keep_place_and_history() -> None:
    whole = batch(3, num_causes=2)
    rows = single_rows(whole)
    assert [(row.order, row.arrival, row.first, row.last) for row in rows] == [
        (3, 7, 0, 1),
        (3, 7, 1, 2),
        (3, 7, 2, 3),
    ]
    rows[0].causes.append(DIED)
    assert [len(row.causes) for row in (*rows, whole)] == [3, 2, 2, 2]
    assert Batch(3, 6, 0, 8, "rows") < rows[0] < rows[1] < Batch(3, 8, 0, 8, "rows")


def test_poison_tells_every_attempt_and_the_last_kind() -> None:
    row = batch(1, num_causes=2)
    row.causes.append(Failure("call_timeout", "took too long"))
    poison = to_poison("generator", row)
    assert (poison.kind, poison.attempts) == ("call_timeout", 3)
    assert "'generator'" in poison.message
    assert "attempt 1: it died; attempt 2: it died; attempt 3: took too long" in poison.message


def test_only_the_running_batch_is_blamed_for_a_death() -> None:
    running, waiting = batch(8), batch(8)
    slot = Slot(0, in_flight=[running, waiting])
    assert not take_blame(slot, waiting)
    assert take_blame(slot, running)
    slot.in_flight.remove(running)
    assert not take_blame(slot, waiting)


def test_nobody_is_charged_for_a_node_or_a_move() -> None:
    assert charge(Slot(0, end=End("replica_died", "it died"))) == DIED
    assert charge(Slot(0, end=End("node_lost", "gone"))) is None
    assert charge(Slot(0, end=End("moved", "drains"))) is None


def test_life_after_a_charge_must_prove_itself_until_one_has() -> None:
    died, lost = End("replica_died", "it died"), End("node_lost", "gone")
    assert must_prove(Slot(0, end=died, in_flight=[batch(8)]), had_to=False)
    assert must_prove(Slot(0, end=died, has_blamed=True), had_to=False)
    assert not must_prove(Slot(0, end=died), had_to=False)  # killed while it was idle
    assert not must_prove(Slot(0, end=lost, in_flight=[batch(8)]), had_to=False)
    assert must_prove(Slot(0, end=lost), had_to=True)
    assert not must_prove(Slot(0, end=lost, num_done=1), had_to=True)


def test_a_life_that_did_work_starts_the_count_of_deaths_anew_and_a_move_is_none() -> None:
    assert deaths_in_row(2, Slot(0)) == 3
    assert deaths_in_row(2, Slot(0, num_done=5)) == 1
    assert deaths_in_row(2, Slot(0, end=End("moved", "drains"))) == 2
    assert deaths_in_row(2, Slot(0, num_done=5, end=End("moved", "drains"))) == 0


def test_message_of_a_batch_that_lost_too_many_nodes_says_what_to_do() -> None:
    lost = batch(8)
    lost.num_node_losses = 11
    message = node_losses_message("generator", lost, "node n0 is gone")
    assert "8 rows that was lost with its node 11 times (the last one: node n0 is gone)" in message


async def fragile(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
    """Aborts, hangs, loses its engine or miscounts at the row that says so."""
    if "abort" in rows:
        replica.kill()
    if "hang" in rows or "abort" in rows:
        await asyncio.sleep(10_000)
    if "raise" in rows:
        return CallStatus(
            seconds=0, busy_s=0, error="RuntimeError: boom", is_engine_dead=True
        ), None
    if "miscount" in rows:
        return CallStatus(seconds=0, busy_s=0, error="returned 7 rows for 8 rows"), None
    return await echo(replica, rows)


KINDS = {
    "abort": "replica_died",
    "hang": "call_timeout",
    "raise": "engine_dead",
    "miscount": "wrong_row_count",
}


@pytest.mark.parametrize("how", KINDS)
def test_poison_row_costs_three_attempts_and_no_neighbour(how: str) -> None:
    @in_loop
    async def test() -> None:
        pool = FakePool(fragile, call_timeout_s=60.0)
        calm, mixed = await pool.run([["x", "y"], ["a", "b", how, "d"]])
        assert flat(calm) == ["x", "y"]
        a, b, poison, d = flat(mixed)
        assert (a, b, d) == ("a", "b", "d")
        assert isinstance(poison, Poison)
        assert (poison.kind, poison.attempts) == (KINDS[how], 3)
        assert sum(how in rows for replica in pool.replicas for rows in replica.calls) == 3
        await pool.dispatcher.wait_ready(1, 60)
        stats = pool.dispatcher.stats()
        assert (stats.num_poison, stats.num_loads) == (1, 1 if how == "miscount" else 4)
        assert (stats.queue_length, stats.in_flight) == (0, 0)

    test()


@in_loop
async def test_any_number_of_poison_rows_in_a_row_is_borne() -> None:
    pool = FakePool(fragile, max_restarts=1)
    calm, *poisonous = await pool.run([["x"], *[["abort"] * 4] * 5])
    assert flat(calm) == ["x"]
    assert all(isinstance(row, Poison) for outcome in poisonous for row in flat(outcome))
    assert flat((await pool.run([["y"]]))[0]) == ["y"]
    assert pool.dispatcher.stats().num_poison == 20


@in_loop
async def test_engines_that_die_after_work_was_done_end_the_pool_and_make_no_row_poison() -> None:
    is_broken = False

    async def breaks(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        if is_broken:
            return CallStatus(seconds=0, busy_s=0, error="CUDA error", is_engine_dead=True), None
        return await echo(replica, rows)

    pool = FakePool(breaks, num_replicas=2, in_flight_per_replica=1)
    assert flat((await pool.run([["x", "y"]]))[0]) == ["x", "y"]
    is_broken = True
    for outcome in await pool.run([["a"] * 8, ["b"] * 8]):
        assert "has no replica left" in outcome.error
        assert "it failed on a row that was answered before: CUDA error" in outcome.error
    assert pool.dispatcher.stats().num_poison == 0
    # 4 lives of each replica end in a row: the first by a batch, the others by their proof.
    tried = [rows for replica in pool.replicas for rows in replica.calls if "x" not in rows]
    assert len([rows for rows in tried if rows[0] in "ab"]) == 2


@in_loop
async def test_engines_that_never_worked_end_the_pool_and_make_no_row_poison() -> None:
    pool = FakePool(fragile, num_replicas=8)
    for outcome in await pool.run([["raise"] * 8 for _ in range(4)]):
        assert "has no replica left" in outcome.error
        assert "RuntimeError: boom" in outcome.error
    assert pool.dispatcher.stats().num_poison == 0


@in_loop
async def test_row_that_failed_before_anything_was_answered_waits_for_the_first_answer() -> None:
    async def slow_or_fragile(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        if "slow" in rows:
            await asyncio.sleep(100)
        return await fragile(replica, rows)

    pool = FakePool(slow_or_fragile, num_replicas=2)
    bad = asyncio.ensure_future(pool.run([["abort"]]))
    good = asyncio.ensure_future(pool.run([["slow"]], order=1))
    await asyncio.sleep(50)
    assert not bad.done()
    assert pool.dispatcher.stats().queue_length == 1
    assert flat((await good)[0]) == ["slow"]
    (outcome,) = await bad
    assert isinstance(flat(outcome)[0], Poison)


@in_loop
async def test_row_that_is_all_there_is_is_poison_without_a_proof() -> None:
    pool = FakePool(fragile)
    (outcome,) = await pool.run([["abort"]])
    (poison,) = flat(outcome)
    assert isinstance(poison, Poison)
    assert poison.attempts == 3


@in_loop
async def test_what_waits_behind_a_dead_engine_is_not_charged() -> None:
    pool = FakePool(fragile, in_flight_per_replica=4)
    outcomes = await pool.run([["x"], ["raise"], ["a"], ["miscount"]])
    assert [type(flat(outcome)[0]) for outcome in outcomes] == [str, Poison, str, Poison]


class Fate:
    """Which rows kill their replica, how, and which calls die of something else."""

    def __init__(self, poison: dict[int, str], accidents: dict[int, str]) -> None:
        self.poison = poison
        self.accidents = accidents  # by the number of the call
        self.num_calls = 0
        self.num_failed = dict.fromkeys(poison, 0)
        self.broken: set[FakeReplica] = set()

    async def answer(self, replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        if replica in self.broken:  # for the moment until it is killed
            return await fragile(replica, ["raise"])
        self.num_calls += 1
        accident = self.accidents.get(self.num_calls)
        if accident:
            replica.is_node_lost = accident == "node"
            replica.kill()
            await asyncio.sleep(1)
        for row in rows:
            if row in self.poison:
                self.num_failed[row] += 1
                if self.poison[row] == "raise":
                    self.broken.add(replica)
                return await fragile(replica, [self.poison[row]])
        return await echo(replica, rows)


@settings(max_examples=80, deadline=None)
@given(
    poison=st.dictionaries(st.integers(0, 39), st.sampled_from(sorted(KINDS)), max_size=12),
    accidents=st.dictionaries(st.integers(2, 60), st.just("node"), max_size=8),
    num_replicas=st.integers(1, 4),
    in_flight=st.integers(1, 3),
    max_attempts=st.integers(2, 4),
)
def test_each_row_is_answered_once_in_order_and_only_poison_rows_are_poison(
    poison: dict[int, str],
    accidents: dict[int, str],
    num_replicas: int,
    in_flight: int,
    max_attempts: int,
) -> None:
    fate = Fate(poison, accidents)

    async def work() -> None:
        pool = FakePool(
            fate.answer,
            num_replicas=num_replicas,
            in_flight_per_replica=in_flight,
            max_attempts=max_attempts,
            call_timeout_s=5.0,
            max_restarts=8,  # node losses in a row, before anything is answered, are deaths
        )
        warm = await pool.run([[100]])
        assert flat(warm[0]) == [100]
        rows = list(range(40))
        outcomes = await pool.run([rows[start : start + 8] for start in range(0, 40, 8)])
        answers = [row for outcome in outcomes for row in flat(outcome)]
        assert len(answers) == 40
        for row, answer in zip(rows, answers, strict=True):
            if row in poison:
                assert isinstance(answer, Poison)
                assert (answer.kind, answer.attempts) == (KINDS[poison[row]], max_attempts)
            else:
                assert answer == row
        assert pool.dispatcher.stats().num_poison == len(poison)
        pool.dispatcher.close()

    run_jumping(work())
    # Beyond its own attempts a row is only tried where a node was lost.
    assert all(tries <= max_attempts + len(accidents) for tries in fate.num_failed.values())


@settings(max_examples=100, deadline=None)
@given(
    deaths=st.sets(st.integers(1, 30), max_size=10),
    drain_after_s=st.one_of(st.none(), st.floats(0.001, 0.2)),
    num_replicas=st.integers(1, 3),
)
def test_each_sender_is_answered_once_whatever_dies_and_whenever_it_drains(
    deaths: set[int], drain_after_s: float | None, num_replicas: int
) -> None:
    fate = Fate({5: "abort"}, dict.fromkeys(deaths, "process"))

    async def work() -> None:
        pool = FakePool(fate.answer, num_replicas=num_replicas, max_restarts=20)
        sent = asyncio.ensure_future(pool.run([[4 * i + j for j in range(4)] for i in range(8)]))
        if drain_after_s is not None:
            await asyncio.sleep(drain_after_s)
            pool.dispatcher.drain()
        for index, outcome in enumerate(await sent):
            if outcome.error:
                assert drain_after_s is not None
                assert outcome.is_draining
                continue
            rows = [4 * index + j for j in range(4)]
            answers = flat(outcome)
            assert [a for a in answers if not isinstance(a, Poison)] == [
                row for row, a in zip(rows, answers, strict=True) if not isinstance(a, Poison)
            ]
        pool.dispatcher.close()

    run_jumping(work())
