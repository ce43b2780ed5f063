"""Finds the chain of a pair in a run, and reads all that was committed of it.

The seed table says which unit a chain is in, so that of ten thousand units the files of one are
read, those of its replays included, each checked against the hash of its receipt.

Limits: whole files are read for the sake of one row each. Of rows that were replayed only the
latest are shown; those that they took the place of stay in their files.
"""

import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from actors.records import Row, derive_pair_id, parse_unit_id
from cluster.ledger import Ledger
from cluster.storage import open_store
from pipelines import seeds as seed_tables
from pipelines.status import open_ledger

_ID = re.compile(r"(?P<chain>[0-9a-f]{20})(?:-(?P<round>[0-9]{3}))?")


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A chain as far as it is committed.

    Attributes:
        seed: its row of the seed table.
        seed_index: the place of that row, from 0.
        pairs: by round.
        failed: the row that ended it, where one did and no replay mended it.
        files: of every pair, and of the failed row, by `pair_id`: the file in the run that has it.
        pair_id: the pair that was asked for; None where the chain was.
    """

    output: str
    chain_id: str
    seed: Row
    seed_index: int
    num_seeds: int
    num_rounds: int
    run_seed: int
    pairs: list[Row]
    failed: Row | None
    files: dict[str, str]
    pair_id: str | None

    def pair(self) -> Row:
        """The pair that was asked for.

        Raises:
            ValueError: a whole chain was, or the pair is not there; says why.
        """
        if self.pair_id is None:
            raise ValueError(
                f"{self.chain_id!r} is a chain of {len(self.pairs)} pairs: add the round, such as "
                f"{derive_pair_id(self.chain_id, 0)}"
            )
        found = next((row for row in self.pairs if row["pair_id"] == self.pair_id), None)
        if found is None:
            raise ValueError(f"{self.output} has no pair {self.pair_id!r}: {self._why_missing()}")
        return found

    def _why_missing(self) -> str:
        if self.failed is not None:
            at, reason = self.failed["round_index"], self.failed["reason"]
            return (
                f"its chain failed in round {at} ({reason}); `pairloom replay --failed` runs what "
                "failed again"
            )
        rule = self.pairs[-1].get("stop_reason") if self.pairs else None
        if rule:
            return f"the rule {rule} ended its chain in round {self.pairs[-1]['round_index']}"
        return f"{len(self.pairs)} of {self.num_rounds} rounds of its chain are committed"


def is_pair_id(word: str) -> bool:
    """Whether a word has the form of a pair's id or a chain's."""
    return _ID.fullmatch(word) is not None


def find_chain(output: str, name: str) -> Chain:
    """The chain that `name`, a `pair_id` or a `chain_id`, belongs to.

    Raises:
        ValueError: there is no run, or it has no such chain.
        CommitError: a committed file is missing or altered.
    """
    match = _ID.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{name!r} is no pair_id: must be 20 hex digits, a dash and the round in three digits"
        )
    ledger, run = open_ledger(output)
    record: dict[str, Any] = run["record"]
    seeds = seed_tables.find_table(open_store(output))
    chain_ids: list[str] = [] if seeds is None else seeds.column("chain_id").to_pylist()
    if seeds is None or match["chain"] not in chain_ids:
        raise ValueError(
            f"{output} has no chain {match['chain']!r} among its {len(chain_ids)} seeds: is the "
            "pair of another run?"
        )
    index = chain_ids.index(match["chain"])
    latest, files = _read(ledger, match["chain"], index // record["unit_size"])
    rows = [latest[round_index] for round_index in sorted(latest)]
    return Chain(
        output=output,
        chain_id=match["chain"],
        seed=seeds.slice(index, 1).to_pylist()[0],
        seed_index=index,
        num_seeds=len(chain_ids),
        num_rounds=record["num_rounds"],
        run_seed=record["run_seed"],
        pairs=[row for row in rows if "reason" not in row],
        failed=next((row for row in rows if "reason" in row), None),
        files=files,
        pair_id=name if match["round"] else None,
    )


def _read(ledger: Ledger, chain_id: str, unit_index: int) -> tuple[dict[int, Row], dict[str, str]]:
    """The chain's row of every round, that of the highest generation; and the files of them."""
    committed = [
        one for one in ledger.committed() if parse_unit_id(one[0]).unit_index == unit_index
    ]
    receipts = ledger.receipts(committed)
    receipts.sort(key=lambda one: parse_unit_id(one.unit_id).generation)
    latest: dict[int, Row] = {}
    files: dict[str, str] = {}
    for receipt in receipts:
        tables = (ledger.read_pairs(receipt), ledger.read_dead_letters(receipt))
        for table, shard in zip(tables, (receipt.data, receipt.dead_letter), strict=True):
            for row in _rows_of(table, chain_id):
                latest[receipt.round_index] = row
                assert shard is not None  # it has a row
                files[row["pair_id"]] = shard.file
    return latest, files


def _rows_of(table: pa.Table, chain_id: str) -> list[Row]:
    if "chain_id" not in table.schema.names:  # no rows
        return []
    places = [at for at, one in enumerate(table.column("chain_id").to_pylist()) if one == chain_id]
    return [row for at in places for row in table.slice(at, 1).to_pylist()]
