"""The stages of a round, and how Ray Data runs them: as an operator each, or as one walker.

A stage is thin: it checks that its block is one whole unit, lets finished rounds and dead chains
pass, and hands the rest to a shared pool or to the ledger. Each carries its round in its name, as
the dashboard and the log show it: `draw[r2]`, `describe[r2]`, `record[r2]`.

Limits: what `record` does is in `record.py`. A walker is one process: its event loop handles every
row of the run.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa

from actors.reasons import Reason, RowError
from actors.records import CHAIN_SCHEMA, Role, Row, derive_rng_seed, derive_unit_id
from cluster.errors import DrainingError, PairloomError
from cluster.pool import Poison
from cluster.telemetry import Board
from pipelines.inject import begin_anew

if TYPE_CHECKING:  # 1.5 s to import, which `pairloom plan` does not have
    from ray.data import Dataset

# A stage needs next to no CPU: it awaits a pool. A whole CPU each would starve the models.
STAGE_CPUS = 0.01
# Times that one unit may be begun at one stage. Ray Data repeats a task whose process died without
# end (its parameter for that goes in Ray 2.64): a unit whose shard is too large for the memory
# would be drawn again and again, at full price.
MAX_TRIES = 10
DEFAULT_UNITS_IN_FLIGHT = 8

# A unit that is due at this round passes all stages: it waits for the next attempt.
PARKED = 2**31 - 1

Work = Callable[[list[Row]], Awaitable[list[Row]]]


class RowPool(Protocol):
    """What a stage asks of a shared pool: the same rows, worked on, in order; see `Pool.run`."""

    async def run(self, rows: list[Row], *, order: int = 0) -> list[Row | Poison]: ...


@dataclass(frozen=True, kw_only=True)
class StagesConfig:
    """How Ray Data runs the stages; the pairs are the same.

    `actor`: each stage is an operator and a process of its own, and the dashboard shows the rows of
    every round apart. `walker`: one operator and one process that walks each unit through all its
    rounds. It starts sooner, because a process costs a second of a core, and a picture is
    described as soon as its batch is drawn (of batches of two sizes: a common multiple of both),
    not when all of its unit is. Where a row fails, other rows share a captioner's batch with those
    after it than with `actor`.
    """

    kind: Literal["walker", "actor"] = "walker"
    # units that a stage (`actor`), or all stages together (`walker`), hold at once; images of no
    # more are in memory. null: 8, or more if every replica is busy to the end only then
    num_units_in_flight: int | None = None

    def __post_init__(self) -> None:
        if self.num_units_in_flight is not None and self.num_units_in_flight < 1:
            raise ValueError(
                f"field 'stages.num_units_in_flight' is {self.num_units_in_flight}: must be >= 1"
            )


def least_processes(config: StagesConfig, num_stages: int) -> int:
    """Without so many at once the stages, and the reads before them, get nothing done."""
    return 1 + (num_stages if config.kind == "actor" else 1)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of one round: what it does to the chains of a unit, and what it is called."""

    verb: str
    round_index: int
    work: Work
    is_by_row: bool = True
    """Whether it takes every row for itself, so that a walker may hand it a unit in parts."""
    board: Board | None = None

    @property
    def name(self) -> str:
        """As on the dashboard."""
        return f"{self.verb}[r{self.round_index}]"

    async def begin(self, unit_id: str) -> None:
        """Counts a try.

        Raises:
            PairloomError: the process at this unit was lost `MAX_TRIES` times.
        """
        if self.board is not None and await self.board.begin(self.name, unit_id) > MAX_TRIES:
            raise PairloomError(
                f"stage {self.name} lost its process {MAX_TRIES} times at unit {unit_id}: look in "
                "the logs for what ends it (a crash, or memory: then lower unit_size); what is "
                "committed stays"
            )

    def leave(self, unit_id: str) -> None:
        """Tells the board that the unit is not under way here any more."""
        if self.board is not None:
            self.board.leave(self.name, unit_id)

    def count(self, before: list[Row], after: list[Row]) -> None:
        """Tells the board what got through."""
        if self.board is not None:
            num_errors = count_new_errors(before, after, self.verb)
            self.board.add(self.name, len(after), num_errors, after[0]["unit_id"])


def lay_out(
    chains: "Dataset",
    stages: Sequence[Stage],
    catch_up: Work,
    config: StagesConfig,
    part_size: int,
) -> "Dataset":
    """Appends the stages to the dataset; a walker hands on `part_size` rows at a time.

    `catch_up` is asked first where each unit is due: Ray Data repeats what a dead process had from
    its beginning, rounds that were committed since included.
    """

    async def begin(rows: list[Row]) -> list[Row]:
        check_whole(rows, "catch up")
        return await catch_up(rows)

    if config.kind == "walker":
        walks = [
            _walk_with(list(group), part_size) for _, group in groupby(stages, _walked_together)
        ]
        return _append(chains, f"{stages[0].name}-{stages[-1].name}", [begin, *walks], config)
    for stage in stages:
        works = [_walk_with([stage])] if stage is not stages[0] else [begin, _walk_with([stage])]
        chains = _append(chains, stage.name, works, config)
    return chains


def _walk_with(stages: list[Stage], part_size: int = 0) -> Work:
    return lambda rows: walk(rows, stages, part_size)


def _walked_together(stage: Stage) -> tuple[int, bool]:
    return stage.round_index, stage.is_by_row


def _append(chains: "Dataset", name: str, works: Sequence[Work], config: StagesConfig) -> "Dataset":
    from ray.data import ActorPoolStrategy

    async def call(_: object, block: pa.Table) -> pa.Table:
        rows = block.to_pylist()
        for work in works:
            rows = await work(rows)
        return pa.Table.from_pylist(rows, schema=CHAIN_SCHEMA)

    # Ray Data names an operator after its class, and asks the class whether it is asynchronous.
    operator: Any = type(name, (), {"__call__": call})
    num_units = config.num_units_in_flight or DEFAULT_UNITS_IN_FLIGHT
    return chains.map_batches(
        operator,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(
            size=1,
            # Without the number an actor has one call, which is one unit, at a time.
            max_concurrent_calls_per_actor=num_units,
            max_tasks_in_flight_per_actor=num_units,
        ),
        num_cpus=STAGE_CPUS,
        udf_modifying_row_count=False,
    )


async def walk(rows: list[Row], stages: Sequence[Stage], part_size: int = 0) -> list[Row]:
    """Takes one unit through stages of one round, unless its ledger says that the round is done.

    With a `part_size`, parts of so many live rows go through the stages each for itself.
    A unit that a draining pool turns away is parked: it passes the stages that follow, so that the
    dataset comes to its end and the units under way to their commits.

    Raises:
        AssertionError: the rows are not one whole unit.
        PairloomError: a stage lost its process too often, or a pool ended.
    """
    check_whole(rows, stages[0].name)
    if rows[0]["next_round"] > stages[0].round_index:
        return rows
    await asyncio.gather(*(stage.begin(rows[0]["unit_id"]) for stage in stages))
    try:
        done = await _in_parts([dict(row) for row in rows], stages, part_size)
    except DrainingError:
        for stage in stages:
            stage.leave(rows[0]["unit_id"])
        return [park(row) for row in rows]
    for stage in stages:
        stage.count(rows, done)
    return done


async def _in_parts(rows: list[Row], stages: Sequence[Stage], part_size: int) -> list[Row]:
    async def work(part: list[Row]) -> list[Row]:
        for stage in stages:
            part = await stage.work(part)
        return part

    if not part_size or not all(stage.is_by_row for stage in stages):
        return await work(rows)
    live = [row for row in rows if is_live(row)]
    parts = (live[n : n + part_size] for n in range(0, len(live), part_size))
    answers = await _all_or_first_error(work(part) for part in parts)
    done = iter([row for part in answers for row in part])
    return [next(done) if is_live(row) else row for row in rows]


async def _all_or_first_error(
    works: Iterable[Coroutine[Any, Any, list[Row]]],
) -> list[list[Row]]:
    """As `gather`, but what still runs when one fails is ended: nobody will ask for it."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def park(row: Row) -> Row:
    """The chain as it passes all further stages of this attempt."""
    return row | {"next_round": PARKED, "image": None}


def count_new_errors(before: list[Row], after: list[Row], verb: str) -> int:
    """Chains that this stage saw fail; `record` sees those that it writes an error row for."""
    return sum(
        (is_live(old) and bool(new.get("error")) and new["error_stage"] == verb)
        or (
            verb == "record"
            and new["is_stopped"]
            and not old["is_stopped"]
            and not new.get("stop_reason")
        )
        for old, new in zip(before, after, strict=True)
    )


def check_whole(rows: list[Row], stage: str) -> None:
    """Fails loudly if a block is not exactly one unit in its order: Ray Data must never cut one.

    The unit's id is a digest of its chain ids, so it is proof enough.
    """
    chain_ids = [row["chain_id"] for row in rows]
    unit_id = rows[0]["unit_id"].partition(".")[0] if rows else ""  # without a replay's suffix
    if not rows or derive_unit_id(rows[0]["unit_index"], chain_ids) != unit_id:
        raise AssertionError(
            f"{stage}: a block of {len(rows)} rows is not one whole unit "
            f"({rows[0]['unit_id'] if rows else 'empty'}): Ray Data split or merged it"
        )


def serve_order(unit_index: int, round_index: int, group_size: int) -> int:
    """Whose turn it is at a pool: the oldest group of units, and in it the earliest round.

    Oldest unit first alone leaves the last units to go through their rounds with too few batches
    for all replicas: efficiency .939 of 12 rounds, and .991 in this order. Earliest round first
    alone does as well, but leaves no chain finished before the end: of a run that is stopped half
    way, half of each chain (tests/benchmarks/order_policies.py).
    """
    return unit_index // group_size * 1000 + round_index


def draw_with(pool: RowPool, round_index: int, run_seed: int, group_size: int = 1) -> Work:
    """M_j = G(D_{j-1}): gives every live chain the image of its prompt, or of a fresh one."""
    answer = _answer_with(pool, "draw", round_index, run_seed, group_size)

    async def work(rows: list[Row]) -> list[Row]:
        return await answer([begin_anew(r, round_index) if is_live(r) else r for r in rows])

    return work


def describe_with(pool: RowPool, round_index: int, run_seed: int, group_size: int = 1) -> Work:
    """D_j = F(I, M_j): gives every live chain the description of its image."""
    return _answer_with(pool, "describe", round_index, run_seed, group_size)


def score_with(pool: RowPool, round_index: int, group_size: int = 1) -> Work:
    """Gives every live chain the scores of its image and its description."""

    async def work(rows: list[Row]) -> list[Row]:
        live = [row for row in rows if is_live(row)]
        return await _ask(pool, "score", round_index, group_size, rows, live)

    return work


def _answer_with(
    pool: RowPool, verb: Role, round_index: int, run_seed: int, group_size: int
) -> Work:
    async def work(rows: list[Row]) -> list[Row]:
        live = [row for row in rows if is_live(row)]
        for row in live:
            row[f"rng_seed_{verb}"] = derive_rng_seed(run_seed, row["chain_id"], round_index, verb)
        return await _ask(pool, verb, round_index, group_size, rows, live)

    return work


async def _ask(
    pool: RowPool, verb: str, round_index: int, group_size: int, rows: list[Row], live: list[Row]
) -> list[Row]:
    """The rows with the live ones as the pool answered them."""
    if not live:
        return rows
    order = serve_order(rows[0]["unit_index"], round_index, group_size)
    answers = await pool.run(live, order=order)
    done = iter(_settle(row, one, verb) for row, one in zip(live, answers, strict=True))
    return [next(done) if is_live(row) else row for row in rows]


def _settle(row: Row, answer: Row | Poison, verb: str) -> Row:
    """The row as the pool left it, told which stage it failed at, if it failed."""
    if isinstance(answer, Poison):
        error = RowError(Reason(answer.kind), answer.message)
        answer = row | {"error": error.to_error(), "error_attempts": answer.attempts}
    return answer | {"error_stage": verb} if answer["error"] else answer


def is_live(row: Row) -> bool:
    """Whether anything more is grown from this chain."""
    return not row["error"] and not row["is_stopped"]
