"""The pool's decisions, without a clock or a process."""

import pytest

from cluster.dispatch import (
    Batch,
    BatchQueue,
    End,
    Failure,
    PoolConfig,
    Slot,
    describe_waiting,
    is_overdue,
    pick_slot,
    restart_delay_s,
    slices,
)


def batch(arrival: int, order: int = 0) -> Batch:
    return Batch(order, arrival, 0, 8, None)


def test_oldest_unit_leaves_the_queue_first_then_arrival() -> None:
    queue = BatchQueue()
    for item in (batch(1, order=7), batch(2, order=3), batch(3, order=3), batch(4, order=0)):
        queue.push(item)
    assert [queue.pop().arrival for _ in range(len(queue))] == [4, 2, 3, 1]


def test_retried_batch_keeps_its_place() -> None:
    queue = BatchQueue()
    first = batch(1)
    for item in (first, batch(2), batch(3)):
        queue.push(item)
    queue.pop()
    queue.push(first)
    assert queue.pop() is first


TWO = PoolConfig()
ONE = PoolConfig(in_flight_per_replica=1)


def test_least_loaded_ready_replica_with_room_is_picked() -> None:
    slots = [Slot(index, is_ready=True, in_flight=[batch(0)] * n) for index, n in enumerate([2, 1])]
    assert pick_slot(slots, batch(9), TWO, 10.0) is slots[1]
    assert pick_slot(slots, batch(9), ONE, 10.0) is None
    slots.append(Slot(2, is_ready=False))
    assert pick_slot(slots, batch(9), TWO, 10.0) is slots[1]
    slots.append(Slot(3, is_ready=True, is_leaving=True))
    assert pick_slot(slots, batch(9), TWO, 10.0) is slots[1]
    slots.append(Slot(4, is_ready=True))
    assert pick_slot(slots, batch(9), TWO, 10.0) is slots[4]


def test_an_engine_that_batches_by_itself_has_one_batch_more_than_it_works_on() -> None:
    slot = Slot(0, is_ready=True, in_flight=[batch(n) for n in range(4)])
    assert pick_slot([slot], batch(9), PoolConfig(calls_per_replica=4), 10.0) is slot
    assert pick_slot([slot], batch(9), PoolConfig(calls_per_replica=3), 10.0) is None


def test_a_slow_replica_gets_no_batch_that_a_fast_one_begins_sooner() -> None:
    fast = Slot(0, is_ready=True, in_flight=[batch(0), batch(1)], call_s=1.0, head_since_s=9.5)
    slow = Slot(1, is_ready=True, in_flight=[batch(2)], call_s=3.0, head_since_s=9.5)
    assert pick_slot([fast, slow], batch(9), TWO, 10.0) is None, "fast has room in half a second"
    assert pick_slot([fast, slow], batch(9), TWO, 12.0) is slow, "it will get to it first"
    slow.in_flight.clear()
    assert pick_slot([fast, slow], batch(9), TWO, 10.0) is slow, "nobody is left idle"


def test_a_batch_that_was_charged_before_runs_alone() -> None:
    suspect = batch(9)
    suspect.causes.append(Failure("replica_died", "SIGKILL"))
    busy = Slot(0, is_ready=True, in_flight=[batch(0)], call_s=1.0, head_since_s=9.5)
    idle = Slot(1, is_ready=True, call_s=1.0)
    assert pick_slot([busy], suspect, TWO, 10.0) is None
    assert pick_slot([busy, idle], suspect, TWO, 10.0) is idle
    idle.in_flight.append(suspect)
    assert pick_slot([idle], batch(1), TWO, 10.0) is None


def test_only_a_running_batch_can_be_overdue() -> None:
    assert not is_overdue(Slot(0), 100.0, 10.0)
    slot = Slot(0, in_flight=[batch(1)], head_since_s=95.0)
    assert not is_overdue(slot, 100.0, 10.0)
    assert is_overdue(slot, 106.0, 10.0)


def test_restart_delay_is_none_at_first_and_bounded() -> None:
    delays = [restart_delay_s(n) for n in range(1, 12)]
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert delays[-1] == 30.0


def test_slices_keep_order_and_the_short_rest() -> None:
    rows = [{"i": i} for i in range(5)]
    assert slices(rows, 2) == [rows[:2], rows[2:4], rows[4:]]
    assert slices([], 2) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_replicas", 0),
        ("batch_size", 0),
        ("in_flight_per_replica", 0),
        ("max_attempts", 1),
        ("max_restarts", -1),
        ("num_cpus", -0.5),
        ("num_gpus", 1.5),
        ("load_timeout_s", 0),
        ("call_timeout_s", -1),
    ],
)
def test_config_names_the_wrong_field_and_its_value(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"field '{field}' of a pool is {value}"):
        PoolConfig(**{field: value})


def test_what_waits_is_told_with_its_reason_and_its_longest_wait() -> None:
    config = PoolConfig(num_replicas=8, num_gpus=0.5, num_cpus=2, load_timeout_s=900)
    slots = [
        Slot(0, since_s=100.0),
        Slot(1, since_s=160.0),
        Slot(2, since_s=130.0, pid=7),
        Slot(3, since_s=90.0, pid=8, is_over=True),
        Slot(4, since_s=90.0, pid=9, end=End("call_timeout", "a call took too long")),
        Slot(5, since_s=180.0, pid=11, is_proving=True),
        Slot(6, since_s=90.0, pid=12, is_ready=True, is_leaving=True),
        Slot(7, since_s=90.0, pid=10, is_ready=True),
    ]
    assert describe_waiting(slots, config, 8, 190.0) == (
        "of 8 replicas 2 wait for resources (2 CPUs and 0.5 GPUs each, 90 s so far), "
        "1 load their model (60 s so far, load_timeout_s is 900), "
        "1 proves itself again after a death (10 s so far, call_timeout_s is 600), "
        "1 finish their batches on a draining node, 2 ended and are started again"
    )
    assert describe_waiting(slots[7:], config, 8, 190.0) == ""
