"""Commits the pairs and error rows of a unit's round, and readies its chains for the next one.

If another attempt committed this (unit, round) first, the chains go on from *its* rows, so that
every prompt remains its parent's description, and stop where it has stopped them.

Also the other way round: a unit whose rounds were committed meanwhile catches up with them.

Limits: keeps one unit of images in memory while it writes their shard.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import pyarrow as pa

from actors.records import (
    CHAIN_SCHEMA,
    DEAD_LETTER_SCHEMA,
    PAIR_SCHEMA,
    Row,
    derive_pair_id,
    is_replay,
)
from cluster.ledger import Counts, Ledger
from cluster.receipts import Receipt
from pipelines.drift import StopConfig, facts_of, judge
from pipelines.past import BARE_COLUMNS, COLUMNS, remember, to_list
from pipelines.stages import Work


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What there is to know for committing a round, besides its rows.

    Attributes:
        constants: the columns that the run fixes.
        has_memory: whether chains remember their earlier rounds: for scores, or for rules.
        stop: the rules by which a chain may stop; None in the last round, where none can.
    """

    is_loop: bool
    constants: dict[str, Any] = field(default_factory=dict[str, Any])
    has_memory: bool = False
    stop: StopConfig | None = None


def record_to(
    ledger: Ledger,
    round_index: int,
    how: Recording,
    see_seconds: Callable[[float], None] | None = None,
) -> Work:
    """Commits the round's pairs and error rows, drops the images, and sets the next prompts.

    `see_seconds` is told what each commit took.
    """

    async def work(rows: list[Row]) -> list[Row]:
        settled = [row for row in rows if not row["is_stopped"]]
        pairs = [to_pair(row, round_index, how) for row in settled if not row["error"]]
        dead = [to_dead_letter(r, round_index, how.is_loop) for r in settled if r["error"]]
        started = perf_counter()
        commit = await asyncio.to_thread(
            ledger.commit,
            rows[0]["unit_id"],
            round_index,
            pa.Table.from_pylist(pairs, schema=PAIR_SCHEMA),
            pa.Table.from_pylist(dead, schema=DEAD_LETTER_SCHEMA),
            count(rows, pairs, dead, round_index),
            uncompressed=frozenset({"image.bytes"}),
        )
        if see_seconds is not None:
            see_seconds(perf_counter() - started)
        if not commit.is_winner:
            pairs = await _read_pairs(ledger, commit.receipt, how)
        return to_next_round(rows, pairs, how)

    return work


def catch_up_with(ledger: Ledger, how: Recording) -> Work:
    """Brings a unit to the first round without a receipt; next to nothing where that is its own."""

    async def work(rows: list[Row]) -> list[Row]:
        unit_id, due = rows[0]["unit_id"], rows[0]["next_round"]
        while receipt := await asyncio.to_thread(ledger.receipt, unit_id, due):
            rows = to_next_round(rows, await _read_pairs(ledger, receipt, how), how)
            due += 1
            for row in rows:
                row["next_round"] = due
        return rows

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
        stop_reasons=dict(Counter(row["stop_reason"] for row in pairs if row["stop_reason"])),
    )


def to_pair(row: Row, round_index: int, how: Recording) -> Row:
    """The output row of a chain in this round, with the reason if the chain stops with it."""
    pair = _to_output(row, round_index, how.is_loop, PAIR_SCHEMA) | how.constants
    pair |= {name: to_list(pair[name]) for name in ("image_embedding", "text_embedding")}
    if how.stop is not None:
        pair["stop_reason"] = judge([*(row["past"] or ()), facts_of(pair)], how.stop)
    return pair


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


async def _read_pairs(ledger: Ledger, receipt: Receipt, how: Recording) -> list[Row]:
    columns = COLUMNS if how.has_memory else BARE_COLUMNS
    return (await asyncio.to_thread(ledger.read_pairs, receipt, columns)).to_pylist()


def to_next_round(rows: list[Row], pairs: list[Row], how: Recording) -> list[Row]:
    """The chains as the next round gets them, given the pairs that were committed of this one."""
    committed = {pair["chain_id"]: pair for pair in pairs}
    return [_to_next(row, committed.get(row["chain_id"]), how) for row in rows]


def _to_next(row: Row, pair: Row | None, how: Recording) -> Row:
    """Without the image, and with its next prompt."""
    kept = ("chain_id", "unit_id", "unit_index", "first_round", "next_round", "seed", "replaces")
    kept = (*kept, "fresh")
    chain: Row = dict.fromkeys(CHAIN_SCHEMA.names) | {name: row[name] for name in kept}
    chain["stop_reason"] = pair.get("stop_reason") if pair else None
    chain["is_stopped"] = pair is None or chain["stop_reason"] is not None
    if pair is None or chain["is_stopped"]:
        return chain
    if how.has_memory:
        chain |= remember(row, pair, how.is_loop)
    if not how.is_loop:
        return chain | {"prompt": row["seed"]}
    parent = {"prompt": pair["description"], "parent_id": pair["pair_id"]}
    return chain | parent | {"seed": pair["seed"]}
