"""Slices the seed table into units and hands each to the loop as one block, at the round it is due.

A unit that was begun before continues at its first round without a receipt, from the committed
descriptions of the round before it, and with what its chains remember of all of them; a finished
unit is not handed out at all.

Limits: every unit is one read task. The table of starts lies once in Ray's object store (about
200 bytes a chain) and once in the driver.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from actors.records import CHAIN_SCHEMA, Row, derive_unit_id
from cluster.errors import CommitError
from cluster.ledger import Ledger
from pipelines.inject import Fresh
from pipelines.past import BARE_COLUMNS, read_past, remember

# How a chain begins: `prompt` and `parent_id` are those of the unit's first round; `error` is that
# of a bad seed, `replaces` the reason that a replayed chain failed for.
_START_COLUMNS = ("chain_id", "seed", "prompt", "parent_id", "error", "replaces")
START_SCHEMA = pa.schema([(name, pa.string()) for name in _START_COLUMNS])


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A slice of the table of starts, and the first round that it still needs."""

    unit_id: str
    unit_index: int
    offset: int
    num_chains: int
    first_round: int = 0
    next_round: int = 0


def to_starts(seeds: pa.Table) -> pa.Table:
    """The seed table as chains begin: the first prompt is the seed."""
    given = seeds.append_column("prompt", seeds.column("seed"))
    for name in ("parent_id", "replaces"):
        given = given.append_column(name, pa.nulls(seeds.num_rows, pa.string()))
    return given.select(_START_COLUMNS)


def slice_units(starts: pa.Table, unit_size: int) -> list[Unit]:
    """Cuts the table, in order, into units of `unit_size` chains (the last may be smaller)."""
    units: list[Unit] = []
    for index, offset in enumerate(range(0, starts.num_rows, unit_size)):
        chain_ids = starts.column("chain_id").slice(offset, unit_size).to_pylist()
        units.append(
            Unit(
                unit_id=derive_unit_id(index, chain_ids),
                unit_index=index,
                offset=offset,
                num_chains=len(chain_ids),
            )
        )
    return units


def plan_remaining(units: list[Unit], next_rounds: dict[str, int], num_rounds: int) -> list[Unit]:
    """The units that are not finished, each at its first round without a receipt."""
    return [
        replace(unit, next_round=next_rounds[unit.unit_id])
        for unit in units
        if next_rounds[unit.unit_id] < num_rounds
    ]


def start_chains(
    unit: Unit,
    starts: pa.Table,
    is_loop: bool,
    ledger: Ledger,
    has_memory: bool = False,
    fresh: Fresh | None = None,
) -> pa.Table:
    """The chains of a unit in `CHAIN_SCHEMA`, ready for round `unit.next_round`."""
    before = _committed(unit, ledger, has_memory) if unit.next_round > unit.first_round else None
    rows = starts.slice(unit.offset, unit.num_chains).to_pylist()
    chains = [_start_chain(unit, row, before, is_loop) for row in rows]
    if fresh is not None:
        for chain in chains:
            chain["fresh"] = None if chain["error"] else fresh.of_chain(chain["chain_id"])
    if has_memory and unit.next_round:
        names = {row["chain_id"] for row in rows}
        past = read_past(ledger, unit.unit_id, names, unit.next_round)
        for chain in chains:
            for pair in () if chain["is_stopped"] else past.get(chain["chain_id"], ()):
                chain |= remember(chain, pair, is_loop)
    return pa.Table.from_pylist(chains, schema=CHAIN_SCHEMA)


def _committed(unit: Unit, ledger: Ledger, has_memory: bool) -> dict[str, Row]:
    receipt = ledger.receipt(unit.unit_id, unit.next_round - 1)
    if receipt is None:
        raise CommitError(
            f"unit {unit.unit_id}: the receipt of round {unit.next_round - 1} is gone"
        )
    # A run that an earlier version began has no reasons to stop, and no column for them.
    columns = (*BARE_COLUMNS, "stop_reason") if has_memory else BARE_COLUMNS
    return {row["chain_id"]: row for row in ledger.read_pairs(receipt, columns).to_pylist()}


def _start_chain(unit: Unit, start: Row, before: dict[str, Row] | None, is_loop: bool) -> Row:
    chain = start | {
        "unit_id": unit.unit_id,
        "unit_index": unit.unit_index,
        "first_round": unit.first_round,
        "next_round": unit.next_round,
        "error_stage": "seed" if start["error"] else None,
        "is_stopped": False,
    }
    if before is None:
        return chain
    pair = before.get(start["chain_id"])
    if pair is None or pair.get("stop_reason"):
        # It failed or stopped in the round before, or earlier: nothing more is grown.
        return chain | {"is_stopped": True}
    if not is_loop:
        return chain
    parent = {"prompt": pair["description"], "parent_id": pair["pair_id"]}
    return chain | parent | {"seed": pair["seed"]}


class UnitSource(Datasource):
    """One read task and one block for each unit that is left to do."""

    def __init__(
        self,
        units: list[Unit],
        starts_and_fresh: Any,
        is_loop: bool,
        ledger: Ledger,
        has_memory: bool = False,
    ) -> None:
        super().__init__()
        self._units = units
        # a reference: in each task, 10,000 units would hold a gigabyte
        self._starts = starts_and_fresh
        self._start = partial(start_chains, is_loop=is_loop, ledger=ledger, has_memory=has_memory)

    def get_name(self) -> str:
        """Shown on the dashboard as `ReadUnits`."""
        return "Units"

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown, and nothing depends on it: the number of blocks is given."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task a unit, whatever parallelism Ray Data has in mind: a unit must stay whole."""
        return [_read_task(unit, self._starts, self._start) for unit in self._units]


def _read_task(unit: Unit, starts_and_fresh: Any, start: Callable[..., pa.Table]) -> ReadTask:
    def read() -> Iterator[pa.Table]:
        starts, fresh = ray.get(starts_and_fresh)
        yield start(unit, starts, fresh=fresh)

    metadata = BlockMetadata(
        num_rows=unit.num_chains, size_bytes=None, input_files=None, exec_stats=None
    )
    return ReadTask(read, metadata, schema=CHAIN_SCHEMA)
