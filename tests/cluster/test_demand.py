"""How many replicas a pool should have: the decision alone."""

from itertools import pairwise
from math import inf
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cluster.demand import BUSY_SHARE, GROW_AFTER_S, DemandWindow, Look, num_wanted

LIMITS: dict[str, Any] = {"least": 0, "most": 6, "room": 2, "idle_s": 60.0, "load_s": 30.0}
CALL_S = 10.0


def look(at_s: float, **seen: int) -> Look:
    """Of a pool whose calls take 10 s."""
    counts = {"queue_length": 0, "num_busy": 0, "num_ready": 0, "num_replicas": 0} | seen
    num_ready = counts["num_ready"]
    queue_s = counts["queue_length"] * CALL_S / num_ready if num_ready else inf
    return Look(at_s=at_s, queue_s=queue_s, **counts)


def looks(seconds: int, **seen: int) -> list[Look]:
    """The same look every second."""
    return [look(at_s, **seen) for at_s in range(seconds + 1)]


def test_a_pool_without_replicas_gets_one_for_the_first_batch_at_once() -> None:
    assert num_wanted(looks(0), **LIMITS) == 0
    assert num_wanted(looks(0, queue_length=1), **LIMITS) == 1


def test_batches_that_wait_bring_as_many_replicas_as_would_hold_them() -> None:
    full = looks(5, queue_length=5, num_busy=1, num_ready=1, num_replicas=1)
    assert num_wanted(full, **LIMITS) == 4
    assert num_wanted(full, **LIMITS | {"room": 5}) == 2
    assert num_wanted(full, **LIMITS | {"most": 3}) == 3


def test_replicas_that_are_on_their_way_are_not_asked_for_twice() -> None:
    assert num_wanted(looks(10, queue_length=4, num_replicas=2), **LIMITS) == 2
    assert num_wanted(looks(10, queue_length=5, num_replicas=2), **LIMITS) == 3


def test_a_burst_brings_nothing() -> None:
    young = looks(4, queue_length=50, num_busy=1, num_ready=1, num_replicas=1)
    assert num_wanted(young, **LIMITS) == 1
    is_over = [*young, look(5, num_busy=1, num_ready=1, num_replicas=1)]
    again = [look(6 + s, queue_length=50, num_ready=1, num_replicas=1) for s in range(5)]
    assert num_wanted([*is_over, *again], **LIMITS) == 1


def test_a_pool_without_work_gives_back_what_it_may() -> None:
    rested = looks(60, num_ready=3, num_replicas=3)
    assert num_wanted(rested, **LIMITS) == 0
    assert num_wanted(rested, **LIMITS | {"least": 2}) == 2
    assert num_wanted(rested[1:], **LIMITS) == 3


def test_a_pool_with_little_work_keeps_what_that_takes_with_some_to_spare() -> None:
    busy = looks(60, num_busy=1, num_ready=3, num_replicas=3)
    assert num_wanted(busy, **LIMITS) == 2
    half = [look(s, num_busy=s % 2, num_ready=3, num_replicas=3) for s in range(61)]
    assert num_wanted(half, **LIMITS) == 1


def test_what_still_waits_for_a_node_goes_when_nobody_needs_it() -> None:
    pending = looks(60, num_busy=0, num_ready=1, num_replicas=4)
    assert num_wanted(pending, **LIMITS | {"least": 1}) == 1


def test_what_was_before_a_change_does_not_count() -> None:
    window = DemandWindow(least=0, room=2, idle_s=60.0)
    for s in range(59):
        window.see(look(s, num_ready=1, num_replicas=2), most=2, load_s=0.0)
    for s in range(59, 119):
        seen = look(s, num_ready=2, num_replicas=2)
        assert window.see(seen, most=2, load_s=0.0) == 2
    assert window.see(look(119, num_ready=2, num_replicas=2), most=2, load_s=0.0) == 0


def test_what_is_done_sooner_than_a_replica_loads_brings_one_only_if_it_never_ends() -> None:
    short = looks(59, queue_length=3, num_busy=1, num_ready=1, num_replicas=1)
    assert num_wanted(short, **LIMITS) == 1
    assert num_wanted(short, **LIMITS | {"load_s": 29.0}) == 3
    longer = looks(60, queue_length=3, num_busy=1, num_ready=1, num_replicas=1)
    assert num_wanted(longer, **LIMITS) == 3


COUNTS = st.integers(0, 9)


@st.composite
def histories(draw: Any) -> list[Look]:
    """Looks at a pool of one size, at any moments."""
    num_replicas = draw(st.integers(0, 6))
    num_ready = draw(st.integers(0, num_replicas))
    at_s, found = 0.0, list[Look]()
    for _ in range(draw(st.integers(1, 40))):
        at_s += draw(st.floats(0.1, 20))
        num_busy = draw(st.integers(0, num_ready))
        seen = {"queue_length": draw(COUNTS), "num_busy": num_busy}
        found.append(look(at_s, **seen, num_ready=num_ready, num_replicas=num_replicas))
    return found


@given(histories(), st.integers(0, 3), st.integers(3, 6), st.integers(1, 4), st.floats(6, 90))
def test_what_is_wanted_is_within_its_bounds_and_has_its_reason(
    history: list[Look], least: int, most: int, room: int, idle_s: float
) -> None:
    now = history[-1]
    limits = {"least": least, "most": most, "room": room}
    wanted = num_wanted(history, **limits, idle_s=idle_s, load_s=30.0)
    assert least <= wanted <= most
    kept = min(max(now.num_replicas, least), most)
    lived_s = now.at_s - history[0].at_s
    if wanted > kept:
        recent = [one for one in history if one.at_s >= now.at_s - GROW_AFTER_S]
        is_no_burst = lived_s >= GROW_AFTER_S and all(one.queue_length for one in recent)
        assert is_no_burst or (kept, wanted) == (0, 1)
    if wanted < kept:
        assert lived_s >= idle_s
        assert now.queue_length == 0
        recent = [one for one in history if one.at_s >= now.at_s - idle_s]
        assert sum(one.num_busy for one in recent) / len(recent) <= BUSY_SHARE * wanted + 1e-9
    if now.queue_length and most:
        assert wanted >= 1, "work is never left to nobody"


@given(histories(), COUNTS)
def test_more_batches_never_bring_fewer_replicas(history: list[Look], more: int) -> None:
    longer = [
        look(one.at_s, queue_length=one.queue_length + more, num_busy=one.num_busy,
             num_ready=one.num_ready, num_replicas=one.num_replicas)
        for one in history
    ]  # fmt: skip
    assert num_wanted(longer, **LIMITS) >= num_wanted(history, **LIMITS)


@given(st.lists(st.tuples(COUNTS, COUNTS), min_size=1, max_size=300))
def test_whatever_comes_a_replica_that_was_asked_for_stays_for_a_while(
    seen: list[tuple[int, int]],
) -> None:
    """As long as `idle_s`, if all that is asked for is there in the next second."""
    window, num_replicas = DemandWindow(least=0, room=2, idle_s=20.0), 0
    sizes: list[int] = []
    for at_s, (queue_length, num_busy) in enumerate(seen):
        one = look(at_s, queue_length=queue_length, num_busy=min(num_busy, num_replicas),
                   num_ready=num_replicas, num_replicas=num_replicas)  # fmt: skip
        num_replicas = window.see(one, most=6, load_s=0.0)
        sizes.append(num_replicas)
    grown = [at_s for at_s, (a, b) in enumerate(pairwise(sizes)) if b > a]
    shrunk = [at_s for at_s, (a, b) in enumerate(pairwise(sizes)) if b < a]
    assert all(not 0 < down - up < 20 for up in grown for down in shrunk)
