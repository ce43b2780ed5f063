"""Runs a synergy config from its seeds to the last receipt, or from wherever an attempt before it
got to.

The input is checked first (`attempt.py`); then pools and loop run (`execute`); then the ledger is
counted (`run_totals.py`), because what the ledger says is what the user has.

Limits: the driver only watches. If it dies, running units are lost up to their last commit, and
the same command goes on from there.
"""

import logging
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from actors.image_to_text import build_image_to_text
from actors.records import Row
from actors.scoring import build_scoring
from actors.text_to_image import build_text_to_image
from actors.text_to_text import build_text_to_text
from cluster.packing import Demand, check_fits
from cluster.pool import Poison, Pool, PoolConfig, start_pool
from cluster.run_record import RUN_KEY
from cluster.session import SessionInfo, nodes_at_hand, session
from cluster.sharing import shared_places
from cluster.telemetry import Board, Progress, start_board
from cluster.visible import check_visible_everywhere
from pipelines import seeds as seed_tables
from pipelines.attempt import Attempt, fresh_of, prepare
from pipelines.balance import Balancer
from pipelines.budget import Meter, charged
from pipelines.leaving import Stop, stop_on_signals
from pipelines.overview import log_plan
from pipelines.pull import pull, stats_of
from pipelines.replay import claim_replays
from pipelines.run_totals import Spent, Totals, reconcile
from pipelines.stages import STAGE_CPUS, least_processes
from pipelines.synergy import (
    Pools,
    SynergyConfig,
    build,
    constant_columns,
    stages_of_round,
    units_in_flight,
)
from pipelines.traces import traced
from pipelines.units import UnitSource
from pipelines.watch import EXPORT_INTERVAL_S, Watcher
from pipelines.work import Work, plan_work

logger = logging.getLogger(__name__)

# Where there are more replicas than cores, the stages get so long to start before all but the first
# replica of each pool do. A cluster of GPU nodes has more cores: there nothing waits.
REST_AFTER_S = 5.0

Factory = Callable[[], Callable[[list[Row]], list[Row]]]


def run(config: SynergyConfig) -> Totals:
    """Does what is left to do of `config`.

    Raises:
        ValueError: something in the config, the seeds or the environment is wrong.
        PairloomError: the run cannot go on; what is committed stays, and the same call resumes.
    """
    with stop_on_signals() as stop, ExitStack() as ray_session:
        attempt = prepare(config)
        seeds = attempt.seeds
        if seeds is None:
            info = ray_session.enter_context(_session(config, *loop_demands(config)))
            author = _demand("author", config.seeds.author.pool)
            check_fits([author], info.nodes, can_autoscale=config.cluster.can_autoscale)
            seeds = _author(attempt)
        work = _work(attempt, seeds)
        if attempt.seeds is not None and work.units:
            ray_session.enter_context(_session(config, *loop_demands(config)))
        spent = execute(attempt, work, stop) if work.units else {}
        ray_session.close()
        return _finish(attempt, work, spent)


def replay(config: SynergyConfig, reasons: Collection[str] = ()) -> Totals:
    """Runs rows that failed again: those with one of the `reasons`, or all but bad seeds.

    Raises:
        ValueError: the run is not finished, or has no such row.
        PairloomError: as for `run`.
    """
    with stop_on_signals() as stop:
        attempt = prepare(config)
        work = None if attempt.seeds is None else _work(attempt, attempt.seeds)
        if work is None or work.units:
            raise ValueError(f"{config.output} is not finished: `pairloom run` its config first")
        replays = claim_replays(
            attempt.ledger, reasons, config.num_rounds, offset=work.starts.num_rows
        )
        if not replays.units:
            kinds = (
                f" for {', '.join(sorted(reasons))}" if reasons else " other than for a bad seed"
            )
            raise ValueError(f"{config.output} has no row that failed{kinds}: nothing to replay")
        starts = pa.concat_tables([work.starts, replays.starts])
        work = replace(work, units=replays.units, starts=starts)
        with _session(config, *loop_demands(config)):
            spent = execute(attempt, work, stop)
        return _finish(attempt, work, spent)


def write_seeds(config: SynergyConfig) -> pa.Table:
    """Only the seed table: reads or writes it, commits it, and returns it."""
    with stop_on_signals():
        attempt = prepare(config)
        if attempt.seeds is not None:
            return attempt.seeds
        with _session(config, _demand("author", config.seeds.author.pool)):
            return _author(attempt)


def execute(attempt: Attempt, work: Work, stop: Stop) -> dict[str, Spent]:
    """Runs the loop over the units; returns what each pool did."""
    import ray

    config = attempt.config
    log_plan(config, work)
    meter = _meter(attempt)
    num_gpus = sum(one.num_replicas * one.num_gpus for one in loop_demands(config))
    meter.check(EXPORT_INTERVAL_S, num_gpus)
    with (
        stop.watched(),
        traced(attempt, _factories(attempt)) as factories,
        _show(config, work) as board,
        _pools(config, factories) as pools,
        Watcher(attempt, tuple(pools.values()), work.committed, stop, meter),
        _balance(config, work, (pools["generator"], pools["captioner"]), board),
    ):
        draws, describes = pools["generator"], pools["captioner"]
        # The starts begin with the seeds.
        fresh = fresh_of(attempt, work.starts.slice(0, work.num_chains))
        starts = ray.put((work.starts, fresh))
        source = UnitSource(work.units, starts, config.is_loop, attempt.ledger, config.has_memory)
        # With the default of a whole CPU a read, replicas that filled a small machine starved the
        # reads: one unit got through and the run stood still.
        chains = ray.data.read_datasource(
            source, override_num_blocks=len(work.units), num_cpus=STAGE_CPUS, concurrency=1
        )
        done = build(
            chains,
            Pools(generator=draws, captioner=describes, scorer=pools.get("scorer")),
            _fit_stages(config, len(work.units)),
            attempt.ledger,
            constant_columns(config, attempt.models),
            board,
        )
        pull(
            done,
            pools=[draws, *(pool for pool in pools.values() if pool is not draws)],
            board=board,
            stop=stop,
            grace_s=config.limits.grace_s,
        )
        return {pool.name: _spent(pool) for pool in pools.values()}


def _meter(attempt: Attempt) -> Meter:
    limits, price = attempt.config.limits, attempt.config.plan.gpu_hour_price
    return Meter(attempt.store, limits.budget.gpu_s(price), limits.grace_s)


def _spent(pool: Pool) -> Spent:
    stats = stats_of(pool)
    if stats is None:  # all is committed: what it took is not worth failing for
        logger.warning("pool %s is gone: what it did is not counted", pool.name)
        return Spent(num_loads=0, num_rows=0, busy_s=0.0, num_gpus=pool.config.num_gpus)
    return Spent(
        num_loads=stats.num_loads,
        num_rows=stats.num_rows,
        busy_s=stats.busy_s,
        num_gpus=pool.config.num_gpus,
    )


def _balance(
    config: SynergyConfig, work: Work, pools: tuple[Pool, Pool], board: Board
) -> AbstractContextManager[Any]:
    if not config.plan.can_move:
        return nullcontext()
    # As the board counts: what was drawn before this attempt is on it.
    return Balancer(pools, board, work.num_chains * config.num_rounds)


def _factories(attempt: Attempt) -> dict[str, Factory]:
    """What loads each model in a replica: the very one that the records name, because a branch of
    the hub may have moved since."""
    config, models = attempt.config, attempt.models
    generator = config.generator.pinned(models.generator)
    captioner = config.captioner.pinned(models.captioner)
    factories: dict[str, Factory] = {
        "generator": partial(build_text_to_image, generator, models.generator.digest),
        "captioner": partial(build_image_to_text, captioner, models.captioner.digest),
    }
    if models.scorer is not None:
        scorer = config.scorer.pinned(models.scorer)
        asked = config.captioner.instruction_used().text
        factories["scorer"] = partial(build_scoring, scorer, models.scorer.digest, asked)
    return factories


def _finish(attempt: Attempt, work: Work, spent: dict[str, Spent]) -> Totals:
    """Proves from the ledger that all is done, and tidies up."""
    receipts = attempt.ledger.receipts()
    totals = reconcile(
        receipts,
        work.committed,
        output=attempt.config.output,
        num_chains=work.num_chains,
        num_rounds=attempt.config.num_rounds,
        spent=spent,
        started_at=attempt.started_at,
        ended_at=time.time(),
    )
    attempt.snapshot.fold(receipts)
    # Left by a kill between the two writes of a commit. Readers that glob data/ would count their
    # rows twice.
    removed = attempt.ledger.remove_orphans(receipts)
    if removed:
        logger.info("%d files of killed attempts, never committed, were removed", len(removed))
    # Of a receipt that was taken back the file had been folded: readers would look for it for ever.
    # Not only after a removal: a repair that was killed may have done that much.
    if attempt.snapshot.names_more_than(receipts):
        attempt.snapshot.remove_missing()
    return totals


def _work(attempt: Attempt, seeds: pa.Table) -> Work:
    config = attempt.config
    work = plan_work(attempt.ledger, seeds, config.unit_size, config.num_rounds)
    if work.committed:
        logger.info("%d commits (unit, round) are there already", len(work.committed))
    return work


def _author(attempt: Attempt) -> pa.Table:
    seeds = attempt.config.seeds
    author = seeds.author
    model = author.model.identity()
    factory = partial(build_text_to_text, author.model.pinned(model), model.digest)
    limits, price = attempt.config.limits, attempt.config.plan.gpu_hour_price
    held = author.pool.num_replicas * author.pool.num_gpus
    with (
        charged(attempt.store, "author", held, limits.budget.gpu_s(price)) as check,
        _pool("author", factory, author.pool) as pool,
    ):

        def answer(rows: list[Row]) -> Sequence[Row | Poison]:
            check()
            return pool.run_blocking(rows)

        ask = seed_tables.ask_with(answer, author.prompt_used().text)
        table = seed_tables.write_table(seeds, attempt.config.run_seed, ask)
    return seed_tables.commit_table(attempt.store, table)


@contextmanager
def _session(config: SynergyConfig, *demands: Demand) -> Generator[SessionInfo]:
    """Ray, with a word to the user before the seconds that it takes and one after."""
    logger.info("output %s; starting or joining Ray", config.output)
    with session(config.cluster, demands=demands) as info:
        logger.info(
            "Ray %s: %g CPUs, %g GPUs%s; models are loading",
            "started here" if info.is_started_here else "joined",
            info.num_cpus,
            info.num_gpus,
            f", dashboard {info.dashboard_url}" if info.dashboard_url else "",
        )
        check_visible_everywhere(config.output, RUN_KEY)
        yield info


def loop_demands(config: SynergyConfig) -> list[Demand]:
    """What the pools and stages of the loop ask for at once; the author is gone before."""
    pools = config.pools
    return [
        _demand("generator", pools.generator),
        _demand("captioner", pools.captioner),
        *([_demand("scorer", pools.scorer)] if config.scorer.is_on else []),
        Demand(
            name="stages",
            num_replicas=least_processes(
                config.stages, config.num_rounds * len(stages_of_round(config, 0))
            ),
            num_cpus=STAGE_CPUS,
            num_gpus=0.0,
        ),
    ]


def _demand(name: str, pool: PoolConfig) -> Demand:
    return Demand(
        name=name,
        num_replicas=pool.least_replicas,
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus,
    )


def _fit_stages(config: SynergyConfig, num_units: int) -> SynergyConfig:
    """Ray Data warns when it may run more tasks than there are units."""
    num_in_flight = min(units_in_flight(config), num_units)
    return replace(config, stages=replace(config.stages, num_units_in_flight=num_in_flight))


def rest_after_s(pools: Sequence[PoolConfig], num_cpus: float, can_autoscale: bool) -> float:
    """How long all but the first replica of each pool let the stages go first.

    Not where nodes come on demand: of replicas that have not been asked for an autoscaler cannot
    know, and a cluster that is to come has no cores yet to compare with.
    """
    is_crowded = sum(one.least_replicas for one in pools) > num_cpus
    return REST_AFTER_S if is_crowded and not can_autoscale else 0.0


@contextmanager
def _pools(config: SynergyConfig, factories: dict[str, Factory]) -> Generator[dict[str, Pool]]:
    """A pool for each model, that with the fewest replicas first.

    Processes start one after the other, 1 s of a core each. The one captioner behind eight
    generators was the last to be there, and the run waited for it to its end; the walker behind
    ten replicas on 2 cores was there 5 s after the first of them, and nothing was drawn before.
    """
    import ray

    configs: dict[str, PoolConfig] = {name: getattr(config.pools, name) for name in factories}
    num_cpus = ray.cluster_resources().get("CPU", 0)
    wait_s = rest_after_s(list(configs.values()), num_cpus, config.cluster.can_autoscale)
    bound = [_demand(name, one) for name, one in configs.items() if not one.is_elastic]
    pools: dict[str, Pool] = {}
    with ExitStack() as stack:
        places = stack.enter_context(shared_places(bound, nodes_at_hand()))
        for name in sorted(factories, key=lambda name: configs[name].least_replicas):
            pool = _pool(name, factories[name], configs[name], wait_s, places.get(name, ()))
            pools[name] = stack.enter_context(pool)
        for pool in pools.values():
            # It has asked for its replicas then: they come before Ray Data's own actors. Not asked
            # without a bound: a signal does nothing while a dispatcher does not answer.
            stats_of(pool)
        yield pools


@contextmanager
def _pool(
    name: str,
    factory: Any,
    config: PoolConfig,
    wait_s: float = 0.0,
    places: Sequence[Mapping[str, Any]] = (),
) -> Generator[Pool]:
    pool = start_pool(name, factory, config, rest_after_s=wait_s, places=places)
    try:
        yield pool
    finally:
        pool.close()


@contextmanager
def _show(config: SynergyConfig, work: Work) -> Generator[Board]:
    """A board for the stages, shown while the body runs; what was committed before is on it."""
    board = start_board()
    totals: dict[str, int] = {}
    for r in range(config.num_rounds):
        left = sum(unit.num_chains for unit in work.units if unit.next_round <= r)
        total = max(work.num_chains, left)
        for name in stages_of_round(config, r):
            totals[name] = total
            if total > left:
                board.add(name, total - left)
    pair_stages = [stages_of_round(config, r)[-1] for r in range(config.num_rounds)]
    try:
        with Progress(board.snapshot, totals, pair_stages):
            yield board
    finally:
        board.close()
