"""cluster/rates.py: rates from what a pool has counted, against calls whose times are known."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pytest

from cluster.rates import RateWindow


@dataclass(frozen=True)
class _Counts:
    num_loads: int
    num_calls: int = 0
    num_rows: int = 0
    busy_s: float = 0.0


class _Pool:
    """Counts calls of 8 rows as a dispatcher does."""

    def __init__(self, num_loads: int = 1) -> None:
        self.counts = _Counts(num_loads)

    def call(self, seconds: float) -> _Counts:
        old = self.counts
        self.counts = replace(
            old,
            num_calls=old.num_calls + 1,
            num_rows=old.num_rows + 8,
            busy_s=old.busy_s + seconds,
        )
        return self.counts


def _watch(window: RateWindow, pool: _Pool, calls: Iterable[float]) -> None:
    for seconds in calls:
        window.see(pool.call(seconds))


def test_the_rate_is_that_of_a_busy_replica_and_is_exact_where_calls_are_equal() -> None:
    window, pool = RateWindow(), _Pool(num_loads=3)
    _watch(window, pool, [2.0] * 40)
    rate = window.rate()
    assert rate is not None
    assert (rate.calls_per_s, rate.rows_per_call, rate.error) == (0.5, 8.0, 0.0)
    assert rate.of("draws", num_gpus=1).seconds_per_pair == pytest.approx(2.0 / 8)


def test_nothing_is_said_before_there_is_enough_to_say() -> None:
    window, pool = RateWindow(), _Pool()
    _watch(window, pool, [1.0] * 16)
    assert window.rate() is None
    _watch(window, pool, [1.0])
    assert window.rate() is not None


def test_the_first_call_of_every_replica_is_left_out() -> None:
    window, pool = RateWindow(), _Pool(num_loads=4)
    _watch(window, pool, [60.0] * 4 + [1.0] * 40)
    rate = window.rate()
    assert rate is not None
    assert rate.calls_per_s == pytest.approx(1.0)


def test_a_first_call_that_ends_long_after_those_of_others_is_left_out_as_well() -> None:
    window, pool = RateWindow(), _Pool(num_loads=2)
    _watch(window, pool, [1.0] * 20 + [300.0] + [1.0] * 11)
    rate = window.rate()
    assert rate is not None
    assert rate.calls_per_s == pytest.approx(1.0)


def test_after_a_shift_the_new_rate_takes_over_as_a_whole() -> None:
    window, pool = RateWindow(), _Pool()
    _watch(window, pool, [1.0] * 40)
    said: list[float] = []
    for _ in range(40):
        _watch(window, pool, [4.0])
        rate = window.rate()
        if rate is not None:
            said.append(round(1 / rate.calls_per_s, 6))
    assert said[0] < 1.1, "one interval of eight is half new"
    assert said[-1] == 4.0
    assert said.index(4.0) <= 24, "five of eight intervals suffice"


def test_the_error_covers_the_truth_of_calls_that_vary() -> None:
    """Lognormal, cv .5: mean 1 s."""
    moments = random.Random(20261121)
    num_right = 0
    for _ in range(200):
        window, pool = RateWindow(), _Pool()
        _watch(window, pool, (moments.lognormvariate(-0.1116, 0.4724) for _ in range(40)))
        rate = window.rate()
        assert rate is not None
        assert rate.error < 0.6
        num_right += abs(1 / rate.calls_per_s - 1.0) <= rate.error / rate.calls_per_s
    assert num_right >= 180


def test_looks_without_a_new_call_change_nothing() -> None:
    window, pool = RateWindow(), _Pool()
    _watch(window, pool, [1.0] * 30)
    before = window.rate()
    for _ in range(20):
        window.see(pool.counts)
    assert window.rate() == before
