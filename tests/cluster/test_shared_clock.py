"""cluster/shared_clock.py: shares add up to the time in which the engine worked at all."""

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.shared_clock import SharedClock, Span


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


def test_one_call_at_a_time_has_its_own_length() -> None:
    now = Clock()
    clock = SharedClock(now)
    for length in (2.0, 3.0):
        with clock.call() as span:
            now.now_s += length
        now.now_s += 10.0  # nothing is under way
        assert (span.seconds, span.share_s) == (length, length)


def test_two_that_overlap_share_what_they_share() -> None:
    now = Clock()
    clock = SharedClock(now)
    with ExitStack() as first, ExitStack() as second:
        one = first.enter_context(clock.call())
        now.now_s += 1.0  # alone
        two = second.enter_context(clock.call())
        now.now_s += 4.0  # together
        first.close()
        now.now_s += 2.0  # alone
    assert (one.seconds, one.share_s) == (5.0, 3.0)
    assert (two.seconds, two.share_s) == (6.0, 4.0)


def test_a_call_that_raises_has_worked_as_well() -> None:
    now = Clock()
    clock = SharedClock(now)
    spans: list[Span] = []

    def fail() -> None:
        with clock.call() as span:
            spans.append(span)
            now.now_s += 1.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert spans[0].share_s == 1.0


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=8))
def test_all_shares_add_up_to_the_time_with_any_call(calls: list[tuple[int, int]]) -> None:
    """Of calls that begin at any second and take any time."""
    now = Clock()
    clock = SharedClock(now)
    spans: dict[int, Span] = {}
    stacks = {at: ExitStack() for at in range(len(calls))}
    for second in range(50):
        now.now_s = float(second)
        for at, (begin, _) in enumerate(calls):
            if begin == second:
                spans[at] = stacks[at].enter_context(clock.call())
        for at, (begin, length) in enumerate(calls):
            if begin + length == second:
                stacks[at].close()
    worked = {s for begin, length in calls for s in range(begin, begin + length)}
    assert sum(one.share_s for one in spans.values()) == pytest.approx(len(worked))
    for at, (_, length) in enumerate(calls):
        assert spans[at].seconds == length >= spans[at].share_s - 1e-9
