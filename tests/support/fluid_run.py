"""A run as a fluid, in no time: pools whose rates shift in mid-run, and the moves that follow.

What decides is the product's own: `RateWindow` sees calls that vary, `should_move` weighs, `solve`
says what would have been best. Limits: no process, no Ray; loads take what they are said to.
"""

import random
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

from cluster.moves import Price, should_move
from cluster.packing import Node
from cluster.rates import RateWindow
from cluster.split import PoolRate, Split, forecast, solve

BATCH = 8
TICK_S, LOOK_S = 5.0, 20.0


def two_pools(draws: float, describes: float, error: float = 0.0) -> list[PoolRate]:
    """By calls a second of one replica."""
    return [
        PoolRate(name=name, calls_per_s=one, calls_per_pair=1 / BATCH, error=error)
        for name, one in (("draws", draws), ("describes", describes))
    ]


class FluidRun:
    """Pairs and calls, five seconds at a time; calls take +-10 % by chance."""

    def __init__(self, split: Split, rng_seed: int) -> None:
        self.split = self.pending = split
        self.now_s, self.loaded_at_s = 0.0, 0.0
        self.num_pairs = 0.0
        self._calls, self._busy_s, self._begun = [0, 0], [0.0, 0.0], [0.0, 0.0]
        self._random = random.Random(rng_seed)

    def tick(self, pools: list[PoolRate]) -> None:
        if self.now_s >= self.loaded_at_s:
            self.split = self.pending
        pairs = forecast(pools, self.split).pairs_per_s
        self.num_pairs += pairs * TICK_S
        self.now_s += TICK_S
        for i, pool in enumerate(pools):
            self._begun[i] += TICK_S * pairs * pool.calls_per_pair
            while self._begun[i] >= 1:
                self._begun[i] -= 1
                self._calls[i] += 1
                self._busy_s[i] += self._random.uniform(0.9, 1.1) / pool.calls_per_s

    def move(self, split: Split, load_s: float) -> None:
        kept = tuple(map(min, split.num_replicas, self.split.num_replicas))
        self.split, self.pending = replace(split, num_replicas=kept), split
        self.loaded_at_s = self.now_s + load_s

    def counts(self, pool: int) -> SimpleNamespace:
        num_calls = self._calls[pool]
        return SimpleNamespace(
            num_loads=1,
            num_calls=num_calls,
            num_rows=BATCH * num_calls,
            busy_s=self._busy_s[pool],
        )


@dataclass
class Shifted:
    """What became of a run whose rates shifted when half of its pairs were there."""

    ideal_s: float = 0.0
    """For the other half, with the best split for the new rates from the first moment."""
    took_s: float = 0.0
    shifted_at_s: float = 0.0
    moved_at_s: list[float] = field(default_factory=list[float])
    paid_s: float = 0.0
    """What the moves reckoned that they would cost."""


def run_shifted(
    draws: float,
    describes: float,
    num_gpus: int,
    shift: tuple[float, float],
    *,
    rng_seed: int,
    load_s: float = 60.0,
    hours: float = 1.0,
) -> Shifted:
    """Begins with the best split; `hours` is what it would take if nothing shifted."""
    before, after = two_pools(draws, describes), two_pools(draws * shift[0], describes * shift[1])
    nodes, prices = [Node(num_cpus=256, num_gpus=num_gpus)], [Price(load_s=load_s)] * 2
    run = FluidRun(solve(before, nodes).split, rng_seed)
    num_pairs = hours * 3600 * forecast(before, run.split).pairs_per_s
    windows, found, num_left = (RateWindow(), RateWindow()), Shifted(), num_pairs
    while run.num_pairs < num_pairs:
        run.tick(before if run.num_pairs < num_pairs / 2 else after)
        if run.num_pairs < num_pairs / 2:
            found.shifted_at_s, num_left = run.now_s, num_pairs - run.num_pairs
        for pool, window in enumerate(windows):
            window.see(run.counts(pool))
        seen = [window.rate() for window in windows]
        if run.now_s % LOOK_S or run.split != run.pending or None in seen:
            continue
        rates = [one.of(p.name, num_gpus=1) for one, p in zip(seen, before, strict=True) if one]
        move = should_move(run.split, rates, nodes, prices, num_pairs - run.num_pairs)
        if move.is_worth:
            found.moved_at_s.append(run.now_s)
            found.paid_s += move.paid_s
            run.move(move.best.split, load_s)
    found.ideal_s = num_left / solve(after, nodes).pairs_per_s
    found.took_s = run.now_s - found.shifted_at_s
    return found
