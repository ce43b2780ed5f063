"""How good the chosen split is: against all splits there are, and after a 4x shift in mid-run.

    python tests/benchmarks/split_ratios.py [instances]

Rates at random (30:1 to 1:30), both models fitting on one GPU in half of the instances. *Asked
for*: every count and fraction that a config can ask for, packed as the run packs them, up to 6
GPUs. *Layouts*: any numbers of GPUs with the one model, the other, and both, up to 64, which no
config can ask for if all three are above 0. *Shift*: one of the rates four times as high or as low
when half of an hour's pairs are there; loads of 60 s, with and without the price of the moves.

Limits: pure, one seed; that two models get .95 out of one GPU together is assumed.
"""

import os
import random
import statistics
import sys
from itertools import product
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from fluid_run import run_shifted

from cluster.packing import Node
from cluster.split import SHARED_EFFICIENCY, PoolRate, Split, fits, forecast, solve

SHARES = (1.0, 0.75, 0.6, 0.5, 0.4, 0.25)


def pools_at_random(moments: random.Random, memory_share: float | None) -> list[PoolRate]:
    ratio = 30 ** moments.uniform(-1, 1)
    return [
        PoolRate(name=name, calls_per_s=one, calls_per_pair=1.0, memory_share=memory_share)
        for name, one in (("draws", 1.0), ("describes", ratio))
    ]


def best_asked_for(rates: list[PoolRate], num_gpus: int) -> float:
    nodes, counts = [Node(num_cpus=999, num_gpus=num_gpus)], range(1, 2 * num_gpus + 1)
    can_share = rates[0].memory_share is not None
    shares = product(SHARES, SHARES) if can_share else [(1.0, 1.0)]
    found = 0.0
    for pair, n, m in product(list(shares), counts, counts):
        split = Split(num_replicas=(n, m), num_gpus=pair)
        if fits(rates, split, nodes):
            found = max(found, forecast(rates, split).pairs_per_s)
    return found


def best_layout(rates: list[PoolRate], num_gpus: int) -> float:
    """By the definition: GPUs of the first pool, of the second, and of both."""
    (one, other), e = (rate.seconds_per_pair for rate in rates), SHARED_EFFICIENCY
    most = num_gpus if rates[0].memory_share is not None else 0
    found = 0.0
    for both in range(most + 1):
        for first in range(num_gpus - both + 1):
            second = num_gpus - both - first
            ceilings = (first + e * both) / one, (second + e * both) / other
            found = max(found, min(*ceilings, (first + second + e * both) / (one + other)))
    return found


def report(title: str, ratios: list[float], goal: float) -> None:
    reached = sum(ratio >= goal for ratio in ratios) / len(ratios)
    print(
        f"{title:44} at least {min(ratios):.4f}, median {statistics.median(ratios):.4f}, "
        f"{reached:.0%} of {len(ratios)} reach {goal:g}"
    )


def main() -> None:
    num_instances = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    moments = random.Random(20261121)
    found: dict[str, list[float]] = {}
    for index in range(num_instances):
        memory_share = 0.5 if index % 2 else None
        rates = pools_at_random(moments, memory_share)
        kind = "shared or whole" if memory_share else "whole"
        few, many = moments.randint(2, 6), moments.choice([8, 16, 32, 64])
        for title, num_gpus, best in (
            (f"{kind}, chosen / best asked for", few, best_asked_for),
            (f"{kind}, chosen / best layout, 2-6 GPUs", few, best_layout),
            (f"{kind}, chosen / best layout, 8-64 GPUs", many, best_layout),
        ):
            chosen = solve(rates, [Node(num_cpus=999, num_gpus=num_gpus)]).pairs_per_s
            found.setdefault(title, []).append(chosen / best(rates, num_gpus))
    for title, ratios in sorted(found.items()):
        report(title, ratios, 0.99)
    paid, unpaid = list[float](), list[float]()
    for index in range(num_instances // 3):
        draws, describes = 0.5, 0.5 * 30 ** moments.uniform(-1, 1)
        factor = moments.choice([0.25, 4.0])
        shift = (factor, 1.0) if moments.random() < 0.5 else (1.0, factor)
        one = run_shifted(draws, describes, moments.randint(2, 16), shift, rng_seed=index)
        paid.append((one.ideal_s + one.paid_s) / one.took_s)
        unpaid.append(one.ideal_s / one.took_s)
    report("4x shift, best and the moves' price / taken", paid, 0.95)
    report("4x shift, best / taken", unpaid, 0.95)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
