"""Makes the damaged units of a run anew: takes them out of its ledger, and runs.

Of a unit that is damaged in round r everything from r on goes, because the later rounds were grown
from it, and with it the replays of what had failed there: what fails again is for another replay.
Before the first delete all is checked that the run would refuse afterwards. Plans of replays go
first, then receipts, the last round first: a crash in between leaves a unit that is merely
unfinished, or one of which a second repair is needed.

Limits: what is made anew has the same ids and rng_seeds; on other hardware not the same pixels. The
tables in `seeds/` can be made anew from a file only; `run.json` cannot.
"""

import logging
from collections.abc import Collection, Mapping

import pyarrow as pa

from actors.records import parse_unit_id
from cluster.config import to_dict
from cluster.errors import CommitError
from cluster.ledger import Ledger
from cluster.run_record import open_run
from cluster.session import session
from cluster.storage import open_store
from pipelines import seeds as seed_tables
from pipelines.attempt import Attempt, identify_models, prepare, read_tables
from pipelines.replay import PLAN_FOLDER, read_plans, remove_planned
from pipelines.run import loop_demands, run
from pipelines.run_totals import Totals
from pipelines.synergy import SynergyConfig
from pipelines.verify import Report, describe_report, verify_run

logger = logging.getLogger(__name__)


def repair(config: SynergyConfig) -> Totals:
    """Makes the units anew that `verify` finds damaged, finishes the run, and verifies it again.

    Raises:
        ValueError: nothing is damaged, or it is what cannot be made anew.
        CommitError: it is still damaged afterwards.
        PairloomError: as for `run`.
    """
    report = verify_run(config.output)
    if report.is_sound:
        raise ValueError(f"{config.output} is sound: nothing to repair")
    damaged = {one.file for one in report.findings if one.kind == "seeds"}
    tables = _read_tables(config, damaged) if damaged else {}
    if not damaged:
        prepare(config)
    # Joined before the first delete: whether the pools have room shows here.
    with session(config.cluster, demands=loop_demands(config)):
        _take_out(config, report, tables)
        totals = run(config)
    report = verify_run(config.output)
    if not report.is_sound:
        raise CommitError(describe_report(report))
    return totals


def _read_tables(config: SynergyConfig, damaged: Collection[str | None]) -> dict[str, pa.Table]:
    """Seeds and fresh descriptions as their files give them, if these still hold what the run
    began with."""
    if seed_tables.SEEDS_KEY in damaged and config.seeds.path is None:
        raise ValueError(
            f"{config.output}: the seed table is damaged, and a model wrote it: put "
            f"{seed_tables.SEEDS_KEY} back from a copy"
        )
    store = open_store(config.output, is_single_writer=config.is_single_writer)
    tables, fields = read_tables(config, identify_models(config), {})
    open_run(store, to_dict(config), fields)  # refuses other seeds, and any other config
    return tables


def _take_out(config: SynergyConfig, report: Report, tables: Mapping[str, pa.Table]) -> None:
    """Takes out what is damaged, and puts `tables` back; here the first delete is."""
    if tables:
        store = open_store(config.output, is_single_writer=config.is_single_writer)
        for key, table in tables.items():
            store.delete(key)
            seed_tables.commit_table(store, table, key)
        report = verify_run(config.output)  # it had ended at the first of them
    attempt = prepare(config)
    if report.num_replay:
        _remove_plans(attempt, report)
        report = verify_run(config.output)  # receipts that nothing has planned are damaged
    num_removed = remove_damaged(attempt.ledger, report.damaged_units)
    gone = attempt.snapshot.remove_missing()
    logger.info(
        "%d units are damaged: %d commits (unit, round) and %d files in the Delta log were removed",
        len(report.damaged_units),
        num_removed,
        len(gone),
    )


def _remove_plans(attempt: Attempt, report: Report) -> None:
    """Removes plans that cannot be read: their rows are dead letters again, for another replay."""
    for finding in report.findings:
        if finding.file is not None and finding.file.startswith(f"{PLAN_FOLDER}/"):
            logger.info("not readable, and removed: %s", finding.file)
            attempt.store.delete(finding.file)


def find_condemned(
    damaged: Mapping[str, int], committed: Collection[tuple[str, int]]
) -> set[tuple[str, int]]:
    """Every (unit, round) that rests on a damaged one; `damaged` has each unit's first such round.

    Pure.
    """
    return {
        (other_id, round_index)
        for unit_id, first in damaged.items()
        for other_id, round_index in committed
        if (other_id == unit_id and round_index >= first) or _is_built_on(other_id, unit_id, first)
    }


def find_undone(damaged: Mapping[str, int], planned: Collection[str]) -> set[str]:
    """The planned replays that rest on a damaged unit, begun or not; likewise pure."""
    return {
        other_id
        for unit_id, first in damaged.items()
        for other_id in planned
        if _is_built_on(other_id, unit_id, first)
    }


def _is_built_on(other_id: str, unit_id: str, first: int) -> bool:
    """A replay rests on the rows of its unit index from its first round on, in every lower
    generation."""
    other, of = parse_unit_id(other_id), parse_unit_id(unit_id)
    is_later = other.unit_index == of.unit_index and other.generation > of.generation
    return is_later and other.first_round >= first


def remove_damaged(ledger: Ledger, damaged: Mapping[str, int]) -> int:
    """Removes the receipts that rest on damaged units, then their files; returns how many."""
    planned = {unit_id for plan in read_plans(ledger).values() for unit_id in plan}
    remove_planned(ledger, find_undone(damaged, planned))
    condemned = find_condemned(damaged, ledger.committed())
    files: list[str] = []
    for unit_id, round_index in sorted(condemned, key=lambda one: (one[1], one[0]), reverse=True):
        try:
            receipt = ledger.receipt(unit_id, round_index)
            files += receipt.files if receipt is not None else []
        except CommitError as error:
            logger.info("not readable, and removed: %s", error)
        ledger.remove(unit_id, round_index)
    ledger.remove_files(files)
    return len(condemned)
