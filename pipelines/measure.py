"""Measures what one replica of each model does, on a few real batches of the run's own first seeds.

Ray is started, or the cluster joined, as the run will do it; one replica of each pool is loaded.
Batches take turns, so that each model has the machine to itself: draw, then describe what was
drawn. The first batch of each is not counted: it compiles and warms up. Nothing is written.

Limits: a captioner that takes more pictures at a time than a generator draws gets some of them
several times, which an engine that remembers pictures (vLLM's prefix cache) is quicker with. Rounds
after the first have longer prompts than the seeds may be. On a machine where a run has several
replicas share the CPUs each of them is slower than the one measured here.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

from actors.image_to_text import build_image_to_text
from actors.records import CHAIN_SCHEMA, Row
from actors.text_to_image import build_text_to_image
from cluster.errors import PairloomError
from cluster.packing import Demand, Node, check_fits, find_misfit
from cluster.pool import Pool, PoolConfig, start_pool
from cluster.session import session
from cluster.storage import open_store
from pipelines import seeds as seed_tables
from pipelines.outlook import PlanConfig, RatesConfig
from pipelines.stages import Work, describe_with, draw_with, is_live
from pipelines.synergy import SynergyConfig

logger = logging.getLogger(__name__)

NUM_BATCHES = 5
# Of the seeds that are read to find usable ones: cleaning all of a large file takes half a minute.
SEEDS_READ_FACTOR = 10


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds of the calls of one pool's only replica, the warm-up left out."""

    name: str
    batch_size: int
    calls_s: tuple[float, ...]
    warm_up_s: float
    load_s: float
    num_rows: int
    num_failed: int

    @property
    def call_s(self) -> float:
        """The median: of so few calls one that was disturbed would bend the mean."""
        return median(self.calls_s)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured, and the GPUs and CPUs that are there."""

    pools: tuple[Measured, Measured]  # generator, captioner
    nodes: tuple[Node, ...]


def measure(config: SynergyConfig, num_batches: int = NUM_BATCHES) -> Measurement:
    """Loads both models and times them.

    Raises:
        ValueError: there are no seeds yet, or one replica of each does not fit.
        PairloomError: a model cannot be loaded, or not one row of a batch came out.
    """
    seeds = _first_seeds(config, (1 + num_batches) * config.pools.generator.batch_size)
    logger.info("measuring: starting or joining Ray")
    with session(config.cluster) as info, ThreadPoolExecutor(2) as threads:
        generator, captioner = _one_replica_each(config, info.nodes)
        started_at = time.monotonic()
        pools: list[Pool] = []
        try:
            for name, factory, pool in (
                ("generator", partial(build_text_to_image, config.generator), generator),
                ("captioner", partial(build_image_to_text, config.captioner), captioner),
            ):
                pools.append(start_pool(name, factory, pool))
            loads = list(threads.map(lambda pool: _load(pool, started_at), pools))
            logger.info("measuring: %d batches each, and one to warm up", num_batches)
            found = _time_batches(config, pools, loads, seeds, num_batches)
        finally:
            for pool in pools:
                pool.close()
        return Measurement(pools=found, nodes=info.nodes)


def with_rates(config: SynergyConfig, measurement: Measurement) -> SynergyConfig:
    """The config with what was measured in `plan.rates`."""
    rates = config.plan.rates
    generator, captioner = (
        replace(rate, call_s=one.call_s, load_s=one.load_s)
        for rate, one in zip((rates.generator, rates.captioner), measurement.pools, strict=True)
    )
    plan: PlanConfig = replace(
        config.plan, rates=RatesConfig(generator=generator, captioner=captioner)
    )
    return replace(config, plan=plan)


def describe_measurement(measurement: Measurement) -> str:
    """What was measured, with its spread, and the words that keep it."""
    lines = [_describe(one) for one in measurement.pools]
    words = [
        f"plan.rates.{one.name}.{name}={value:.4g}"
        for one in measurement.pools
        for name, value in (("call_s", one.call_s), ("load_s", one.load_s))
    ]
    return "\n".join([*lines, f"keep it    {' '.join(words)}"])


def _describe(one: Measured) -> str:
    failed = f"; {one.num_failed} of {one.num_rows} rows failed" if one.num_failed else ""
    return (
        f"measured   {one.name}: {one.call_s:.3g} s a call of {one.batch_size} "
        f"({min(one.calls_s):.3g} to {max(one.calls_s):.3g} in {len(one.calls_s)} turns; the first "
        f"took {one.warm_up_s:.3g}), {one.batch_size / one.call_s:.3g} rows/s; ready after "
        f"{one.load_s:.3g} s{failed}"
    )


def _first_seeds(config: SynergyConfig, num_wanted: int) -> list[Row]:
    seeds = config.seeds
    if seeds.path is not None:
        num_read = min(seeds.limit or math.inf, SEEDS_READ_FACTOR * num_wanted)
        table = seed_tables.read_table(replace(seeds, limit=int(num_read)), config.run_seed)
    else:
        table = seed_tables.find_table(open_store(config.output))
        if table is None:
            raise ValueError(
                f"field 'seeds.path' is null and the author has written no seeds to "
                f"{config.output} yet: `pairloom seeds` first, or measure with seeds.path=FILE"
            )
    rows: list[Row] = table.slice(0, SEEDS_READ_FACTOR * num_wanted).to_pylist()
    usable = [row for row in rows if not row["error"]][:num_wanted]
    if not usable:
        raise ValueError("not one of the first seeds can be used: see `pairloom seeds`")
    return usable


def _one_replica_each(
    config: SynergyConfig, nodes: Sequence[Node]
) -> tuple[PoolConfig, PoolConfig]:
    """Each with whole GPUs, or half a one where there is but one: they work in turns."""
    pools = {"generator": config.pools.generator, "captioner": config.pools.captioner}
    whole = {name: math.ceil(pool.num_gpus) for name, pool in pools.items()}
    halves = {name: 0.5 if share == 1 else share for name, share in whole.items()}

    def demands(shares: dict[str, float]) -> list[Demand]:
        return [
            Demand(name=name, num_replicas=1, num_cpus=pools[name].num_cpus, num_gpus=share)
            for name, share in shares.items()
        ]

    shares: dict[str, float] = dict(whole)
    if find_misfit(demands(shares), nodes):
        shares = dict(halves)
    check_fits(demands(shares), nodes, can_autoscale=config.cluster.can_autoscale)
    generator, captioner = (
        replace(pool, num_replicas=1, min_replicas=None, num_gpus=shares[name])
        for name, pool in pools.items()
    )
    return generator, captioner


def _load(pool: Pool, started_at: float) -> float:
    """Seconds until its replica is ready; where it waits for a node, that counts as well."""
    pool.wait_ready(pool.config.load_timeout_s)
    return time.monotonic() - started_at


def _time_batches(
    config: SynergyConfig,
    pools: Sequence[Pool],
    loads: Sequence[float],
    seeds: list[Row],
    num_batches: int,
) -> tuple[Measured, Measured]:
    draws = _Timer(pools[0], lambda r: draw_with(pools[0], r, config.run_seed))
    describes = _Timer(pools[1], lambda r: describe_with(pools[1], r, config.run_seed))
    chains = [_to_chain(row) for row in seeds]
    for index in range(1 + num_batches):
        first = index * pools[0].config.batch_size
        drawn = draws.call(index, chains, first)
        describes.call(index, drawn, 0)
    return draws.measured(loads[0]), describes.measured(loads[1])


class _Timer:
    """Runs batches on one pool and reads from its counts how long the calls took."""

    def __init__(self, pool: Pool, work: Callable[[int], Work]) -> None:
        self._pool = pool
        self._work = work
        self._calls_s: list[float] = []
        self._num_rows = self._num_failed = 0

    def call(self, index: int, rows: list[Row], first: int) -> list[Row]:
        """Full batches, as many as a replica works on at a time, from `first` on and round again;
        the rows that came out well."""
        size = self._pool.config.batch_size * self._pool.config.calls_per_replica
        batch = [dict(rows[(first + i) % len(rows)]) for i in range(size)]
        before = self._pool.stats()
        done: list[Row] = asyncio.run(_await(self._work(index)(batch)))
        after = self._pool.stats()
        good = [row for row in done if is_live(row)]
        self._num_rows += size
        self._num_failed += size - len(good)
        if not good:
            raise PairloomError(
                f"{self._pool.name}: not one of {size} rows came out: {done[0]['error']}"
            )
        # More calls than batches: some rows failed and were tried again.
        num_calls = after.num_calls - before.num_calls
        self._calls_s.append((after.busy_s - before.busy_s) / num_calls)
        return good

    def measured(self, load_s: float) -> Measured:
        return Measured(
            name=self._pool.name,
            batch_size=self._pool.config.batch_size,
            calls_s=tuple(self._calls_s[1:]),
            warm_up_s=self._calls_s[0],
            load_s=load_s,
            num_rows=self._num_rows,
            num_failed=self._num_failed,
        )


async def _await(work: Any) -> list[Row]:
    return await work


def _to_chain(seed: Row) -> Row:
    """A chain before its first round, of no unit that is ever committed."""
    return dict.fromkeys(CHAIN_SCHEMA.names) | {
        "chain_id": seed["chain_id"],
        "seed": seed["seed"],
        "prompt": seed["seed"],
        "unit_index": 0,
        "is_stopped": False,
    }
