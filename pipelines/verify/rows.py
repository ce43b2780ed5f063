"""All rows of a run together, in DuckDB: which (chain, round) has what, and does it fit.

The questions are `rules.py`; here the rows get in and the answers out.

Limits: texts are compared by md5, kept from mistakes and not from a forger: whoever can rewrite a
file and its receipt can also write a whole new run. The database lies in the system's temporary
folder, about 150 bytes a row.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.verify.layout import Beginning, Receipt, Run, UnitName
from pipelines.verify.report import Finding
from pipelines.verify.rules import FAULTS, STATES, TABLES

# Rows that are handed over at once: an insert of its own for every file cost 3 ms each.
INSERT_ROWS = 20_000
MEMORY_LIMIT = "1GB"  # of DuckDB's own 80 % of the machine: what is more goes to the disk


class Rows:
    """The seed table, the receipts and the rows of one run; use as a context."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._folder = tempfile.TemporaryDirectory(prefix="pairloom-verify-")
        path = f"{self._folder.name}/rows.duckdb"
        self._db = duckdb.connect(path, config={"memory_limit": MEMORY_LIMIT})
        self._db.execute(TABLES)
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0

    def __enter__(self) -> "Rows":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._db.close()
        self._folder.cleanup()

    def add_chains(self, seeds: pa.Table, units: dict[str, list[str]]) -> None:
        """The seed table and how it is cut into base units."""
        names = [unit_id for unit_id, chains in units.items() for _ in chains]
        indices = [index for index, chains in enumerate(units.values()) for _ in chains]
        self._insert(
            "chains",
            "chain_id, unit_id, unit_index, md5_number(seed), error is not null",
            pa.table(
                {
                    "chain_id": seeds.column("chain_id"),
                    "unit_id": names,
                    "unit_index": indices,
                    "seed": seeds.column("seed"),
                    "error": seeds.column("error"),
                }
            ),
        )

        self._insert("beginnings", "chain_id, 0, md5_number(seed)", seeds)

    def add_beginnings(self, beginnings: Iterator[Beginning]) -> None:
        """The rounds in which chains begin anew, each with its text."""
        names = ("chain_id", "round_index", "seed")
        while part := list(islice(beginnings, INSERT_ROWS)):
            table = pa.table(dict(zip(names, map(list, zip(*part, strict=True)), strict=True)))
            self._insert("beginnings", "chain_id, round_index, md5_number(seed)", table)

    def add_units(self, units: Iterable[UnitName]) -> None:
        """The base units, the replays that are planned, and any that has a receipt."""
        rows = [(one.unit_id, one.unit_index, one.generation, one.start_round) for one in units]
        self._insert_rows("units", ["unit_id", "unit_index", "generation", "start_round"], rows)

    def add_replayed(self, replays: Mapping[str, Sequence[str]]) -> None:
        """The chains of each planned replay."""
        rows = [(unit_id, chain_id) for unit_id, chains in replays.items() for chain_id in chains]
        self._insert_rows("replayed", ["unit_id", "chain_id"], rows)

    def add_receipts(self, receipts: Iterable[tuple[Receipt, bool]]) -> None:
        """Receipts, each with whether its files could all be read."""
        rows = [
            (
                one.unit.unit_id,
                one.round_index,
                is_whole,
                one.num_stopped,
                one.num_replaced_errors,
                one.num_replaced_stopped,
            )
            for one, is_whole in receipts
        ]
        names = ["unit_id", "round_index", "is_whole", "num_stopped"]
        names += ["num_replaced_errors", "num_replaced_stopped"]
        self._insert_rows("receipts", names, rows)

    def add_unreadable(self, commits: Iterable[tuple[str, int]]) -> None:
        """(unit, round) of receipts that are there and cannot be read."""
        rows = [(unit_id, round_index, False) for unit_id, round_index in commits]
        self._insert_rows("receipts", ["unit_id", "round_index", "is_whole"], rows)

    def add_entries(self, table: pa.Table) -> None:
        """Rows of one file, in `ENTRY_SCHEMA`."""
        self._waiting.append(table)
        self._num_waiting += table.num_rows
        if self._num_waiting >= INSERT_ROWS:
            self._flush()

    def judge(self) -> tuple[dict[str, int], list[Finding]]:
        """How many (chain, round) are in which state, and what does not fit; call once."""
        self._flush()
        self._db.execute(self._fill_in(STATES))
        findings: list[Finding] = []
        for kind, sentence, query in FAULTS:
            for unit_id, round_index, num_rows, example in self._fetch(self._fill_in(query)):
                findings.append(
                    Finding(
                        kind=kind,
                        sentence=f"{num_rows} {sentence}" + (f": {example}" if example else ""),
                        unit_id=unit_id,
                        round_index=round_index,
                        num_rows=num_rows,
                    )
                )
        states = self._fetch("select state, count(*) from current group by all")
        return dict(states), findings

    def _flush(self) -> None:
        if not self._waiting:
            return
        columns = "unit_id, round_index, is_pair, chain_id, parent_id, md5_number(seed), "
        columns += "md5_number(prompt), md5_number(description), stage, stop_reason"
        self._insert("entries", columns, pa.concat_tables(self._waiting))
        self._waiting, self._num_waiting = [], 0

    def _insert_rows(self, name: str, columns: list[str], rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        table = pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)))
        self._insert(name, ", ".join(columns), table)

    def _insert(self, name: str, columns: str, table: pa.Table) -> None:
        self._db.register("incoming", table)
        into = name if "(" in columns else f"{name} ({columns})"
        self._db.execute(f"insert into {into} select {columns} from incoming")
        self._db.unregister("incoming")

    def _fill_in(self, sql: str) -> str:
        is_loop = "true" if self._run.is_loop else "false"
        return sql.replace("$num_rounds", str(self._run.num_rounds)).replace("$is_loop", is_loop)

    def _fetch(self, query: str) -> list[Any]:
        return self._db.execute(query).fetchall()
