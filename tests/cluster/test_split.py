"""cluster/split.py: the best split, against every split there is."""

import time
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.packing import Demand, Node, check_fits
from cluster.split import FIRST_SHARE, PoolRate, Split, fits, forecast, solve

WHOLE = (1.0, 1.0)


def _rate(calls_per_s: float, *, name: str = "pool", **more: object) -> PoolRate:
    return PoolRate(name=name, calls_per_s=calls_per_s, **{"calls_per_pair": 1.0, **more})


def _two(first: float, second: float, **more: object) -> list[PoolRate]:
    return [_rate(first, name="draws", **more), _rate(second, name="describes", **more)]


def _nodes(*num_gpus: int) -> list[Node]:
    return [Node(num_cpus=256, num_gpus=n) for n in num_gpus]


def _most_of_all_layouts(rates: list[PoolRate], num_gpus: int, efficiency: float) -> float:
    """By the definition: GPUs of the first pool, of the second, and of both, in all numbers."""
    work = [rate.seconds_per_pair for rate in rates]
    found = [0.0]
    for first, second in product(range(num_gpus + 1), repeat=2):
        both = num_gpus - first - second
        if both < 0 or first + both == 0 or second + both == 0:
            continue
        ceilings = [
            (first + efficiency * both) / work[0],
            (second + efficiency * both) / work[1],
            (first + second + efficiency * both) / sum(work),
        ]
        found.append(min(ceilings))
    return max(found)


rates = st.floats(0.01, 100)


@settings(deadline=None)
@given(rates, rates, st.integers(2, 24))
def test_no_split_into_whole_gpus_is_better(first: float, second: float, num_gpus: int) -> None:
    pools = _two(first, second)
    best = max(min(n * first, (num_gpus - n) * second) for n in range(1, num_gpus))
    found = solve(pools, _nodes(num_gpus))
    assert found.split.num_gpus == WHOLE
    assert found.pairs_per_s == pytest.approx(best)


@settings(deadline=None)
@given(rates, rates, rates, st.integers(3, 12))
def test_nor_for_three_pools(first: float, second: float, third: float, num_gpus: int) -> None:
    pools = [_rate(one, name=f"p{one}") for one in (first, second, third)]
    best = max(
        min(a * first, b * second, (num_gpus - a - b) * third)
        for a, b in product(range(1, num_gpus), repeat=2)
        if a + b < num_gpus
    )
    assert solve(pools, _nodes(num_gpus)).pairs_per_s == pytest.approx(best)


@settings(deadline=None)
@given(rates, rates, st.integers(1, 16))
def test_where_sharing_is_free_no_layout_of_any_kind_is_better(
    first: float, second: float, num_gpus: int
) -> None:
    pools = _two(first, second, memory_share=0.5)
    found = solve(pools, _nodes(num_gpus), shared_efficiency=1.0)
    best = _most_of_all_layouts(pools, num_gpus, 1.0)
    assert best == pytest.approx(num_gpus / sum(p.seconds_per_pair for p in pools))
    assert found.pairs_per_s == pytest.approx(best)


@settings(deadline=None)
@given(rates, rates, st.integers(1, 16), st.floats(0.8, 1.0))
def test_where_it_costs_something_no_layout_is_better_by_more_than_that(
    first: float, second: float, num_gpus: int, efficiency: float
) -> None:
    pools = _two(first, second, memory_share=0.5)
    found = solve(pools, _nodes(num_gpus), shared_efficiency=efficiency)
    best = _most_of_all_layouts(pools, num_gpus, efficiency)
    assert efficiency * best <= found.pairs_per_s * (1 + 1e-9)
    assert found.pairs_per_s <= best * (1 + 1e-9)
    # What is promised without packing is what packing gives.
    packed = forecast(pools, found.split, shared_efficiency=efficiency)
    assert found == packed


@settings(deadline=None, max_examples=20)
@given(rates, rates, st.integers(1, 4), st.floats(0.5, 1.0))
def test_no_counts_and_fractions_at_all_promise_more(
    first: float, second: float, num_gpus: int, efficiency: float
) -> None:
    """Every split that a config can ask for, two replicas of one model on one GPU included."""
    pools = _two(first, second, memory_share=0.5)
    best = solve(pools, _nodes(num_gpus), shared_efficiency=efficiency).pairs_per_s
    counts = range(1, 2 * num_gpus + 1)
    shares = (1.0, 0.75, 0.6, 0.5, 0.4, 0.25)
    for n, m, one, other in product(counts, counts, shares, shares):
        split = Split(num_replicas=(n, m), num_gpus=(one, other))
        if fits(pools, split, _nodes(num_gpus)):
            found = forecast(pools, split, shared_efficiency=efficiency)
            assert found.pairs_per_s <= best * (1 + 1e-9), split


@settings(deadline=None)
@given(rates, rates, st.integers(2, 30), st.sampled_from([None, 0.3, 0.6]))
def test_one_gpu_more_never_hurts(
    first: float, second: float, num_gpus: int, memory_share: float | None
) -> None:
    pools = _two(first, second, memory_share=memory_share)
    fewer = solve(pools, _nodes(num_gpus)).pairs_per_s
    assert solve(pools, _nodes(num_gpus + 1)).pairs_per_s >= fewer * (1 - 1e-9)


@settings(deadline=None)
@given(
    pools=st.lists(
        st.builds(
            lambda speed, num_gpus, num_cpus: _rate(speed, num_gpus=num_gpus, num_cpus=num_cpus),
            rates,
            st.sampled_from([1, 1, 2, 4]),
            st.sampled_from([0.1, 1.0, 4.0]),
        ),
        min_size=1,
        max_size=3,
    ),
    nodes=st.lists(
        st.builds(lambda c, g: Node(num_cpus=c, num_gpus=g), st.integers(1, 32), st.integers(0, 8)),
        max_size=5,
    ),
)
def test_a_split_always_fits_on_its_nodes(pools: list[PoolRate], nodes: list[Node]) -> None:
    try:
        split = solve(pools, nodes).split
    except ValueError:
        one_each = [
            Demand(name=p.name, num_replicas=1, num_cpus=p.num_cpus, num_gpus=p.num_gpus)
            for p in pools
        ]
        with pytest.raises(ValueError, match="finds room for 0 of 1"):
            check_fits(one_each, nodes, can_autoscale=False)
        return
    demands = [
        Demand(name=p.name, num_replicas=n, num_cpus=p.num_cpus, num_gpus=g)
        for p, n, g in zip(pools, split.num_replicas, split.num_gpus, strict=True)
    ]
    check_fits(demands, nodes, can_autoscale=False)
    assert min(split.num_replicas) >= 1


def test_both_models_on_one_gpu_win_where_one_each_would_waste_half() -> None:
    pools = _two(1.0, 20.0, memory_share=0.4)
    apart = solve(_two(1.0, 20.0), _nodes(2))
    assert (apart.split.num_replicas, apart.pairs_per_s) == ((1, 1), 1.0)
    assert apart.bottleneck == "draws"
    assert apart.idle_shares == pytest.approx((0.0, 0.95))
    shared = solve(pools, _nodes(2))
    assert shared.split == Split(num_replicas=(2, 1), num_gpus=(FIRST_SHARE, 0.4))
    assert shared.pairs_per_s == pytest.approx(1.95 / 1.05)
    assert shared.bottleneck == "draws and describes"


def test_what_sharing_costs_is_not_paid_where_whole_gpus_come_out_even() -> None:
    found = solve(_two(1.0, 3.0, memory_share=0.2), _nodes(8))
    assert (found.split.num_replicas, found.split.num_gpus) == ((6, 2), WHOLE)


def test_models_whose_memory_is_unknown_or_too_large_share_nothing() -> None:
    for memory_share in (None, 0.51):
        pools = _two(1.0, 20.0, memory_share=memory_share)
        assert solve(pools, _nodes(2)).split.num_gpus == WHOLE
        with pytest.raises(ValueError, match=r"does not fit on 1 nodes with 1 GPUs: add GPUs, or"):
            solve(pools, _nodes(1))


def test_gpus_that_help_nobody_stay_free() -> None:
    pools = [_rate(1.0, num_gpus=4, name="large"), _rate(100.0, name="small")]
    assert solve(pools, _nodes(4, 4)).split.num_replicas == (1, 1)
    assert solve(pools, _nodes(4, 4, 1)).split.num_replicas == (2, 1)


def test_replicas_on_cpus_are_forecast_as_they_are() -> None:
    pools = _two(1.0, 4.0, num_gpus=0)
    found = forecast(pools, Split(num_replicas=(2, 1), num_gpus=(0.0, 0.0)))
    assert (found.pairs_per_s, found.bottleneck) == (2.0, "draws")
    assert found.idle_shares == (0.0, 0.5)


def test_a_config_with_more_replicas_than_gpus_counts_each_gpu_once() -> None:
    four_on_two = Split(num_replicas=(4, 2), num_gpus=(0.25, 0.5))
    found = forecast(_two(1.0, 1.0), four_on_two, shared_efficiency=1.0)
    assert found.pairs_per_s == pytest.approx(1.0)


def test_replicas_of_one_model_on_one_gpu_take_turns_as_well() -> None:
    """Once they were forecast as if each had the GPU to itself, where there were GPUs enough."""
    halves = Split(num_replicas=(2, 2), num_gpus=(1.0, 0.5))
    found = forecast(_two(1.0, 1.0), halves)
    assert (found.bottleneck, found.pairs_per_s) == ("describes", pytest.approx(0.95))


def test_three_pools_that_share_are_forecast_gpu_by_gpu() -> None:
    pools = [_rate(one, name=name) for name, one in (("a", 1.0), ("b", 1.0), ("c", 10.0))]
    split = Split(num_replicas=(2, 1, 1), num_gpus=(0.6, 0.4, 0.4))
    found = forecast(pools, split, shared_efficiency=1.0)
    # a and b on one GPU, a and c on the other: 2 GPUs for 2.1 s a pair, b at most one of them.
    assert found.bottleneck == "a and b and c"
    assert found.pairs_per_s == pytest.approx(2 / 2.1)


@pytest.mark.parametrize("field", ["calls_per_s", "calls_per_pair"])
def test_a_rate_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"field '{field}' of draws is 0"):
        _rate(**{"calls_per_s": 1.0, "name": "draws", field: 0})


def test_64_gpus_do_not_take_long() -> None:
    """The bound is 50 ms on a quiet machine; this only catches another order of growth."""
    started = time.perf_counter()
    solve(_two(1.0, 7.3, memory_share=0.3), _nodes(*[8] * 8))
    assert time.perf_counter() - started < 1.0
