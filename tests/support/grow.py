"""Grows a unit through the commit layer with text in the place of models, as `record` does it.

Four chains a unit; the last one fails in round 1 and is stopped from then on. What an attempt
writes carries its name, so that a reader can tell whose rows were committed.
"""

from typing import Any

import pyarrow as pa

from cluster.ledger import Ledger
from cluster.receipts import Counts

NUM_CHAINS = 4
FAILS_IN_ROUND = 1
ERROR = "blank_image"

_TEXT = [pa.field(name, pa.string()) for name in ("pair_id", "chain_id", "parent_id", "prompt")]
PAIRS = pa.schema([*_TEXT, pa.field("description", pa.string())])
DEAD_LETTERS = pa.schema([*_TEXT, pa.field("reason", pa.string())])


def chain_ids(unit_id: str) -> list[str]:
    return [f"{unit_id}-c{number}" for number in range(NUM_CHAINS)]


def grow_round(
    unit_id: str, round_index: int, before: pa.Table | None, attempt: str
) -> tuple[pa.Table, pa.Table, Counts]:
    """One round on top of the committed pairs of the round before."""
    parents: dict[str, dict[str, Any]] = (
        {row["chain_id"]: row for row in before.to_pylist()} if before is not None else {}
    )
    pairs: list[dict[str, Any]] = []
    dead_letters: list[dict[str, Any]] = []
    for chain_id in chain_ids(unit_id):
        parent = parents.get(chain_id)
        if round_index and parent is None:
            continue  # stopped
        row = {
            "pair_id": f"{chain_id}-{round_index:03d}",
            "chain_id": chain_id,
            "parent_id": parent["pair_id"] if parent else None,
            "prompt": parent["description"] if parent else f"seed of {chain_id}",
        }
        if round_index == FAILS_IN_ROUND and chain_id == chain_ids(unit_id)[-1]:
            dead_letters.append({**row, "reason": ERROR})
        else:
            pairs.append({**row, "description": f"{attempt} saw {row['pair_id']}"})
    counts = Counts(
        num_pairs=len(pairs),
        num_error_rows=len(dead_letters),
        num_stopped=NUM_CHAINS - len(pairs) - len(dead_letters),
        error_reasons={ERROR: len(dead_letters)} if dead_letters else {},
    )
    return (
        pa.Table.from_pylist(pairs, PAIRS),
        pa.Table.from_pylist(dead_letters, DEAD_LETTERS),
        counts,
    )


def grow_unit(
    ledger: Ledger, unit_id: str, num_rounds: int, attempt: str, *, first_round: int = 0
) -> None:
    """All rounds from `first_round`; whoever loses a round goes on from the winner's rows."""
    before = None
    if first_round:
        receipt = ledger.receipt(unit_id, first_round - 1)
        assert receipt is not None
        before = ledger.read_pairs(receipt)
    for round_index in range(first_round, num_rounds):
        pairs, dead_letters, counts = grow_round(unit_id, round_index, before, attempt)
        commit = ledger.commit(unit_id, round_index, pairs, dead_letters, counts)
        before = pairs if commit.is_winner else ledger.read_pairs(commit.receipt)
