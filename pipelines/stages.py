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
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa

from actors.records import (
    CHAIN_SCHEMA,
    PAIR_SCHEMA,
    Row,
    derive_pair_id,
    derive_rng_seed,
    derive_unit_id,
)
from cluster.ledger import Counts, Ledger
from cluster.telemetry import Board

if TYPE_CHECKING:  # 1.5 s to import, which `pairloom plan` does not have
    from ray.data import Dataset

# A stage needs next to no CPU: it awaits a pool. A whole CPU each would starve the models.
STAGE_CPUS = 0.01

Work = Callable[[list[Row]], Awaitable[list[Row]]]


class RowPool(Protocol):
    """What a stage asks of a shared pool: the same rows, worked on, in order."""

    async def run(self, rows: list[Row], *, order: int = 0) -> list[Row]: ...


@dataclass(frozen=True, kw_only=True)
class StagesConfig:
    """How Ray Data runs the stages; the pairs are the same.

    `actor`: each stage is an operator and a process of its own, and the dashboard shows the rows of
    every round apart. `task`: Ray Data fuses them into one operator, named after all of them, that
    walks a unit through all rounds: fewest processes, so it starts sooner where cores are few.
    """

    kind: Literal["task", "actor"] = "actor"
    num_units_in_flight: int = 8  # `task` only: units being walked at once

    def __post_init__(self) -> None:
        if self.num_units_in_flight < 1:
            raise ValueError(
                f"field 'stages.num_units_in_flight' is {self.num_units_in_flight}: must be >= 1"
            )


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

        is_actor = self.config.kind == "actor"
        fn, compute = (
            (_as_actor(self), ActorPoolStrategy(size=1))
            if is_actor
            else (_as_task(self), TaskPoolStrategy(self.config.num_units_in_flight))
        )
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
        """Works on one unit, unless its ledger says that this round is done."""
        rows = block.to_pylist()
        check_whole(rows, self.name)
        if rows[0]["next_round"] > self.round_index:
            return block
        started = perf_counter()
        done = await self.work([dict(row) for row in rows])
        if self.board is not None:
            num_errors = count_new_errors(rows, done)
            self.board.add(self.name, len(done), num_errors, perf_counter() - started)
        return pa.Table.from_pylist(done, schema=CHAIN_SCHEMA)


def count_new_errors(before: list[Row], after: list[Row]) -> int:
    """Chains that this stage saw fail; `record` sees those that it writes an error row for."""
    return sum(
        bool(new["error"]) and (is_live(old) or (new["is_stopped"] and not old["is_stopped"]))
        for old, new in zip(before, after, strict=True)
    )


def check_whole(rows: list[Row], stage: str) -> None:
    """Fails loudly if a block is not exactly one unit in its order: Ray Data must never cut one.

    The unit's id is a digest of its chain ids, so it is proof enough.
    """
    chain_ids = [row["chain_id"] for row in rows]
    if not rows or derive_unit_id(rows[0]["unit_index"], chain_ids) != rows[0]["unit_id"]:
        raise AssertionError(
            f"{stage}: a block of {len(rows)} rows is not one whole unit "
            f"({rows[0]['unit_id'] if rows else 'empty'}): Ray Data split or merged it"
        )


def draw_with(pool: RowPool, round_index: int, run_seed: int) -> Work:
    """M_j = G(D_{j-1}): gives every live chain the image of its prompt."""

    async def work(rows: list[Row]) -> list[Row]:
        for row in rows:
            row["rng_seed_draw"] = derive_rng_seed(run_seed, row["chain_id"], round_index, "draw")
        return await _run_live(pool, rows)

    return work


def describe_with(pool: RowPool, round_index: int, run_seed: int) -> Work:
    """D_j = F(I, M_j): gives every live chain the description of its image."""

    async def work(rows: list[Row]) -> list[Row]:
        for row in rows:
            row["rng_seed_describe"] = derive_rng_seed(
                run_seed, row["chain_id"], round_index, "describe"
            )
        return await _run_live(pool, rows)

    return work


async def _run_live(pool: RowPool, rows: list[Row]) -> list[Row]:
    live = [row for row in rows if is_live(row)]
    if not live:
        return rows
    done = iter(await pool.run(live, order=rows[0]["unit_index"]))
    return [next(done) if is_live(row) else row for row in rows]


def is_live(row: Row) -> bool:
    """Whether anything more is grown from this chain."""
    return not row["error"] and not row["is_stopped"]


def record_to(ledger: Ledger, round_index: int, is_loop: bool, constants: dict[str, Any]) -> Work:
    """Commits the round's pairs and error rows, drops the images, and sets the next prompts.

    If another attempt committed this (unit, round) first, the chains go on from *its* rows, so that
    every prompt remains its parent's description.
    """

    async def work(rows: list[Row]) -> list[Row]:
        pairs = [to_pair(r, round_index, is_loop, constants) for r in rows if not r["is_stopped"]]
        table = pa.Table.from_pylist(pairs, schema=PAIR_SCHEMA)
        reasons = Counter(pair["error"].partition(":")[0] for pair in pairs if pair["error"])
        counts = Counts(
            num_pairs=len(pairs) - reasons.total(),
            num_error_rows=reasons.total(),
            num_stopped=len(rows) - len(pairs),
            error_reasons=dict(reasons),
        )
        commit = await asyncio.to_thread(
            ledger.commit,
            rows[0]["unit_id"],
            round_index,
            table,
            counts,
            uncompressed=frozenset({"image.bytes"}),
        )
        if not commit.is_winner:
            columns = ["chain_id", "pair_id", "description", "error"]
            pairs = (await asyncio.to_thread(ledger.read_rows, commit.receipt, columns)).to_pylist()
        committed = {pair["chain_id"]: pair for pair in pairs}
        return [to_next(row, committed.get(row["chain_id"]), is_loop) for row in rows]

    return work


def to_pair(row: Row, round_index: int, is_loop: bool, constants: dict[str, Any]) -> Row:
    """The output row of a chain in this round; `constants` are the columns that the run fixes."""
    pair = {name: row.get(name) for name in PAIR_SCHEMA.names}
    pair |= constants
    pair |= {
        "pair_id": derive_pair_id(row["chain_id"], round_index),
        "round_index": round_index,
        "parent_id": row["parent_id"] if is_loop else None,
        "created_at": datetime.now(UTC),
    }
    return pair


def to_next(row: Row, pair: Row | None, is_loop: bool) -> Row:
    """The chain as the next round gets it: without the image, and with its next prompt."""
    kept = ("chain_id", "unit_id", "unit_index", "next_round", "seed", "error", "is_stopped")
    chain: Row = {name: row[name] for name in kept}
    if pair is None or pair["error"]:
        error = pair["error"] if pair else row["error"] or "stopped"
        return chain | {"error": error, "is_stopped": True}
    if not is_loop:
        return chain | {"prompt": row["seed"], "error": None}
    return chain | {"prompt": pair["description"], "parent_id": pair["pair_id"], "error": None}


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
