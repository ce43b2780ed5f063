"""Which failed rows to run again, as units of their own beside those that they failed in.

A receipt is never rewritten, so a replay commits under unit ids that name the unit, the generation
and the round it begins with: `0000003-ab12cd34.replay1r0`. It takes the place of the dead letters
that it begins with: for a (chain, round) the row of the highest generation counts.

Limits: reads the dead letters of the whole run into the driver, without their pictures. A unit a
replayed (unit, round): few chains each, so that batches are smaller than in the run itself.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pyarrow as pa

from actors.records import Row, derive_replay_id
from cluster.ledger import Ledger
from cluster.receipts import Receipt
from pipelines.units import START_SCHEMA, Unit

_REPLAY_ID = re.compile(
    r"(?P<index>[0-9]+)-[0-9a-f]+\.replay(?P<generation>[0-9]+)r(?P<first>[0-9]+)"
)
_COLUMNS = ["chain_id", "seed", "prompt", "parent_id"]


@dataclass(frozen=True, kw_only=True)
class Replays:
    """Units that slice `starts`, whose first row stands at the offset that was asked for."""

    units: list[Unit]
    starts: pa.Table


@dataclass(frozen=True, kw_only=True)
class ReplayName:
    """What the id of a unit says; generation 0 is a unit of the run itself."""

    unit_index: int
    generation: int
    first_round: int


def parse_unit_id(unit_id: str) -> ReplayName:
    """Takes a unit's id apart."""
    match = _REPLAY_ID.fullmatch(unit_id)
    if match is None:
        head = unit_id.partition("-")[0]
        index = int(head) if head.isdecimal() else -1  # no unit of ours has such an id
        return ReplayName(unit_index=index, generation=0, first_round=0)
    return ReplayName(
        unit_index=int(match["index"]),
        generation=int(match["generation"]),
        first_round=int(match["first"]),
    )


def resume_replays(
    ledger: Ledger, committed: Collection[tuple[str, int]], num_rounds: int, *, offset: int
) -> Replays:
    """The replays that were begun and not finished, each at its first round without a receipt."""
    rounds: defaultdict[str, set[int]] = defaultdict(set)
    for unit_id, round_index in committed:
        if parse_unit_id(unit_id).generation:
            rounds[unit_id].add(round_index)
    units: list[Unit] = []
    starts: list[Row] = []
    for unit_id, done in sorted(rounds.items()):
        name = parse_unit_id(unit_id)
        if max(done) == num_rounds - 1:
            continue
        (first,) = ledger.receipts([(unit_id, name.first_round)])
        rows = _rows_of(ledger, first)
        units.append(
            Unit(
                unit_id=unit_id,
                unit_index=name.unit_index,
                offset=offset + len(starts),
                num_chains=len(rows),
                first_round=name.first_round,
                next_round=max(done) + 1,
            )
        )
        starts += rows
    return Replays(units=units, starts=pa.Table.from_pylist(starts, schema=START_SCHEMA))


def plan_replays(ledger: Ledger, reasons: Collection[str], *, offset: int) -> Replays:
    """A new generation of units for the dead letters that nothing has taken the place of.

    Args:
        ledger: of a run that is finished.
        reasons: only what failed for one of these codes; empty for all.
        offset: of the first start.

    A bad seed stays one: what failed at stage `seed` is left out.
    """
    receipts = ledger.receipts()
    generations: defaultdict[int, int] = defaultdict(int)
    for receipt in receipts:
        name = parse_unit_id(receipt.unit_id)
        generations[name.unit_index] = max(generations[name.unit_index], name.generation)
    groups: defaultdict[tuple[int, int], list[Row]] = defaultdict(list)
    for (unit_index, round_index), row in find_current(ledger, receipts):
        if row["stage"] != "seed" and (not reasons or row["reason"] in reasons):
            groups[unit_index, round_index].append(row)
    units: list[Unit] = []
    starts: list[Row] = []
    for (unit_index, round_index), rows in sorted(groups.items()):
        rows.sort(key=lambda row: row["chain_id"])
        generation = generations[unit_index] + 1
        chain_ids = [row["chain_id"] for row in rows]
        units.append(
            Unit(
                unit_id=derive_replay_id(unit_index, chain_ids, generation, round_index),
                unit_index=unit_index,
                offset=offset + len(starts),
                num_chains=len(rows),
                first_round=round_index,
                next_round=round_index,
            )
        )
        starts += [
            {name: row[name] for name in _COLUMNS} | {"replaces": row["reason"]} for row in rows
        ]
    return Replays(units=units, starts=pa.Table.from_pylist(starts, schema=START_SCHEMA))


def find_current(
    ledger: Ledger, receipts: Iterable[Receipt]
) -> Iterable[tuple[tuple[int, int], Row]]:
    """((unit index, round), dead letter) of every failed row that no later generation replaced."""
    latest: dict[tuple[str, int], tuple[int, int, Row | None]] = {}
    by_generation = sorted(receipts, key=lambda one: parse_unit_id(one.unit_id).generation)
    for receipt in by_generation:
        name, round_index = parse_unit_id(receipt.unit_id), receipt.round_index
        if name.generation and receipt.data:
            for row in ledger.read_pairs(receipt, ["chain_id"]).to_pylist():
                latest[row["chain_id"], round_index] = (name.unit_index, round_index, None)
        if receipt.dead_letter:
            columns = [*_COLUMNS, "stage", "reason"]
            for row in ledger.read_dead_letters(receipt, columns).to_pylist():
                latest[row["chain_id"], round_index] = (name.unit_index, round_index, row)
    for unit_index, round_index, row in latest.values():
        if row is not None:
            yield (unit_index, round_index), row


def _rows_of(ledger: Ledger, receipt: Receipt) -> list[Row]:
    """How the chains of a replay began, from what its first round committed."""
    pairs = ledger.read_pairs(receipt, _COLUMNS).to_pylist()
    dead = ledger.read_dead_letters(receipt, _COLUMNS).to_pylist()
    return sorted(pairs + dead, key=lambda row: row["chain_id"])
