"""What a chain remembers of its earlier rounds, for scores and for the rules by which it stops.

Nothing is remembered that does not stand in the committed pairs: vectors are read back from them,
bit by bit, and not made again. A CLIP on another device, or in another batch, gives other last
bits, and with them a chain might stop in one attempt and go on in the next.

Limits: what is read back is all of a unit's files so far, pictures included.
"""

from collections import defaultdict
from collections.abc import Collection
from typing import Any, Final

import numpy as np

from actors.records import MEMORY_VECTORS, Row, parse_unit_id
from cluster.ledger import Ledger
from cluster.receipts import Receipt
from pipelines.drift import facts_of

# What the next round needs of a pair, without a memory and with it.
BARE_COLUMNS: Final = ("chain_id", "pair_id", "seed", "description")
COLUMNS: Final = (
    *BARE_COLUMNS,
    "parent_id",
    "stop_reason",
    "phash",
    "image_similarity_first",
    "image_similarity_previous",
    "text_similarity_first",
    "text_similarity_previous",
    "image_embedding",
    "text_embedding",
)


def remember(chain: Row, pair: Row, is_loop: bool) -> Row:
    """The memory of a chain after the round that `pair` is of; `chain` is as it was before.

    In a loop a pair without a parent is a beginning: nothing before it is remembered.
    """
    if is_loop and pair["parent_id"] is None:
        chain = {}
    memory: Row = {"past": [*(chain.get("past") or ()), facts_of(pair)]}
    for name in MEMORY_VECTORS:
        source, _, of = name.rpartition("_")
        vector = to_bytes(pair[source])
        memory[name] = vector if of == "previous" else (chain.get(name) or vector)
    return memory


def to_bytes(vector: Any) -> bytes | None:
    """A vector as a chain carries it."""
    return None if vector is None else np.asarray(vector, "<f4").tobytes()


def to_list(vector: bytes | None) -> list[float] | None:
    """A vector as a pair holds it; exact both ways."""
    return None if vector is None else np.frombuffer(vector, "<f4").tolist()


def read_past(
    ledger: Ledger, unit_id: str, chain_ids: Collection[str], next_round: int
) -> dict[str, list[Row]]:
    """The pairs of these chains before `next_round`, by chain and in the order of rounds.

    Where replays took the place of rows, those of the highest generation up to the unit's own.
    """
    rounds = [
        (round_index, receipt)
        for round_index in range(next_round)
        for receipt in _receipts(ledger, unit_id, round_index)
    ]
    found: defaultdict[str, dict[int, Row]] = defaultdict(dict)
    for round_index, receipt in rounds:
        for pair in ledger.read_pairs(receipt, COLUMNS).to_pylist():
            if pair["chain_id"] in chain_ids:
                found[pair["chain_id"]][round_index] = pair
    return {chain_id: [of[r] for r in sorted(of)] for chain_id, of in found.items()}


def _receipts(ledger: Ledger, unit_id: str, round_index: int) -> list[Receipt]:
    """Those that hold rows of the unit's chains in a round, by generation."""
    own = parse_unit_id(unit_id)
    if own.generation == 0 or round_index >= own.first_round:
        receipt = ledger.receipt(unit_id, round_index)
        return [receipt] if receipt is not None else []
    names = [name for name, of_round in ledger.committed() if of_round == round_index]
    before = [
        (parse_unit_id(name).generation, name)
        for name in names
        if parse_unit_id(name).unit_index == own.unit_index
    ]
    earlier = [name for generation, name in sorted(before) if generation < own.generation]
    receipts = [ledger.receipt(name, round_index) for name in earlier]
    return [one for one in receipts if one is not None]
