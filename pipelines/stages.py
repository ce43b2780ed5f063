"""The three stages of a round, as `map_batches` over units: draw, describe, record.

A stage is thin: it checks that its block is one whole unit, lets finished rounds and dead chains
pass, and hands the rest to a shared pool or to the ledger. Each carries its round in its name, as
the dashboard shows it: `draw[r2]`, `describe[r2]`, `record[r2]`.

Limits: `record` keeps one unit of images in memory while it writes their shard.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa

from actors.reasons import Reason, RowError
from actors.records import (
    CHAIN_SCHEMA,
    DEAD_LETTER_SCHEMA,
    PAIR_SCHEMA,
    Row,
    derive_pair_id,
    derive_rng_seed,
    derive_unit_id,
    is_replay,
)
from cluster.errors import DrainingError, PairloomError
from cluster.ledger import Counts, Ledger
from cluster.pool import Poison
from cluster.telemetry import Board

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
    every round apart. `task`: Ray Data fuses them into one operator, named after all of them, that
    walks a unit through all rounds: fewest processes, so it starts sooner where cores are few.
    """

    kind: Literal["task", "actor"] = "actor"
    # units that a stage (`actor`), or all stages together (`task`), hold at once; images of no more
    # are in memory. null: 8, and with `actor` enough to keep every replica busy to the end
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
    """One stage of one round: what it does to the chains of a unit, and how it is run and named."""

    verb: str
    round_index: int
    work: Work
    config: StagesConfig
    board: Board | None = None

    @property
    def name(self) -> str:
        """As on the dashboard."""
        return f"{self.verb}[r{self.round_index}]"

    def apply(self, chains: "Dataset") -> "Dataset":
        """Appends this stage to the dataset."""
        from ray.data import ActorPoolStrategy, TaskPoolStrategy

        num_units = self.config.num_units_in_flight or DEFAULT_UNITS_IN_FLIGHT
        if self.config.kind == "actor":
            # Without the number an actor has one call, which is one unit, at a time.
            fn, compute = (
                _as_actor(self),
                ActorPoolStrategy(
                    size=1,
                    max_concurrent_calls_per_actor=num_units,
                    max_tasks_in_flight_per_actor=num_units,
                ),
            )
        else:
            fn, compute = _as_task(self), TaskPoolStrategy(num_units)
        return chains.map_batches(
            fn,
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=compute,
            num_cpus=STAGE_CPUS,
            udf_modifying_row_count=False,
        )

    async def __call__(self, block: pa.Table) -> pa.Table:
        """Works on one unit, unless its ledger says that this round is done.

        A unit that a draining pool turns away is parked: it passes the stages that follow, so that
        the dataset comes to its end and the units under way to their commits.

        Raises:
            PairloomError: the process at this unit was lost `MAX_TRIES` times.
        """
        rows = block.to_pylist()
        check_whole(rows, self.name)
        if rows[0]["next_round"] > self.round_index:
            return block
        await self._begin(rows[0]["unit_id"])
        try:
            done = await self.work([dict(row) for row in rows])
        except DrainingError:
            return pa.Table.from_pylist([park(row) for row in rows], schema=CHAIN_SCHEMA)
        if self.board is not None:
            num_errors = count_new_errors(rows, done)
            self.board.add(self.name, len(done), num_errors, rows[0]["unit_id"])
        return pa.Table.from_pylist(done, schema=CHAIN_SCHEMA)

    async def _begin(self, unit_id: str) -> None:
        if self.board is not None and await self.board.begin(self.name, unit_id) > MAX_TRIES:
            raise PairloomError(
                f"stage {self.name} lost its process {MAX_TRIES} times at unit {unit_id}: look in "
                "the logs for what ends it (a crash, or memory: then lower unit_size); what is "
                "committed stays"
            )


def park(row: Row) -> Row:
    """The chain as it passes all further stages of this attempt."""
    return row | {"next_round": PARKED, "image": None}


def count_new_errors(before: list[Row], after: list[Row]) -> int:
    """Chains that this stage saw fail; `record` sees those that it writes an error row for."""
    return sum(
        (is_live(old) and bool(new.get("error"))) or (new["is_stopped"] and not old["is_stopped"])
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
    """M_j = G(D_{j-1}): gives every live chain the image of its prompt."""

    async def work(rows: list[Row]) -> list[Row]:
        for row in rows:
            row["rng_seed_draw"] = derive_rng_seed(run_seed, row["chain_id"], round_index, "draw")
        order = serve_order(rows[0]["unit_index"], round_index, group_size)
        return await _run_live(pool, rows, "draw", order)

    return work


def describe_with(pool: RowPool, round_index: int, run_seed: int, group_size: int = 1) -> Work:
    """D_j = F(I, M_j): gives every live chain the description of its image."""

    async def work(rows: list[Row]) -> list[Row]:
        for row in rows:
            row["rng_seed_describe"] = derive_rng_seed(
                run_seed, row["chain_id"], round_index, "describe"
            )
        order = serve_order(rows[0]["unit_index"], round_index, group_size)
        return await _run_live(pool, rows, "describe", order)

    return work


async def _run_live(pool: RowPool, rows: list[Row], verb: str, order: int) -> list[Row]:
    live = [row for row in rows if is_live(row)]
    if not live:
        return rows
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


def record_to(ledger: Ledger, round_index: int, is_loop: bool, constants: dict[str, Any]) -> Work:
    """Commits the round's pairs and error rows, drops the images, and sets the next prompts.

    If another attempt committed this (unit, round) first, the chains go on from *its* rows, so that
    every prompt remains its parent's description.
    """

    async def work(rows: list[Row]) -> list[Row]:
        settled = [row for row in rows if not row["is_stopped"]]
        pairs = [to_pair(r, round_index, is_loop, constants) for r in settled if not r["error"]]
        dead = [to_dead_letter(r, round_index, is_loop) for r in settled if r["error"]]
        commit = await asyncio.to_thread(
            ledger.commit,
            rows[0]["unit_id"],
            round_index,
            pa.Table.from_pylist(pairs, schema=PAIR_SCHEMA),
            pa.Table.from_pylist(dead, schema=DEAD_LETTER_SCHEMA),
            count(rows, pairs, dead, round_index),
            uncompressed=frozenset({"image.bytes"}),
        )
        if not commit.is_winner:
            columns = ["chain_id", "pair_id", "description"]
            winner = await asyncio.to_thread(ledger.read_pairs, commit.receipt, columns)
            pairs = winner.to_pylist()
        committed = {pair["chain_id"]: pair for pair in pairs}
        return [to_next(row, committed.get(row["chain_id"]), is_loop) for row in rows]

    return work


def count(rows: list[Row], pairs: list[Row], dead: list[Row], round_index: int) -> Counts:
    """What the receipt says of a unit's chains; a replay takes the place of what failed before."""
    is_first = round_index == rows[0]["first_round"]
    num_replaced = len(rows) if is_replay(rows[0]["unit_id"]) else 0
    replaced = Counter(row["replaces"] for row in rows) if num_replaced and is_first else {}
    return Counts(
        num_pairs=len(pairs),
        num_error_rows=len(dead),
        num_stopped=len(rows) - len(pairs) - len(dead),
        num_replaced_errors=num_replaced if is_first else 0,
        num_replaced_stopped=0 if is_first else num_replaced,
        error_reasons=dict(Counter(row["reason"] for row in dead)),
        replaced_reasons=dict(replaced),
    )


def to_pair(row: Row, round_index: int, is_loop: bool, constants: dict[str, Any]) -> Row:
    """The output row of a chain in this round; `constants` are the columns that the run fixes."""
    return _to_output(row, round_index, is_loop, PAIR_SCHEMA) | constants


def to_dead_letter(row: Row, round_index: int, is_loop: bool) -> Row:
    """The row of a chain that failed in this round; with its picture, if it got so far."""
    reason, _, message = row["error"].partition(": ")
    return _to_output(row, round_index, is_loop, DEAD_LETTER_SCHEMA) | {
        "stage": row["error_stage"],
        "reason": reason,
        "message": message,
        "traceback_sha256": row["error_traceback_sha256"],
        "attempts": row["error_attempts"] or 0,
    }


def _to_output(row: Row, round_index: int, is_loop: bool, schema: pa.Schema) -> Row:
    return {name: row.get(name) for name in schema.names} | {
        "pair_id": derive_pair_id(row["chain_id"], round_index),
        "round_index": round_index,
        "parent_id": row["parent_id"] if is_loop else None,
        "created_at": datetime.now(UTC),
    }


def to_next(row: Row, pair: Row | None, is_loop: bool) -> Row:
    """The chain as the next round gets it: without the image, and with its next prompt."""
    kept = ("chain_id", "unit_id", "unit_index", "first_round", "next_round", "seed", "replaces")
    chain: Row = dict.fromkeys(CHAIN_SCHEMA.names) | {name: row[name] for name in kept}
    chain["is_stopped"] = pair is None
    if pair is None:
        return chain
    if not is_loop:
        return chain | {"prompt": row["seed"]}
    return chain | {"prompt": pair["description"], "parent_id": pair["pair_id"]}


def _as_actor(stage: Stage) -> type:
    async def call(_: object, block: pa.Table) -> pa.Table:
        return await stage(block)

    # Ray Data names an operator after its class, and asks the class whether it is asynchronous.
    return type(stage.name, (), {"__call__": call})


def _as_task(stage: Stage) -> Callable[[pa.Table], pa.Table]:
    def call(block: pa.Table) -> pa.Table:
        return asyncio.run(stage(block))

    call.__name__ = stage.name
    return call
