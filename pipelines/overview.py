"""What a person reads before a run: the plan of a config, and what became of its seeds.

Limits: looks at this machine only; GPUs of a cluster that it has not joined are not counted.
"""

import dataclasses
import importlib.util
from typing import Any

import pyarrow as pa

from actors.images import estimate_image_bytes
from cluster.plan import Plan, PoolPlan, count_calls
from cluster.pool import PoolConfig
from cluster.session import plan_session
from pipelines import seeds as seed_tables
from pipelines.sources import count_problems
from pipelines.synergy import SynergyConfig, stages_of_round


def make_plan(config: SynergyConfig) -> Plan:
    """The numbers of a run; reads the seed file to count it."""
    if config.seeds.path is not None:
        num_chains = seed_tables.read_table(config.seeds, config.run_seed).num_rows
    else:
        num_chains = config.seeds.author.num_batches * config.seeds.author.batch_size
    pools = tuple(
        _plan_pool(name, pool, num_chains, config)
        for name, pool in (
            ("generator", config.pools.generator),
            ("captioner", config.pools.captioner),
        )
    )
    image = config.generator
    return Plan(
        num_chains=num_chains,
        num_rounds=config.num_rounds,
        unit_size=config.unit_size,
        pools=pools,
        num_stages=config.num_rounds * len(stages_of_round(0)),
        row_bytes=estimate_image_bytes(image.width_px, image.height_px, image.image_format),
    )


def describe_plan(plan: Plan, config: SynergyConfig) -> str:
    """The plan as a page of text."""
    present = plan_session(config.cluster).num_gpus
    lines = [
        f"output     {config.output}",
        f"chains     {plan.num_chains}, {plan.num_rounds} rounds, mode {config.mode}: "
        f"up to {plan.num_pairs} pairs",
        f"units      {plan.num_units} of up to {plan.unit_size} chains: "
        f"{plan.num_units * plan.num_rounds} commits",
        f"stages     {plan.num_stages}: {', '.join(stages_of_round(0))} and so on, "
        f"as {config.stages.kind}s",
        _describe_pool(plan.pools[0], config.generator.backend, config.generator.model),
        _describe_pool(plan.pools[1], config.captioner.backend, config.captioner.model),
        *_describe_author(config),
        f"GPUs       {plan.gpus:g} asked, {present:g} on this machine",
        f"bytes      about {_bytes(plan.total_bytes)} in all, {_bytes(plan.row_bytes)} an image, "
        f"up to {_bytes(plan.bytes_in_flight)} in flight",
    ]
    return "\n".join(lines)


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """The plan as JSON-able values, the derived numbers included."""
    derived = ("num_units", "num_pairs", "gpus", "total_bytes", "bytes_in_flight")
    return dataclasses.asdict(plan) | {name: getattr(plan, name) for name in derived}


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


def _describe_author(config: SynergyConfig) -> list[str]:
    author = config.seeds.author
    if config.seeds.path is not None:
        return []
    return [
        f"author     {author.model.backend} {author.model.model}: {author.num_batches} batches of "
        f"{author.batch_size} seeds, {author.pool.num_replicas * author.pool.num_gpus:g} GPUs, "
        "gone before the loop starts"
    ]


def _plan_pool(name: str, pool: PoolConfig, num_chains: int, config: SynergyConfig) -> PoolPlan:
    return PoolPlan(
        name=name,
        num_replicas=pool.num_replicas,
        gpus_per_replica=pool.num_gpus,
        batch_size=pool.batch_size,
        num_calls=count_calls(num_chains, config.num_rounds, config.unit_size, pool.batch_size),
    )


def _describe_pool(pool: PoolPlan, backend: str, model: str) -> str:
    gpus = f"{pool.gpus_per_replica:g} GPU each" if pool.gpus_per_replica else "on CPU"
    return (
        f"{pool.name}  {backend} {model}: {pool.num_replicas} replica"
        f"{'s' if pool.num_replicas > 1 else ''}, {gpus}, "
        f"{pool.num_calls} calls of up to {pool.batch_size}"
    )


def _bytes(number: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
