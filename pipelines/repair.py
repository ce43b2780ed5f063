"""Makes the damaged units of a run anew: takes them out of its ledger, and runs.

Of a unit that is damaged in round r everything from r on goes, because the later rounds were grown
from it, and with it the replays of what had failed there. Receipts go first, the last round first:
a crash in between leaves a unit that is merely unfinished.

Limits: what is made anew has the same ids and rng_seeds; on other hardware not the same pixels. The
seed table can be made anew from a seed file only; `run.json` cannot.
"""

import logging
from collections.abc import Collection, Mapping

from actors.records import PAIR_SCHEMA
from cluster.errors import CommitError
from cluster.ledger import Ledger
from cluster.run_record import read_run
from cluster.snapshot import Snapshot
from cluster.storage import open_store
from pipelines.replay import parse_unit_id
from pipelines.run import run
from pipelines.run_totals import Totals
from pipelines.seeds import SEEDS_KEY
from pipelines.synergy import SynergyConfig
from pipelines.verify import verify_run

logger = logging.getLogger(__name__)


def repair(config: SynergyConfig) -> Totals:
    """Makes the units anew that `verify` finds damaged, and finishes the run.

    Raises:
        ValueError: nothing is damaged, or it is what cannot be made anew.
        PairloomError: as for `run`.
    """
    report = verify_run(config.output)
    if report.is_sound:
        raise ValueError(f"{config.output} is sound: nothing to repair")
    if report.num_seeds and config.seeds.path is None:
        raise ValueError(
            f"{config.output}: the seed table is damaged, and a model wrote it: put {SEEDS_KEY} "
            "back from a copy"
        )
    store = open_store(config.output, is_single_writer=config.is_single_writer)
    ledger = Ledger(store, read_run(store)["fingerprint"])
    if report.num_seeds:
        store.delete(SEEDS_KEY)
    num_removed = remove_damaged(ledger, report.damaged_units)
    gone = Snapshot(store.uri, PAIR_SCHEMA).remove_missing()
    logger.info(
        "%d units are damaged: %d commits (unit, round) and %d files in the Delta log were removed",
        len(report.damaged_units),
        num_removed,
        len(gone),
    )
    return run(config)


def find_condemned(
    damaged: Mapping[str, int], committed: Collection[tuple[str, int]]
) -> set[tuple[str, int]]:
    """Every (unit, round) that rests on a damaged one; `damaged` has each unit's first such round.

    Pure. A replay rests on the rows of its unit index from its first round on, in every lower
    generation.
    """
    condemned: set[tuple[str, int]] = set()
    for unit_id, first in damaged.items():
        of = parse_unit_id(unit_id)
        for other_id, round_index in committed:
            other = parse_unit_id(other_id)
            is_same = other_id == unit_id and round_index >= first
            is_built_on_it = (
                other.unit_index == of.unit_index
                and other.generation > of.generation
                and other.first_round >= first
            )
            if is_same or is_built_on_it:
                condemned.add((other_id, round_index))
    return condemned


def remove_damaged(ledger: Ledger, damaged: Mapping[str, int]) -> int:
    """Removes the receipts that rest on damaged units, then their files; returns how many."""
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
