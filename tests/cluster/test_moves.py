"""cluster/moves.py: when GPUs change hands, in a run that takes no time."""

import pytest
from fluid_run import run_shifted, two_pools
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cluster.moves import Price, should_move
from cluster.packing import Node
from cluster.split import PoolRate, Split, solve

speeds = st.floats(0.02, 50)


def _split(*num_replicas: int) -> Split:
    return Split(num_replicas=num_replicas, num_gpus=(1.0,) * len(num_replicas))


def _gpus(num_gpus: int) -> list[Node]:
    return [Node(num_cpus=256, num_gpus=num_gpus)]


FREE = [Price(load_s=0.0)] * 2
DEAR = [Price(load_s=60.0)] * 2


def test_a_run_whose_captions_grew_moves_and_says_what_it_costs() -> None:
    # 7 + 1 was best at 7 : 1. At 7 : 4 the captioner holds everything up.
    move = should_move(_split(7, 1), two_pools(1.0, 1.75), _gpus(8), DEAR, 100_000)
    assert move.is_worth
    assert move.best.split.num_replicas == (5, 3)
    assert (move.current.pairs_per_s, move.best.pairs_per_s) == (14.0, 40.0)
    assert move.saved_s == pytest.approx(100_000 / 14 - 100_000 / 40)
    # Five generators and one captioner go on for 60 s.
    assert move.paid_s == pytest.approx(60 * (1 - 14 / 40))
    assert str(move) == (
        "moves: 7 + 1 gives 14 pairs/s, 5 + 3 40; saves 4643 s, costs 39 s "
        "(of the 7143 s that are left)"
    )


def test_a_move_near_the_end_is_refused() -> None:
    pools = two_pools(1.0, 1.75)
    verdicts = [
        should_move(_split(7, 1), pools, _gpus(8), DEAR, left).is_worth
        for left in (0, 10, 100, 500, 830, 850, 10_000)
    ]
    assert verdicts == [False] * 6 + [True]
    late = should_move(_split(7, 1), pools, _gpus(8), DEAR, 830)
    assert late.saved_s == pytest.approx(late.paid_s)  # over before anything has loaded
    assert "too little of the 59 s that are left" in str(late)
    assert should_move(_split(7, 1), pools, _gpus(8), FREE, 830).is_worth


def test_replicas_that_share_gpus_are_not_moved() -> None:
    shared = Split(num_replicas=(8, 1), num_gpus=(0.6, 0.4))
    move = should_move(shared, two_pools(1.0, 0.1), _gpus(8), FREE, 1e6)
    assert not move.is_worth
    assert "share GPUs" in str(move)


def test_nothing_is_moved_where_there_are_no_gpus_or_too_few_are_left() -> None:
    on_cpus = Split(num_replicas=(2, 1), num_gpus=(0.0, 0.0))
    assert "(no GPUs)" in str(should_move(on_cpus, two_pools(1.0, 0.1), [], FREE, 1e6))
    move = should_move(_split(1, 1), two_pools(1.0, 0.1), _gpus(1), FREE, 1e6)
    assert not move.is_worth
    assert "does not fit on 1 nodes with 1 GPUs" in str(move)


def test_what_is_not_needed_stays_where_nobody_needs_its_gpu() -> None:
    pools = [
        PoolRate(name="draws", calls_per_s=1.0, calls_per_pair=1.0, num_gpus=4),
        PoolRate(name="describes", calls_per_s=50.0, calls_per_pair=1.0),
    ]
    current = Split(num_replicas=(1, 4), num_gpus=(4.0, 1.0))
    move = should_move(current, pools, _gpus(8), FREE, 1000)
    assert not move.is_worth
    assert move.best.split == current


@settings(deadline=None)
@given(speeds, speeds, st.integers(2, 64), st.floats(-0.1, 0.1), st.floats(-0.1, 0.1))
def test_readings_that_are_off_by_a_tenth_never_move_a_run_from_its_best_split(
    draws: float, describes: float, num_gpus: int, draws_off: float, describes_off: float
) -> None:
    best = solve(two_pools(draws, describes), _gpus(num_gpus)).split
    noisy = two_pools(draws * (1 + draws_off), describes * (1 + describes_off), error=0.1)
    assert not should_move(best, noisy, _gpus(num_gpus), FREE, 1e9).is_worth


@settings(deadline=None)
@given(speeds, speeds, st.integers(2, 32), st.data(), st.floats(0, 1e6))
def test_a_move_ends_sooner_than_staying_and_keeps_to_the_gpus(
    draws: float, describes: float, num_gpus: int, data: st.DataObject, left: float
) -> None:
    first = data.draw(st.integers(1, num_gpus - 1))
    current, pools = _split(first, num_gpus - first), two_pools(draws, describes)
    move = should_move(current, pools, _gpus(num_gpus), DEAR, left)
    assume(move.is_worth)
    assert move.best.split.gpus <= num_gpus
    stays_s = left / move.current.pairs_per_s
    assert left / move.best.pairs_per_s + move.paid_s < stays_s


@pytest.mark.parametrize("rng_seed", range(3))
@pytest.mark.parametrize(
    ("draws", "describes", "num_gpus", "shift"),
    [
        (0.5, 3.5, 8, (1.0, 0.25)),  # captions four times as long
        (0.5, 1.0, 8, (4.0, 1.0)),  # a quarter of the steps
        (0.25, 4.0, 8, (1.0, 0.25)),  # the captioner was idle half the time, and is no longer
        (0.5, 0.5, 64, (1.0, 0.25)),
        (0.5, 8.0, 16, (0.25, 1.0)),  # nothing to gain: the generator has all but one GPU
    ],
)
def test_after_a_fourfold_shift_a_run_gets_what_the_best_split_gives_less_the_price(
    draws: float, describes: float, num_gpus: int, shift: tuple[float, float], rng_seed: int
) -> None:
    found = run_shifted(draws, describes, num_gpus, shift, rng_seed=rng_seed)
    assert all(at > found.shifted_at_s for at in found.moved_at_s), "noise alone moved it"
    assert len(found.moved_at_s) <= 2
    assert (found.ideal_s + found.paid_s) / found.took_s >= 0.95
    assert found.ideal_s / found.took_s >= 0.95, "the price itself included"
