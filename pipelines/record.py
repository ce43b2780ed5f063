"""Commits the pairs and error rows of a unit's round, and readies its chains for the next one.

If another attempt committed this (unit, round) first, the chains go on from *its* rows, so that
every prompt remains its parent's description.

Also the other way round: a unit whose rounds were committed meanwhile catches up with them.

Limits: keeps one unit of images in memory while it writes their shard.
"""

import asyncio
from collections import Counter
from datetime import UTC, datetime
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
from pipelines.stages import Work


def record_to(ledger: Ledger, round_index: int, is_loop: bool, constants: dict[str, Any]) -> Work:
    """Commits the round's pairs and error rows, drops the images, and sets the next prompts."""

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
            pairs = await _read_pairs(ledger, commit.receipt)
        return to_next_round(rows, pairs, is_loop)

    return work


def catch_up_with(ledger: Ledger, is_loop: bool) -> Work:
    """Brings a unit to the first round without a receipt; next to nothing where that is its own."""

    async def work(rows: list[Row]) -> list[Row]:
        unit_id, due = rows[0]["unit_id"], rows[0]["next_round"]
        while receipt := await asyncio.to_thread(ledger.receipt, unit_id, due):
            rows = to_next_round(rows, await _read_pairs(ledger, receipt), is_loop)
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


async def _read_pairs(ledger: Ledger, receipt: Receipt) -> list[Row]:
    columns = ["chain_id", "pair_id", "description"]
    return (await asyncio.to_thread(ledger.read_pairs, receipt, columns)).to_pylist()


def to_next_round(rows: list[Row], pairs: list[Row], is_loop: bool) -> list[Row]:
    """The chains as the next round gets them, given the pairs that were committed of this one."""
    committed = {pair["chain_id"]: pair for pair in pairs}
    return [_to_next(row, committed.get(row["chain_id"]), is_loop) for row in rows]


def _to_next(row: Row, pair: Row | None, is_loop: bool) -> Row:
    """Without the image, and with its next prompt."""
    kept = ("chain_id", "unit_id", "unit_index", "first_round", "next_round", "seed", "replaces")
    chain: Row = dict.fromkeys(CHAIN_SCHEMA.names) | {name: row[name] for name in kept}
    chain["is_stopped"] = pair is None
    if pair is None:
        return chain
    if not is_loop:
        return chain | {"prompt": row["seed"]}
    return chain | {"prompt": pair["description"], "parent_id": pair["pair_id"]}
