"""Runs a synergy config from its seeds to the last receipt, or from wherever an attempt before it
got to.

Everything that can be wrong with the input is found before Ray starts (`prepare`); then pools and
loop run (`execute`); then the ledger is counted (`reconcile`), because what the ledger says is
what the user has.

Limits: the driver only watches. If it dies, running units are lost up to their last commit, and
the same command goes on from there.
"""

import logging
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa

from actors.image_to_text import build_image_to_text
from actors.text_to_image import build_text_to_image
from actors.text_to_text import build_text_to_text
from cluster.ledger import Ledger
from cluster.pool import Pool, PoolConfig, start_pool
from cluster.receipts import Receipt
from cluster.run_record import open_run
from cluster.session import session, unwrapped
from cluster.storage import Store, open_store
from cluster.telemetry import Board, Progress, start_board
from pipelines import seeds as seed_tables
from pipelines.run_totals import Totals, reconcile
from pipelines.stages import STAGE_CPUS
from pipelines.synergy import (
    Models,
    Pools,
    SynergyConfig,
    build,
    constant_columns,
    fingerprint_fields,
    resolved,
    stages_of_round,
)
from pipelines.units import Unit, UnitSource, plan_remaining, slice_units

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A config whose input has been checked, with its place in the ledger."""

    config: SynergyConfig
    models: Models
    store: Store
    ledger: Ledger
    seeds: pa.Table | None  # None: the author has yet to write them
    started_at: float


def run(config: SynergyConfig) -> Totals:
    """Does what is left to do of `config`.

    Raises:
        ValueError: something in the config, the seeds or the environment is wrong.
        PairloomError: the run cannot go on; what is committed stays, and the same call resumes.
    """
    job = prepare(config)
    if job.seeds is not None:
        units, before = _remaining(job, job.seeds)
        if not units:
            return _count(job, job.seeds.num_rows, before, {})
    with session(config.cluster, num_gpus_needed=gpus_needed(config, job.seeds is None)):
        seeds = job.seeds if job.seeds is not None else _author(job)
        units, before = _remaining(job, seeds)
        loads = execute(job, units, seeds.num_rows, before) if units else {}
    return _count(job, seeds.num_rows, before, loads)


def prepare(config: SynergyConfig) -> Job:
    """Checks models, storage and seeds, and claims the output prefix; touches no GPU."""
    started_at = time.time()
    store = open_store(config.output)
    with ThreadPoolExecutor() as threads:
        probe = threads.submit(store.check_writable)
        generator = threads.submit(config.generator.identity)
        models = Models(generator=generator.result(), captioner=config.captioner.identity())
        probe.result()
    if config.seeds.path is not None:
        table = seed_tables.read_table(config.seeds, config.run_seed)
        identity = seed_tables.table_identity(table)
    else:
        table = None
        identity = seed_tables.author_identity(config.seeds, config.seeds.author.model.identity())
    fields = fingerprint_fields(config, models, identity)
    ledger = Ledger(store, open_run(store, resolved(config), fields))
    if table is not None:
        table = seed_tables.commit_table(store, table)
    else:
        table = seed_tables.find_table(store)
    return Job(
        config=config,
        models=models,
        store=store,
        ledger=ledger,
        seeds=table,
        started_at=started_at,
    )


def write_seeds(config: SynergyConfig) -> pa.Table:
    """Only the seed table: reads or writes it, commits it, and returns it."""
    job = prepare(config)
    if job.seeds is not None:
        return job.seeds
    with session(config.cluster, num_gpus_needed=_gpus(config.seeds.author.pool)):
        return _author(job)


def execute(job: Job, units: list[Unit], num_chains: int, before: list[Receipt]) -> dict[str, int]:
    """Runs the loop over `units`; returns how often each model was loaded."""
    import ray

    config = job.config
    generator = partial(build_text_to_image, config.generator)
    captioner = partial(build_image_to_text, config.captioner)
    with (
        _pool("generator", generator, config.pools.generator) as draws,
        _pool("captioner", captioner, config.pools.captioner) as describes,
        _watch(job, num_chains, before) as board,
    ):
        source = UnitSource(units, config.is_loop, job.ledger)
        # With the default of a whole CPU a read, replicas that filled a small machine starved the
        # reads: one unit got through and the run stood still.
        chains = ray.data.read_datasource(
            source, override_num_blocks=len(units), num_cpus=STAGE_CPUS
        )
        done = build(
            chains,
            Pools(generator=draws, captioner=describes),
            _fit_stages(config, len(units)),
            job.ledger,
            constant_columns(config, job.models),
            board,
        )
        _consume(done)
        return {pool.name: pool.stats().num_loads for pool in (draws, describes)}


def _count(job: Job, num_chains: int, before: list[Receipt], loads: dict[str, int]) -> Totals:
    return reconcile(
        job.ledger.receipts(),
        before,
        output=job.config.output,
        num_chains=num_chains,
        num_rounds=job.config.num_rounds,
        model_loads=loads,
        started_at=job.started_at,
        ended_at=time.time(),
    )


def _remaining(job: Job, seeds: pa.Table) -> tuple[list[Unit], list[Receipt]]:
    units = slice_units(seeds, job.config.unit_size)
    next_rounds = job.ledger.next_rounds(unit.unit_id for unit in units)
    before = job.ledger.receipts() if any(next_rounds.values()) else []
    if before:
        logger.info(
            "%d of %d units x rounds were committed before",
            len(before),
            len(units) * job.config.num_rounds,
        )
    return plan_remaining(units, next_rounds, job.config.num_rounds), before


def _author(job: Job) -> pa.Table:
    seeds = job.config.seeds
    author = seeds.author
    with _pool("author", partial(build_text_to_text, author.model), author.pool) as pool:
        ask = seed_tables.ask_with(pool.run_blocking, author.prompt_used().text)
        table = seed_tables.write_table(seeds, job.config.run_seed, ask)
    return seed_tables.commit_table(job.store, table)


def gpus_needed(config: SynergyConfig, has_author: bool) -> float:
    """The author's pool is gone before the loop's pools start, so the larger of the two counts."""
    loop = _gpus(config.pools.generator, config.pools.captioner)
    return max(loop, _gpus(config.seeds.author.pool) if has_author else 0.0)


def _gpus(*pools: PoolConfig) -> float:
    return sum(pool.num_replicas * pool.num_gpus for pool in pools)


def _fit_stages(config: SynergyConfig, num_units: int) -> SynergyConfig:
    """Ray Data warns when it may run more tasks than there are units."""
    num_in_flight = min(config.stages.num_units_in_flight, num_units)
    return replace(config, stages=replace(config.stages, num_units_in_flight=num_in_flight))


@contextmanager
def _pool(name: str, factory: Any, config: PoolConfig) -> Generator[Pool]:
    pool = start_pool(name, factory, config)
    try:
        yield pool
    finally:
        pool.close()


@contextmanager
def _watch(job: Job, num_chains: int, before: list[Receipt]) -> Generator[Board]:
    """A board for the stages, shown while the body runs; what was committed before is on it."""
    num_rounds = job.config.num_rounds
    board = start_board()
    for receipt in before:
        rows = receipt.num_pairs + receipt.num_error_rows + receipt.num_stopped
        for name in stages_of_round(receipt.round_index):
            board.add(name, rows)
    totals = {name: num_chains for r in range(num_rounds) for name in stages_of_round(r)}
    pair_stages = [stages_of_round(r)[-1] for r in range(num_rounds)]
    try:
        with Progress(board.snapshot, totals, pair_stages):
            yield board
    finally:
        board.close()


def _consume(chains: Any) -> None:
    """Pulls the dataset to its end without fetching a row into the driver."""
    try:
        for _ in chains.iter_internal_ref_bundles():
            pass
    except Exception as error:
        raise unwrapped(error) from error
