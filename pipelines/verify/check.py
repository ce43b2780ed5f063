"""Reads one run from end to end and reports; safe while the run is on, by the order of reading.

The Delta log and the folders are listed before the receipts, the plans of replays after them: what
is committed meanwhile can only be missing from the older view, which is not damage.

Limits: it cannot see what was never written down or was taken away whole: the last receipts of a
unit, removed together with their files and their entries in the Delta log, look like rounds that
are not committed yet. Of a whole file that was rewritten with a matching receipt, only what other
rows hold against it is seen: a description of the last round, or any in mode resample, has no such
row. Receipts are kept in memory, about a kilobyte each. A damaged run.json or seed table ends the
check there, because the rest could only be judged by them.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.verify import snapshot as snapshots
from pipelines.verify.layout import (
    FRESH_KEY,
    RUN_KEY,
    SEED_COLUMNS,
    SEEDS_KEY,
    Receipt,
    Run,
    UnitName,
    check_digest,
    check_seeds,
    find_beginnings,
    parse_file_key,
    parse_plan_key,
    parse_receipt_key,
    parse_unit,
    read_plan,
    read_receipt,
    read_run,
    slice_units,
    usable,
)
from pipelines.verify.prefix import Prefix
from pipelines.verify.report import Finding, Report, count_findings, damaged_units
from pipelines.verify.rows import Rows
from pipelines.verify.shards import Commit, check_commit

READ_AHEAD = 64  # results that wait for their turn; they are without images


@dataclass
class _Ledger:
    """The receipts, and the plans of replays, as far as they can be read."""

    replays: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    receipts: list[Receipt] = field(default_factory=list[Receipt])
    unreadable: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    strays: list[str] = field(default_factory=list[str])
    findings: list[Finding] = field(default_factory=list[Finding])


@dataclass
class _Tally:
    """What is added up on the way."""

    findings: list[Finding] = field(default_factory=list[Finding])
    num_rounds: int = 0
    num_chains: int = 0
    num_receipts: int = 0
    num_files: int = 0
    num_bytes: int = 0
    num_orphans: int = 0
    num_not_folded: int = 0
    states: dict[str, int] = field(default_factory=dict[str, int])


def verify_run(output: str) -> Report:
    """Checks everything under `output`.

    Raises:
        ValueError: there is no run.
        StoreError: the store does not answer, so nothing can be said.
    """
    prefix = Prefix(output)
    tally = _Tally()
    try:
        data = prefix.read(RUN_KEY)
    except FileNotFoundError:
        raise ValueError(f"{output} holds no run: it has no {RUN_KEY}") from None
    try:
        run = read_run(data.to_pybytes())
    except ValueError as error:
        tally.findings.append(Finding(kind="run", sentence=str(error), file=RUN_KEY))
    else:
        tally.num_rounds = run.num_rounds
        _check_run(prefix, run, tally)
    return _report(output, tally)


def _check_run(prefix: Prefix, run: Run, tally: _Tally) -> None:
    snapshot = snapshots.read_snapshot(prefix)
    files = [key for folder in ("data", "dead_letter") for key in prefix.list(folder)]
    receipt_keys = _list_receipts(prefix)
    tables = _read_tables(prefix, run, bool(receipt_keys), tally)
    if tables is None:
        return
    seeds, fresh = tables
    units = slice_units(seeds.column("chain_id").to_pylist(), run.unit_size)
    tally.num_chains = seeds.num_rows
    ledger = _Ledger()
    _read_plans(prefix, run, list(units.values()), ledger)
    _read_receipts(prefix, run, units, receipt_keys, ledger)
    tally.findings += ledger.findings
    tally.num_receipts = len(ledger.receipts)
    with Rows(run) as rows:
        rows.add_chains(seeds, units)
        rows.add_beginnings(find_beginnings(usable(seeds, "chain_id"), usable(fresh, "seed"), run))
        rows.add_units(_units_of(ledger, units))
        rows.add_replayed(ledger.replays)
        rows.add_unreadable(sorted(ledger.unreadable))
        _check_commits(prefix, ledger, rows, tally)
        tally.states, findings = rows.judge()
        tally.findings += findings
    refs = {ref.key: ref for receipt in ledger.receipts for ref in receipt.files}
    pairs = {key: ref for key, ref in refs.items() if ref.is_pairs}
    tally.num_not_folded, findings = snapshots.compare(snapshot, pairs, ledger.unreadable)
    tally.findings += findings
    strays = [key for key in files if key not in refs and not key.startswith(snapshots.LOG)]
    strays = [key for key in strays if parse_file_key(key) not in ledger.unreadable]
    tally.num_orphans = len(strays) + len(ledger.strays)


def _check_commits(prefix: Prefix, ledger: _Ledger, rows: Rows, tally: _Tally) -> None:
    done: list[tuple[Receipt, bool]] = []
    for commit in _read_commits(prefix, ledger.receipts):
        done.append((commit.receipt, commit.is_whole))
        tally.findings += commit.findings
        tally.num_files += len(commit.receipt.files)
        tally.num_bytes += commit.num_bytes
        for entries in commit.entries:
            rows.add_entries(entries)
    rows.add_receipts(done)


def _read_commits(prefix: Prefix, receipts: list[Receipt]) -> Iterator[Commit]:
    with ThreadPoolExecutor(prefix.num_readers) as readers:
        for start in range(0, len(receipts), READ_AHEAD):
            part = receipts[start : start + READ_AHEAD]
            yield from readers.map(lambda receipt: check_commit(prefix, receipt), part)


def _read_tables(
    prefix: Prefix, run: Run, has_receipts: bool, tally: _Tally
) -> tuple[pa.Table, pa.Table] | None:
    """Seeds and fresh descriptions, which may be the same; None where one is damaged."""
    checks: dict[str, Callable[[pa.Table], None]] = {SEEDS_KEY: partial(check_seeds, run=run)}
    if run.inject is not None and run.inject.digest is not None:
        checks[FRESH_KEY] = partial(check_digest, expected=run.inject.digest)
    tables: list[pa.Table] = []
    for key, check in checks.items():
        try:
            tables.append(_read_seeds(prefix, key, check, has_receipts=has_receipts))
        except ValueError as error:
            tally.findings.append(Finding(kind="seeds", sentence=str(error), file=key))
    return (tables[0], tables[-1]) if len(tables) == len(checks) else None


def _read_seeds(
    prefix: Prefix, key: str, check: Callable[[pa.Table], None], *, has_receipts: bool
) -> pa.Table:
    """A table of seeds; without rows where none is due yet. `ValueError` where it is damaged."""
    try:
        data = prefix.read(key)
    except FileNotFoundError:
        if has_receipts:
            raise ValueError("the table is gone, though rounds are committed") from None
        return pa.table({name: pa.array([], pa.string()) for name in SEED_COLUMNS})
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(columns=list(SEED_COLUMNS))
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"does not open as Parquet: {error}") from error
    if table.schema.names != list(SEED_COLUMNS):
        raise ValueError(f"has the columns {table.schema.names}, {SEED_COLUMNS} are needed")
    check(table)
    return table


def _list_receipts(prefix: Prefix) -> list[str]:
    """Twice, because a listing is no snapshot: a later page may be newer, and show a gap."""
    return sorted(prefix.list("receipts").keys() | prefix.list("receipts").keys())


def _read_plans(prefix: Prefix, run: Run, base: list[list[str]], ledger: _Ledger) -> None:
    for key in sorted(prefix.list("replays")):
        generation = parse_plan_key(key)
        if generation is None:
            ledger.strays.append(key)
            continue
        try:
            ledger.replays |= read_plan(prefix.read(key).to_pybytes(), generation, run, base)
        except (ValueError, FileNotFoundError) as error:
            sentence = f"not a plan that can be believed: {error}"
            ledger.findings.append(Finding(kind="replay", sentence=sentence, file=key))


def _read_receipts(
    prefix: Prefix, run: Run, units: dict[str, list[str]], keys: list[str], ledger: _Ledger
) -> None:
    known = units | ledger.replays
    with ThreadPoolExecutor(prefix.num_readers) as readers:
        for start in range(0, len(keys), READ_AHEAD):
            part = keys[start : start + READ_AHEAD]
            for key, read in zip(
                part, readers.map(lambda key: _read_one(prefix, run, known, key), part), strict=True
            ):
                _sort_in(ledger, key, read)


def _read_one(
    prefix: Prefix, run: Run, known: dict[str, list[str]], key: str
) -> Receipt | str | None:
    """A receipt, what is wrong with it, or None for a file that is none."""
    where = parse_receipt_key(key)
    if where is None:
        return None
    unit = _known(*where, run, known)
    if unit is None:
        return "neither the run nor a plan of replays has such a unit and round"
    try:
        return read_receipt(prefix.read(key).to_pybytes(), unit, where[1], run.fingerprint)
    except (ValueError, FileNotFoundError) as error:
        return f"not a receipt that can be believed: {error}"


def _known(
    unit_id: str, round_index: int, run: Run, known: dict[str, list[str]]
) -> UnitName | None:
    unit = parse_unit(unit_id)
    if unit is None or not unit.start_round <= round_index < run.num_rounds:
        return None
    return unit if unit_id in known else None


def _sort_in(ledger: _Ledger, key: str, read: Receipt | str | None) -> None:
    where = parse_receipt_key(key)
    if where is None or read is None:
        ledger.strays.append(key)
        return
    if isinstance(read, Receipt):
        ledger.receipts.append(read)
        return
    ledger.unreadable.add(where)
    ledger.findings.append(
        Finding(kind="receipt", sentence=read, unit_id=where[0], round_index=where[1], file=key)
    )


def _units_of(ledger: _Ledger, units: dict[str, list[str]]) -> list[UnitName]:
    """The base units, the planned replays, and whatever has a receipt."""
    names = {*units, *ledger.replays, *(receipt.unit.unit_id for receipt in ledger.receipts)}
    names |= {unit_id for unit_id, _ in ledger.unreadable}
    return [unit for unit in map(parse_unit, sorted(names)) if unit is not None]


def _report(output: str, tally: _Tally) -> Report:
    counts = count_findings(tally.findings)
    states = tally.states
    return Report(
        output=output,
        num_chains=tally.num_chains,
        num_rounds=tally.num_rounds,
        num_receipts=tally.num_receipts,
        num_files=tally.num_files,
        num_bytes=tally.num_bytes,
        num_pairs=states.get("pair", 0),
        num_error_rows=states.get("error", 0),
        num_stopped=states.get("stopped", 0),
        num_not_committed=states.get("not_committed", 0),
        num_unaccounted=states.get("lost", 0) + states.get("unknown", 0),
        num_run=counts["run"],
        num_seeds=counts["seeds"],
        num_replay=counts["replay"],
        num_receipt=counts["receipt"],
        num_corrupt=counts["corrupt"],
        num_lost=counts["lost"],
        num_duplicated=counts["duplicated"],
        num_unexpected=counts["unexpected"],
        num_lineage=counts["lineage"],
        num_snapshot=counts["snapshot"],
        num_orphans=tally.num_orphans,
        num_not_folded=tally.num_not_folded,
        damaged_units=damaged_units(tally.findings),
        findings=tally.findings,
    )
