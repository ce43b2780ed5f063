"""What is left to do of a run: its units with the table that they slice, read from the ledger.

Limits: one listing of receipts and the plans of replays are all that is looked at; no receipt is
read, unless a replay was cut off.
"""

from dataclasses import dataclass

import pyarrow as pa

from cluster.ledger import Ledger
from pipelines.replay import resume_replays
from pipelines.units import Unit, plan_remaining, slice_units, to_starts


@dataclass(frozen=True, kw_only=True)
class Work:
    """Units to do; they slice `starts`. `committed` is every (unit, round) that has its receipt."""

    units: list[Unit]
    starts: pa.Table
    committed: frozenset[tuple[str, int]]
    num_chains: int


def plan_work(ledger: Ledger, seeds: pa.Table, unit_size: int, num_rounds: int) -> Work:
    """The rounds without a receipt, of the run's units and of replays that were cut off."""
    starts = to_starts(seeds)
    committed = ledger.committed()
    units = slice_units(starts, unit_size)
    next_rounds = ledger.next_rounds([unit.unit_id for unit in units], committed)
    remaining = plan_remaining(units, next_rounds, num_rounds)
    replays = resume_replays(ledger, committed, num_rounds, offset=starts.num_rows)
    return Work(
        units=remaining + replays.units,
        starts=pa.concat_tables([starts, replays.starts]),
        committed=frozenset(committed),
        num_chains=seeds.num_rows,
    )
