"""What a person reads during and after a run: how far it is and where to look, from its ledger.

Limits: sees commits, not processes: a run that has not committed for long may be dead, or slow.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actors.records import is_replay
from cluster.errors import PairloomError
from cluster.ledger import Ledger
from cluster.receipts import Receipt
from cluster.run_record import read_run
from cluster.storage import is_local, local_path, open_store
from pipelines import seeds as seed_tables
from pipelines.contact_sheet import draw_sheet, read_chains
from pipelines.overview import can_show_datasets
from pipelines.run_totals import Saved, Totals, count_reasons, count_stop_reasons

SHEET_NAME = "contact_sheet.png"
SHEET_CHAINS = 6


@dataclass(frozen=True, kw_only=True)
class RoundStatus:
    """One round, summed over the units that committed it, and over what was replayed of them."""

    round_index: int
    num_units: int
    num_pairs: int
    num_error_rows: int
    num_stopped: int


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a run is."""

    output: str
    mode: str
    num_chains: int | None  # None while the author is still writing the seeds
    num_rounds: int
    num_units: int | None
    rounds: list[RoundStatus]
    error_reasons: dict[str, int]
    stop_reasons: dict[str, int]  # chains that a rule stopped
    started_at: str
    last_commit_at: str | None
    is_finished: bool

    @property
    def num_pairs(self) -> int:
        """Committed so far."""
        return sum(one.num_pairs for one in self.rounds)


def open_ledger(output: str) -> tuple[Ledger, dict[str, Any]]:
    """The ledger of an existing run, and its run record.

    Raises:
        ValueError: there is no run.
    """
    store = open_store(output)
    run = read_run(store)
    return Ledger(store, run["fingerprint"]), run


def read_status(output: str) -> Status:
    """Reads seed table and receipts; works while the run is on, and on another machine."""
    ledger, run = open_ledger(output)
    config = run["record"]
    table = seed_tables.find_table(open_store(output))
    receipts = ledger.receipts()
    num_chains = None if table is None else table.num_rows
    num_units = None if num_chains is None else -(-num_chains // config["unit_size"])
    rounds = [_sum_round(receipts, index) for index in range(config["num_rounds"])]
    return Status(
        output=output,
        mode=config["mode"],
        num_chains=num_chains,
        num_rounds=config["num_rounds"],
        num_units=num_units,
        rounds=rounds,
        error_reasons=count_reasons(receipts),
        stop_reasons=count_stop_reasons(receipts),
        started_at=run["started_at"],
        last_commit_at=max((receipt.committed_at for receipt in receipts), default=None),
        is_finished=is_finished(cells_of(receipts), num_chains, config),
    )


def cells_of(receipts: Iterable[Receipt]) -> list[tuple[str, int]]:
    """Unit and round of each."""
    return [(one.unit_id, one.round_index) for one in receipts]


def is_finished(
    cells: Collection[tuple[str, int]], num_chains: int | None, record: Mapping[str, Any]
) -> bool:
    """Whether the run's own units are through all rounds, and every replay that was begun too.

    Args:
        cells: unit and round of each commit.
        num_chains: None while the author is still writing the seeds.
        record: the config that the run was begun with.
    """
    if num_chains is None:
        return False
    num_rounds: int = record["num_rounds"]
    num_units = -(-num_chains // record["unit_size"])
    begun = {unit_id for unit_id, _ in cells if is_replay(unit_id)}
    ended = {unit_id for unit_id, r in cells if r == num_rounds - 1}
    num_own = sum(not is_replay(unit_id) for unit_id, _ in cells)
    return num_own == num_units * num_rounds and begun <= ended


def describe_status(status: Status) -> str:
    """The status as a page of text."""
    state = "finished" if status.is_finished else "not finished"
    lines = [
        f"{status.output}: {state}, {status.num_pairs} pairs, mode {status.mode}, "
        f"begun {status.started_at}",
        "round   units        pairs       errors      stopped",
    ]
    for one in status.rounds:
        units = f"{one.num_units}/{'?' if status.num_units is None else status.num_units}"
        lines.append(
            f"{one.round_index:5d} {units:>7s} {one.num_pairs:12d} {one.num_error_rows:12d} "
            f"{one.num_stopped:12d}"
        )
    lines += [f"  {number} {reason}" for reason, number in status.error_reasons.items()]
    lines += [f"  {number} chains {rule}" for rule, number in status.stop_reasons.items()]
    if status.last_commit_at:
        ago = datetime.now(UTC) - datetime.fromisoformat(status.last_commit_at)
        lines.append(f"last commit {ago.total_seconds():.0f} s ago")
    return "\n".join(lines)


def write_sheet(output: str) -> str:
    """Writes a contact sheet of the first chains; returns its path.

    Raises:
        PairloomError: nothing is committed yet.
    """
    ledger, run = open_ledger(output)
    chains = read_chains(ledger, SHEET_CHAINS)
    if not chains:
        raise PairloomError(f"{output} has no pairs yet: nothing to show")
    folder = local_path(output) if is_local(output) else Path.cwd()
    path = folder / SHEET_NAME
    draw_sheet(chains, run["record"]["num_rounds"]).save(path)
    return str(path)


def describe_totals(totals: Totals) -> str:
    """What a run ended with and how to look at it."""
    reasons = list(totals.error_reasons.items())
    lines = [
        f"dataset    {totals.output.rstrip('/')}/data",
        f"pairs      {totals.num_pairs} from {totals.num_chains} chains x {totals.num_rounds} "
        f"rounds; {totals.num_resumed} rows were there before",
        f"error rows {totals.num_error_rows}; {totals.num_stopped} rows not grown, after an error "
        "row or a rule",
        *(f"           {number} {reason}" for reason, number in reasons[:5]),
        *_describe_saved(totals.stop_reasons, totals.saved),
        f"speed      {totals.pairs_per_s:.2f} pairs/s over {totals.wall_s:.1f} s, start included",
        f"look       pairloom look {totals.output}",
        *(["", *_snippet(totals.output)] if is_local(totals.output) else []),
    ]
    return "\n".join(lines)


def _describe_saved(reasons: dict[str, int], saved: Saved) -> list[str]:
    """Which rules stopped how many chains, and what that spared; nothing where none did."""
    if not saved.num_chains:
        return []
    rules = ", ".join(f"{number} {rule}" for rule, number in reasons.items())
    lines = [f"stopped    {saved.num_chains} chains: {rules}; {saved.num_rows} rows not grown"]
    if saved.model_s is None:
        return lines
    return [
        *lines,
        f"saved      {saved.model_s:.0f} s of the models, {saved.gpu_s:.0f} GPU-seconds",
    ]


def _snippet(output: str) -> list[str]:
    files = f"{local_path(output)}/data/round=*/*.parquet"
    missing = [] if can_show_datasets() else ["# pip install datasets"]
    return [
        *missing,
        "from datasets import load_dataset",
        f'pairs = load_dataset("parquet", data_files={json.dumps(files)}, split="train")',
        'pairs[0]["image"].show(); print(pairs[0]["description"])',
    ]


def _sum_round(receipts: list[Receipt], round_index: int) -> RoundStatus:
    of_round = [receipt for receipt in receipts if receipt.round_index == round_index]
    return RoundStatus(
        round_index=round_index,
        num_units=sum(not is_replay(one.unit_id) for one in of_round),
        num_pairs=sum(receipt.num_pairs for receipt in of_round),
        num_error_rows=sum(one.num_error_rows - one.num_replaced_errors for one in of_round),
        num_stopped=sum(one.num_stopped - one.num_replaced_stopped for one in of_round),
    )
