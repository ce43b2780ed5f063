"""Slices the seed table into units and hands each to the loop as one block, at the round it is due.

A unit that was begun before continues at its first round without a receipt, from the committed
descriptions of the round before it; a finished unit is not handed out at all.

Limits: every unit is one read task, and its seeds travel inside that task (about 20 KB for 64).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from actors.records import CHAIN_SCHEMA, Row, derive_unit_id
from cluster.errors import CommitError
from cluster.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A slice of the seed table and the first round that it still needs."""

    unit_id: str
    unit_index: int
    next_round: int
    seeds: list[Row]


def slice_units(seeds: pa.Table, unit_size: int) -> list[Unit]:
    """Cuts the table, in order, into units of `unit_size` chains (the last may be smaller)."""
    units: list[Unit] = []
    for index, start in enumerate(range(0, seeds.num_rows, unit_size)):
        rows = seeds.slice(start, unit_size).select(["chain_id", "seed", "error"]).to_pylist()
        unit_id = derive_unit_id(index, [row["chain_id"] for row in rows])
        units.append(Unit(unit_id=unit_id, unit_index=index, next_round=0, seeds=rows))
    return units


def plan_remaining(units: list[Unit], next_rounds: dict[str, int], num_rounds: int) -> list[Unit]:
    """The units that are not finished, each at its first round without a receipt."""
    return [
        replace(unit, next_round=next_rounds[unit.unit_id])
        for unit in units
        if next_rounds[unit.unit_id] < num_rounds
    ]


def skip_committed(unit: Unit, ledger: Ledger) -> Unit:
    """The unit at the round it is due now: a task that Ray repeats must not redo its commits."""
    next_round = unit.next_round
    while ledger.receipt(unit.unit_id, next_round):
        next_round += 1
    return replace(unit, next_round=next_round)


def start_chains(unit: Unit, is_loop: bool, ledger: Ledger) -> pa.Table:
    """The chains of a unit in `CHAIN_SCHEMA`, ready for round `unit.next_round`."""
    before = _committed(unit, ledger) if unit.next_round else None
    rows = [_start_chain(unit, seed, before, is_loop) for seed in unit.seeds]
    return pa.Table.from_pylist(rows, schema=CHAIN_SCHEMA)


def _committed(unit: Unit, ledger: Ledger) -> dict[str, Row]:
    receipt = ledger.receipt(unit.unit_id, unit.next_round - 1)
    if receipt is None:
        raise CommitError(
            f"unit {unit.unit_id}: the receipt of round {unit.next_round - 1} is gone"
        )
    columns = ["chain_id", "pair_id", "description", "error"]
    rows = ledger.read_rows(receipt, columns=columns).to_pylist() if receipt.file else []
    return {row["chain_id"]: row for row in rows}


def _start_chain(
    unit: Unit, seed: Row, before: dict[str, Row] | None, is_loop: bool
) -> dict[str, Any]:
    chain: dict[str, Any] = {
        "chain_id": seed["chain_id"],
        "unit_id": unit.unit_id,
        "unit_index": unit.unit_index,
        "next_round": unit.next_round,
        "seed": seed["seed"],
        "prompt": seed["seed"],
        "error": seed["error"],
        "is_stopped": False,
    }
    if before is None:
        return chain
    pair = before.get(seed["chain_id"])
    if pair is None or pair["error"]:
        # It failed in the round before, or earlier and has no row there: nothing more is grown.
        return chain | {"error": pair["error"] if pair else "stopped", "is_stopped": True}
    return chain | (
        {"prompt": pair["description"], "parent_id": pair["pair_id"]} if is_loop else {}
    )


class UnitSource(Datasource):
    """One read task and one block for each unit that is left to do."""

    def __init__(self, units: list[Unit], is_loop: bool, ledger: Ledger) -> None:
        super().__init__()
        self._units = units
        self._is_loop = is_loop
        self._ledger = ledger

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
        return [_read_task(unit, self._is_loop, self._ledger) for unit in self._units]


def _read_task(unit: Unit, is_loop: bool, ledger: Ledger) -> ReadTask:
    def read() -> Iterator[pa.Table]:
        yield start_chains(skip_committed(unit, ledger), is_loop, ledger)

    metadata = BlockMetadata(
        num_rows=len(unit.seeds), size_bytes=None, input_files=None, exec_stats=None
    )
    return ReadTask(read, metadata, schema=CHAIN_SCHEMA)
