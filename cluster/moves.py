"""Whether a run should move GPUs from one pool to another now, and the reckoning behind it.

A move pays with the time in which replicas that were stopped are gone and those that take their
GPUs still load (a stopped one finishes its batches first); it gains the difference of the
two rates over all that remains. It must gain even if every measured rate is wrong, to the full
extent of its error, in the way that speaks least for it. So a reading within its error of the truth
never moves a run away from the split that is best in truth: at the truth, which is among what is
tried, that move gains nothing.

Limits: pools whose replicas have whole GPUs only. What replicas that share a GPU seem to do is not
what they do alone, and a GPU that holds both models needs no move. The loads of a move overlap.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from cluster.packing import Node
from cluster.split import Forecast, PoolRate, Split, fits, forecast, one_more, solve

# Of the seconds that remain: less is not worth the disturbance.
MIN_GAIN = 0.02


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a move costs a pool."""

    load_s: float
    """From the order to a replica that answers: process, model, warm-up."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """What was decided, and why; `str()` of it is one line for the log."""

    is_worth: bool
    current: Forecast
    best: Forecast
    saved_s: float = 0.0
    """Of what remains, by the better split, before the price."""
    paid_s: float = 0.0
    reason: str = ""

    def __str__(self) -> str:
        verb = "moves" if self.is_worth else "stays"
        return (
            f"{verb}: {_counts(self.current)} gives {self.current.pairs_per_s:.3g} pairs/s, "
            f"{_counts(self.best)} {self.best.pairs_per_s:.3g}; saves {self.saved_s:.0f} s, "
            f"costs {self.paid_s:.0f} s ({self.reason})"
        )


def should_move(
    current: Split,
    rates: Sequence[PoolRate],
    nodes: Sequence[Node],
    prices: Sequence[Price],
    num_pairs_left: float,
) -> Move:
    """Weighs the best split for `rates`, as measured now, against staying.

    Args:
        current: the replicas that work now.
        rates: with their `error`; in the order of the pools, like `prices`.
        nodes: the GPUs at hand, those of the run included.
        prices: of each pool.
        num_pairs_left: pairs that are not yet begun.
    """
    now = forecast(rates, current)
    stays = Move(is_worth=False, current=now, best=now)
    if not current.is_whole:
        is_on_gpus = any(current.num_gpus)
        reason = (
            "replicas share GPUs, what each does alone is not seen" if is_on_gpus else "no GPUs"
        )
        return replace(stays, reason=reason)
    try:
        best = solve(rates, nodes, can_share=False)
    except ValueError as error:  # a node was lost, and what is left is too little
        return replace(stays, reason=str(error))
    target = _keep(current, best.split, rates, nodes)
    best = forecast(rates, target)
    if target == current:
        return replace(stays, reason="no split is better")
    saved_s, paid_s = _reckon(current, target, rates, prices, num_pairs_left)
    move = Move(is_worth=True, current=now, best=best, saved_s=saved_s, paid_s=paid_s)
    seconds_left = num_pairs_left / now.pairs_per_s
    if saved_s - paid_s <= MIN_GAIN * seconds_left:
        reason = f"too little of the {seconds_left:.0f} s that are left"
        return replace(move, is_worth=False, reason=reason)
    for one in _extremes(rates):
        saved_at_least_s, paid_at_most_s = _reckon(current, target, one, prices, num_pairs_left)
        if saved_at_least_s <= paid_at_most_s:
            errors = ", ".join(f"{rate.name} +-{rate.error:.0%}" for rate in rates)
            return replace(move, is_worth=False, reason=f"the rates may be wrong: {errors}")
    return replace(move, reason=f"of the {seconds_left:.0f} s that are left")


def _reckon(
    current: Split,
    target: Split,
    rates: Sequence[PoolRate],
    prices: Sequence[Price],
    num_pairs_left: float,
) -> tuple[float, float]:
    """Seconds saved over what remains, and seconds paid for it."""
    pairs_before, pairs_after = _pairs_per_s(current, rates), _pairs_per_s(target, rates)
    kept = tuple(map(min, current.num_replicas, target.num_replicas))
    meanwhile = _pairs_per_s(replace(current, num_replicas=kept), rates)
    changes = zip(target.num_replicas, current.num_replicas, prices, strict=True)
    load_s = max((price.load_s for new, old, price in changes if new > old), default=0.0)
    saved_s = num_pairs_left / pairs_before - num_pairs_left / pairs_after
    if meanwhile * load_s >= num_pairs_left:  # over before anything has loaded
        return saved_s, num_pairs_left / meanwhile - num_pairs_left / pairs_after
    return saved_s, load_s * (1 - meanwhile / pairs_after)


def _pairs_per_s(split: Split, rates: Sequence[PoolRate]) -> float:
    return forecast(rates, split).pairs_per_s


def _keep(current: Split, best: Split, rates: Sequence[PoolRate], nodes: Sequence[Node]) -> Split:
    """The best split with the replicas it does not need, where nothing else needs their GPUs."""
    for pool, num_replicas in enumerate(current.num_replicas):
        while best.num_replicas[pool] < num_replicas:
            more = replace(best, num_replicas=one_more(best.num_replicas, pool))
            if not fits(rates, more, nodes):
                break
            best = more
    return best


def _extremes(rates: Sequence[PoolRate]) -> list[list[PoolRate]]:
    """What the rates may be in truth, if each reading is off by its whole error.

    The corners suffice for two pools: what a move gains rises, or falls, with the ratio of the
    rates.
    """
    found: list[list[PoolRate]] = []
    for signs in product((-1, 1), repeat=len(rates)):
        off = [max(1 + sign * rate.error, 1e-3) for sign, rate in zip(signs, rates, strict=True)]
        true = [rate.calls_per_s / factor for rate, factor in zip(rates, off, strict=True)]
        found.append([replace(r, calls_per_s=one) for r, one in zip(rates, true, strict=True)])
    return found


def _counts(one: Forecast) -> str:
    return " + ".join(map(str, one.split.num_replicas))
