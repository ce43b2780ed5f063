"""In which order waiting batches are best served: the real dispatcher, in virtual time.

    python tests/benchmarks/order_policies.py

Units of chains go through all rounds of draw, describe and record, as many at once as Ray Data
lets in. Both pools are `cluster/dispatcher.py` itself over replicas that only wait, on a clock
that jumps, so that an hour of 64 GPUs takes seconds. For every policy: the makespan against the
work that the busier pool had (efficiency), the first commit and the first finished unit, and how
many pictures were at most drawn and not yet committed.

Limits: no Ray, no transfer, no start: only what the order decides. Batches are those of one unit.
"""

import asyncio
import random
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from replicas import FakeReplica, run_jumping

from cluster.dispatch import PoolConfig
from cluster.dispatcher import Dispatcher
from cluster.replica import CallStatus
from pipelines.stages import serve_order

FAR = 10**6
Policy = Callable[[int, int], int]
POLICIES: dict[str, Policy] = {
    "groups of 16 units": lambda unit, r: serve_order(unit, r, 16),
    "groups of 8 units": lambda unit, r: serve_order(unit, r, 8),
    "oldest unit first": lambda unit, _: unit,
    "most rounds left first": lambda unit, r: r * FAR + unit,
    "deepest round first": lambda unit, r: (1000 - r) * FAR + unit,
    "as they come": lambda _unit, _round: 0,
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A run: its size, its pools, and what a call of each takes."""

    title: str
    num_units: int
    num_rounds: int = 4
    batches_a_unit: int = 4
    num_generators: int = 8
    num_captioners: int = 2
    draw_s: float = 1.0
    describe_s: float = 0.2
    sigma: float = 0.0  # of the logarithm of a call's seconds
    num_slow: int = 0  # generators that take three times as long
    units_at_once: int = 64


@dataclass
class Seen:
    """What one run showed."""

    first_commit_s: float = 0.0
    first_unit_s: float = 0.0
    makespan_s: float = 0.0
    num_held: int = 0
    most_held: int = 0
    work_s: dict[str, float] = field(default_factory=lambda: {"draw": 0.0, "describe": 0.0})


def pool_of(shape: Shape, verb: str, seed: int, seen: Seen) -> Dispatcher:
    rng = random.Random(f"{seed}{verb}")
    is_draw = verb == "draw"
    mean_s = shape.draw_s if is_draw else shape.describe_s

    async def answer(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
        took_s = mean_s * rng.lognormvariate(-(shape.sigma**2) / 2, shape.sigma)
        seen.work_s[verb] += took_s
        await asyncio.sleep(took_s * (3 if is_draw and replica.index < shape.num_slow else 1))
        return CallStatus(seconds=took_s, busy_s=took_s), rows

    num_replicas = shape.num_generators if is_draw else shape.num_captioners
    config = PoolConfig(num_replicas=num_replicas)
    pool = Dispatcher(verb, config, lambda index: FakeReplica(index, answer, "", 0.0, 0.0, 1))
    pool.start()
    return pool


async def walk(
    unit: int, shape: Shape, pools: dict[str, Dispatcher], policy: Policy, seen: Seen, clock: Any
) -> None:
    for r in range(shape.num_rounds):
        for verb in ("draw", "describe"):
            sent = (
                pools[verb].submit(unit, 8, policy(unit, r)) for _ in range(shape.batches_a_unit)
            )
            for outcome in await asyncio.gather(*sent):
                assert not outcome.error, outcome.error
            if verb == "draw":
                seen.num_held += shape.batches_a_unit
                seen.most_held = max(seen.most_held, seen.num_held)
        await asyncio.sleep(0.02)  # the commit
        seen.num_held -= shape.batches_a_unit
        seen.first_commit_s = seen.first_commit_s or clock()
    seen.first_unit_s = seen.first_unit_s or clock()


def run(shape: Shape, policy: Policy, seed: int) -> Seen:
    seen = Seen()

    async def work() -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        pools = {verb: pool_of(shape, verb, seed, seen) for verb in ("draw", "describe")}
        gate = asyncio.Semaphore(shape.units_at_once)

        async def one(unit: int) -> None:
            async with gate:
                await walk(unit, shape, pools, policy, seen, lambda: loop.time() - started)

        await asyncio.gather(*(one(unit) for unit in range(shape.num_units)))
        seen.makespan_s = loop.time() - started
        for pool in pools.values():
            pool.close()

    run_jumping(work(), 10**7)
    return seen


def ideal_s(shape: Shape, seen: Seen) -> float:
    """The busier pool at work without a gap: no order can be faster."""
    speed = shape.num_generators - shape.num_slow * 2 / 3
    return max(seen.work_s["draw"] / speed, seen.work_s["describe"] / shape.num_captioners)


SHAPES = (
    Shape(title="8 + 2, 480 batches, fixed", num_units=30),
    Shape(title="8 + 2, 480 batches, 8 units at once", num_units=30, units_at_once=8),
    Shape(title="8 + 2, captioner the bottleneck", num_units=30, describe_s=0.5),
    Shape(title="8 + 2, lognormal cv .5, one 3x slow", num_units=30, sigma=0.4724, num_slow=1),
    Shape(title="64 + 13, 4,096 batches", num_units=256, num_generators=64, num_captioners=13),
    Shape(title="6 + 2, 12 rounds, 576 batches", num_units=12, num_rounds=12, num_generators=6),
)


def main() -> None:
    num_seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for shape in SHAPES:
        print(f"\n{shape.title} ({num_seeds} seeds: median, range)")
        for name, policy in POLICIES.items():
            runs = [run(shape, policy, seed) for seed in range(num_seeds)]
            effs = [ideal_s(shape, one) / one.makespan_s for one in runs]
            first = statistics.median(one.first_commit_s for one in runs)
            unit = statistics.median(one.first_unit_s for one in runs)
            held = statistics.median(one.most_held for one in runs)
            print(
                f"  {name:24s} efficiency {statistics.median(effs):.3f} "
                f"({min(effs):.3f}-{max(effs):.3f}); first commit {first:.1f} s, first unit "
                f"{unit:.1f} s; at most {held:.0f} batches of pictures held"
            )


if __name__ == "__main__":
    main()
