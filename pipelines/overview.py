"""What a person reads before a run: the plan of a config, and what became of its seeds.

Limits: looks at this machine only, unless it is given the nodes of a cluster that was joined.
"""

import dataclasses
import importlib.util
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from actors.images import estimate_image_bytes
from cluster.packing import Node
from cluster.plan import Plan, PoolPlan, count_calls
from cluster.pool import PoolConfig
from cluster.session import plan_session
from pipelines import seeds as seed_tables
from pipelines.inject import read_fresh, usable_texts
from pipelines.outlook import (
    Outlook,
    describe_best,
    describe_cost,
    describe_expected,
    describe_time,
    look_ahead,
)
from pipelines.sources import count_problems
from pipelines.synergy import SynergyConfig, stages_of_round, units_in_flight

if TYPE_CHECKING:  # units need ray.data, which `pairloom plan` does not have the time for
    from pipelines.work import Work


logger = logging.getLogger(__name__)

NO_RATES = (
    "pairs/s, bottleneck, time, cost: no rates are known; `pairloom plan --measure CONFIG` "
    "measures them, or set plan.rates.generator.call_s and plan.rates.captioner.call_s"
)


def make_plan(config: SynergyConfig, num_chains: int | None = None) -> Plan:
    """The numbers of a run; reads the seed file to count it, unless the count is given."""
    if num_chains is None:
        num_chains = _count_chains(config)
    pools = tuple(
        _plan_pool(name, pool, num_chains, config)
        for name, pool in (
            ("generator", config.pools.generator),
            ("captioner", config.pools.captioner),
        )
    )
    scorer = [("scorer", config.pools.scorer)] if config.scorer.is_on else []
    image, num_stages = config.generator, config.num_rounds * len(stages_of_round(config, 0))
    num_in_flight = units_in_flight(config)
    if config.stages.kind == "actor":  # two wait or run at each stage when the pools keep up
        num_in_flight = num_stages * min(2, num_in_flight)
    return Plan(
        num_chains=num_chains,
        num_rounds=config.num_rounds,
        unit_size=config.unit_size,
        pools=pools,
        num_stages=num_stages,
        num_units_in_flight=num_in_flight,
        row_bytes=estimate_image_bytes(image.width_px, image.height_px, image.image_format),
        others=tuple(_plan_pool(name, pool, num_chains, config) for name, pool in scorer),
    )


def make_outlook(
    plan: Plan,
    config: SynergyConfig,
    nodes: Sequence[Node] | None = None,
    num_pairs_left: int | None = None,
) -> Outlook | None:
    """What the plan comes to, where rates are known; `nodes` are this machine unless given."""
    pools, rates = config.pools, config.plan.rates
    return look_ahead(
        plan,
        (pools.generator, pools.captioner),
        (rates.generator, rates.captioner),
        config.plan,
        plan_session(config.cluster).nodes if nodes is None else nodes,
        plan.num_pairs if num_pairs_left is None else num_pairs_left,
    )


def describe_plan(
    plan: Plan, config: SynergyConfig, outlook: Outlook | None, nodes: Sequence[Node] | None = None
) -> str:
    """The plan as a page of text."""
    if nodes is None:
        there = f"{plan_session(config.cluster).num_gpus:g} on this machine"
    else:
        there = f"{sum(node.num_gpus for node in nodes):g} in the cluster"
    lines = [
        f"output     {config.output}",
        f"chains     {plan.num_chains}, {plan.num_rounds} rounds, mode {config.mode}: "
        f"up to {plan.num_pairs} pairs",
        f"units      {plan.num_units} of up to {plan.unit_size} chains: "
        f"{plan.num_units * plan.num_rounds} commits",
        f"stages     {plan.num_stages}: {', '.join(stages_of_round(config, 0))} and so on, "
        f"as {config.stages.kind}s",
        _describe_pool(plan.pools[0], config.generator.backend, config.generator.model),
        _describe_pool(plan.pools[1], config.captioner.backend, config.captioner.model),
        *(_describe_pool(pool, config.scorer.backend, config.scorer.model) for pool in plan.others),
        *_describe_author(config),
        *_describe_inject(config),
        f"GPUs       {plan.gpus:g} asked{_describe_parts(plan)}, {there}",
        f"bytes      about {_bytes(plan.total_bytes)} in all, {_bytes(plan.row_bytes)} an image, "
        f"up to {_bytes(plan.bytes_in_flight)} in flight",
        *_describe_outlook(outlook),
    ]
    return "\n".join(lines)


def log_plan(config: SynergyConfig, work: "Work") -> None:
    """Says at the start of a run what it will come to, in two or three lines."""
    left = sum(unit.num_chains * (config.num_rounds - unit.next_round) for unit in work.units)
    for line in first_lines(config, work.num_chains, left):
        logger.info("plan: %s", line)


def first_lines(config: SynergyConfig, num_chains: int, num_pairs_left: int) -> list[str]:
    """The plan in two or three lines; the best split is that of the GPUs which are asked for."""
    plan = make_plan(config, num_chains)
    outlook = make_outlook(plan, config, (), num_pairs_left)
    pools = ", ".join(
        f"{pool.name} {pool.num_replicas} x {_each(pool.gpus_per_replica)}"
        for pool in (*plan.pools, *plan.others)
    )
    lines = [
        f"{pools}; {num_pairs_left} of up to {plan.num_pairs} pairs left, "
        f"up to {_bytes(plan.bytes_in_flight)} in flight"
    ]
    if outlook is None:
        return [*lines, f"unknown {NO_RATES}"]
    parts = [describe_expected(outlook), describe_time(outlook), describe_cost(outlook)]
    lines.append("; ".join(parts))
    return lines if outlook.is_best else [*lines, describe_best(outlook)]


def plan_to_dict(plan: Plan, outlook: Outlook | None) -> dict[str, Any]:
    """The plan as JSON-able values, derived numbers included; no rates: `outlook` is null."""
    derived = ("num_units", "num_pairs", "gpus", "num_gpus", "total_bytes", "bytes_in_flight")
    values = dataclasses.asdict(plan) | {name: getattr(plan, name) for name in derived}
    if outlook is None:
        return values | {"outlook": None}
    more = {name: getattr(outlook, name) for name in ("eta_s", "gpu_hours", "cost", "is_best")}
    return values | {"outlook": dataclasses.asdict(outlook) | more}


def count_seeds(table: pa.Table) -> dict[str, Any]:
    """How many seeds there are, and how many cannot be used, by reason."""
    problems = count_problems(table)
    return {
        "num_seeds": table.num_rows,
        "num_usable": table.num_rows - problems.total(),
        "num_unusable": dict(problems),
    }


def describe_seeds(table: pa.Table, output: str) -> str:
    """What became of the seeds, with a few of them."""
    counts = count_seeds(table)
    shown = [f"  {text}" for text in table.column("seed").slice(0, 5).to_pylist()]
    unusable = [f"  {number} {reason}" for reason, number in counts["num_unusable"].items()]
    return "\n".join(
        [
            f"{counts['num_usable']} usable seeds of {counts['num_seeds']} in "
            f"{output.rstrip('/')}/{seed_tables.SEEDS_KEY}",
            *unusable,
            *shown,
        ]
    )


def can_show_datasets() -> bool:
    """Whether the optional `datasets` package is there."""
    return importlib.util.find_spec("datasets") is not None


def _count_chains(config: SynergyConfig) -> int:
    if config.seeds.path is not None:
        return seed_tables.read_table(config.seeds, config.run_seed).num_rows
    return config.seeds.author.num_batches * config.seeds.author.batch_size


def _describe_outlook(outlook: Outlook | None) -> list[str]:
    if outlook is None:
        return [f"unknown    {NO_RATES}"]
    lines = [
        f"expected   {describe_expected(outlook)}",
        f"time       {describe_time(outlook)}",
        f"cost       {describe_cost(outlook)}",
    ]
    best = describe_best(outlook)
    return [*lines, f"split      {best}"] if best else lines


def _describe_parts(plan: Plan) -> str:
    return f" in parts of {plan.num_gpus}" if plan.num_gpus - plan.gpus > 1e-6 else ""


def _describe_author(config: SynergyConfig) -> list[str]:
    author = config.seeds.author
    if config.seeds.path is not None:
        return []
    return [
        f"author     {author.model.backend} {author.model.model}: {author.num_batches} batches of "
        f"{author.batch_size} seeds, {author.pool.num_replicas * author.pool.num_gpus:g} GPUs, "
        "gone before the loop starts"
    ]


def _describe_inject(config: SynergyConfig) -> list[str]:
    inject, texts = config.inject, "the seeds"
    if not inject.is_on:
        return []
    if inject.has_file:
        table = read_fresh(inject, config.seeds, config.run_seed)
        texts = f"{len(usable_texts(table))} fresh descriptions"
    return [
        f"inject     {inject.share:.0%} of the rounds from {inject.from_round} on begin anew with "
        f"one of {texts}"
    ]


def _plan_pool(name: str, pool: PoolConfig, num_chains: int, config: SynergyConfig) -> PoolPlan:
    return PoolPlan(
        name=name,
        num_replicas=pool.num_replicas,
        gpus_per_replica=pool.num_gpus,
        batch_size=pool.batch_size,
        num_calls=count_calls(num_chains, config.num_rounds, config.unit_size, pool.batch_size),
        min_replicas=pool.min_replicas,
    )


def _describe_pool(pool: PoolPlan, backend: str, model: str) -> str:
    gpus = f"{_each(pool.gpus_per_replica)} each" if pool.gpus_per_replica else "on CPU"
    least = "" if pool.min_replicas is None else f"{pool.min_replicas} to "
    return (
        f"{pool.name:<10} {backend} {model}: {least}{pool.num_replicas} replica"
        f"{'s' if pool.num_replicas > 1 else ''}, {gpus}, "
        f"{pool.num_calls} calls of up to {pool.batch_size}"
    )


def _each(gpus_per_replica: float) -> str:
    return f"{gpus_per_replica:g} GPU" if gpus_per_replica else "CPU"


def _bytes(number: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
