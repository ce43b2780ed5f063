"""What a block costs in each stage of the loop, against a plain chain of `map_batches`.

    python tests/benchmarks/block_cost.py [num_units] [num_repeats]

All sides get the same blocks (64 rows, 20 kB of picture each) and do no work on them: two rounds of
three stages.
 - `plain`: six `map_batches` that return their block, an async actor each, as many blocks at
   a time as pairloom lets in.
 - `actor`, `walker`: the stages of pairloom, board and all, with works that return the rows.

Limits: no pool, no model, no commit: what the stages themselves add. The time is the whole
dataset's, less that of one with a single unit, so that the start of processes is not in it.
"""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2])]
os.environ.setdefault("RAY_worker_niceness", "0")

import numpy as np
import pyarrow as pa

from actors.records import CHAIN_SCHEMA, Row, derive_chain_ids, derive_unit_id
from cluster.session import SessionConfig, session
from cluster.telemetry import start_board
from pipelines.stages import STAGE_CPUS, Stage, StagesConfig, lay_out

UNIT_SIZE, IMAGE_BYTES, NUM_ROUNDS, IN_FLIGHT, GOAL = 64, 20_000, 2, 8, 1.25


def make_units(num_units: int) -> Any:
    """One block a unit, made in the read, so that no block waits in the store."""
    import ray

    def make(batch: dict[str, Any]) -> pa.Table:
        index = int(batch["id"][0])
        picture = np.random.default_rng(index).bytes(IMAGE_BYTES)
        ids = derive_chain_ids(0, [f"{index} {row}" for row in range(UNIT_SIZE)])
        rows = [
            dict.fromkeys(CHAIN_SCHEMA.names)
            | {
                "chain_id": chain_id,
                "unit_id": derive_unit_id(index, ids),
                "unit_index": index,
                "next_round": 0,
                "prompt": "a small red circle to the left of a large blue square",
                "image": {"bytes": picture, "path": None},
                "is_stopped": False,
            }
            for chain_id in ids
        ]
        return pa.Table.from_pylist(rows, schema=CHAIN_SCHEMA)

    ids = ray.data.range(num_units, override_num_blocks=num_units)
    return ids.map_batches(make, batch_size=None, num_cpus=STAGE_CPUS, concurrency=1)


class Same:
    """The stage that everybody has to pay for."""

    async def __call__(self, block: pa.Table) -> pa.Table:
        return block


def plain(units: Any) -> None:
    from ray.data import ActorPoolStrategy

    for _ in range(3 * NUM_ROUNDS):
        units = units.map_batches(
            Same,
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(
                size=1,
                max_concurrent_calls_per_actor=IN_FLIGHT,
                max_tasks_in_flight_per_actor=IN_FLIGHT,
            ),
            num_cpus=STAGE_CPUS,
        )
    _consume(units)


async def _same(rows: list[Row]) -> list[Row]:
    await asyncio.sleep(0)
    return rows


def staged(kind: Any) -> Callable[[Any], None]:
    def run(units: Any) -> None:
        with closing(start_board()) as board:
            stages = [
                Stage(verb=verb, round_index=r, work=_same, is_by_row=verb != "record", board=board)
                for r in range(NUM_ROUNDS)
                for verb in ("draw", "describe", "record")
            ]
            config = StagesConfig(kind=kind, num_units_in_flight=IN_FLIGHT)
            _consume(lay_out(units, stages, _same, config, 8))

    return run


def _consume(dataset: Any) -> None:
    for _ in dataset.iter_internal_ref_bundles():
        pass


SIDES: dict[str, Callable[[Any], None]] = {
    "plain": plain,
    "actor": staged("actor"),
    "walker": staged("walker"),
}


def time_side(side: Callable[[Any], None], num_units: int) -> float:
    began = time.perf_counter()
    side(make_units(num_units))
    return time.perf_counter() - began


def main() -> None:
    num_units = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    took: dict[str, list[float]] = {name: [] for name in SIDES}
    names = list(SIDES)
    with session(SessionConfig(num_cpus=4, has_dashboard=False)):
        for repeat in range(repeats):
            turn = repeat % len(names)
            for name in names[turn:] + names[:turn]:
                start_s = time_side(SIDES[name], 1)
                took[name].append(time_side(SIDES[name], num_units) - start_s)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {num_units} units")
    for name, seconds in took.items():
        each = [1000 * s / num_units / 3 / NUM_ROUNDS for s in seconds]
        ratios = [ours / theirs for ours, theirs in zip(seconds, took["plain"], strict=True)]
        verdict = "met" if statistics.median(ratios) <= GOAL else "MISSED"
        print(
            f"{name:8s} {statistics.median(each):6.1f} ms a block and stage "
            f"({min(each):.1f}-{max(each):.1f}), {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}-{max(ratios):.2f}) of plain; goal {GOAL}: {verdict}"
        )


if __name__ == "__main__":
    main()
