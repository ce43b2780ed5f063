"""Counts what a run has at its end, and proves that nothing was lost on the way.

Pure: receipts in, numbers out.

Limits: counts what receipts say; whether the files still match them is for a verifier to tell.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from actors.records import parse_unit_id
from cluster.errors import ReconcileError
from cluster.receipts import Receipt

_Place = tuple[int, int]  # unit index, round


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What one pool did in an attempt: `busy_s` are seconds of its replicas, inside the model."""

    num_loads: int
    num_rows: int
    busy_s: float
    num_gpus: float  # of a replica


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What was not grown because a rule had stopped its chain, and what that would have taken."""

    num_chains: int
    num_rows: int
    model_s: float | None  # seconds inside the models; None where this attempt asked none
    gpu_s: float | None


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What a finished run has, and what this attempt did."""

    output: str
    num_chains: int
    num_rounds: int
    num_pairs: int
    num_error_rows: int
    num_stopped: int
    error_reasons: dict[str, int]  # reason code -> error rows, commonest first
    stop_reasons: dict[str, int]  # rule -> chains that it stopped, likewise
    saved: Saved
    num_resumed: int  # rows that were committed before this attempt
    model_loads: dict[str, int]
    first_commit_s: float | None  # from the start of this attempt; None when nothing was left
    wall_s: float
    pairs_per_s: float  # of this attempt, its start included


def count_reasons(receipts: list[Receipt]) -> dict[str, int]:
    """Error rows by reason code, commonest first; without those that a replay took the place of."""
    reasons = Counter[str]()
    for receipt in receipts:
        reasons.update(receipt.error_reasons)
        reasons.subtract(receipt.replaced_reasons)
    return dict((+reasons).most_common())


def count_stop_reasons(receipts: Iterable[Receipt]) -> dict[str, int]:
    """Chains that a rule stopped, by the rule, commonest first."""
    reasons = Counter[str]()
    for receipt in receipts:
        reasons.update(receipt.stop_reasons)
    return dict(reasons.most_common())


def count_saved(receipts: Iterable[Receipt], num_rounds: int, spent: Mapping[str, Spent]) -> Saved:
    """What the rules for stopping saved, at the rate at which this attempt's models worked."""
    stops = [(one.round_index, sum(one.stop_reasons.values())) for one in receipts]
    num_rows = sum((num_rounds - 1 - r) * number for r, number in stops)
    rates = [(one.busy_s / one.num_rows, one.num_gpus) for one in spent.values() if one.num_rows]
    return Saved(
        num_chains=sum(number for _, number in stops),
        num_rows=num_rows,
        model_s=round(num_rows * sum(rate for rate, _ in rates), 3) if rates else None,
        gpu_s=round(num_rows * sum(rate * gpus for rate, gpus in rates), 3) if rates else None,
    )


def reconcile(
    receipts: list[Receipt],
    before: Collection[tuple[str, int]],
    *,
    output: str,
    num_chains: int,
    num_rounds: int,
    spent: Mapping[str, Spent],
    started_at: float,
    ended_at: float,
) -> Totals:
    """Adds up: seeds x rounds = pairs + error rows + stopped, or something was lost.

    Args:
        receipts: every receipt of the run.
        before: the (unit, round) that had one when this attempt began.
        spent: what each pool did in this attempt.
        started_at: and `ended_at`: of this attempt, seconds since 1970.

    Raises:
        ReconcileError: it does not add up.
    """
    pairs = sum(receipt.num_pairs for receipt in receipts)
    errors, stopped = (sum(counts.values()) for counts in _count_rest(receipts))
    expected = num_chains * num_rounds
    if expected != pairs + errors + stopped:
        raise ReconcileError(
            f"{num_chains} chains x {num_rounds} rounds = {expected}, but the ledger of {output} "
            f"has {pairs} pairs + {errors} error rows + {stopped} stopped"
        )
    new = [r for r in receipts if (r.unit_id, r.round_index) not in before]
    commits = [datetime.fromisoformat(receipt.committed_at).timestamp() for receipt in new]
    wall_s = ended_at - started_at
    return Totals(
        output=output,
        num_chains=num_chains,
        num_rounds=num_rounds,
        num_pairs=pairs,
        num_error_rows=errors,
        num_stopped=stopped,
        error_reasons=count_reasons(receipts),
        stop_reasons=count_stop_reasons(receipts),
        saved=count_saved(receipts, num_rounds, spent),
        num_resumed=sum(receipt.num_rows for receipt in receipts) - sum(r.num_rows for r in new),
        model_loads={name: one.num_loads for name, one in spent.items()},
        first_commit_s=round(min(commits) - started_at, 2) if commits else None,
        wall_s=round(wall_s, 2),
        pairs_per_s=round(sum(receipt.num_pairs for receipt in new) / wall_s, 3),
    )


def _count_rest(receipts: Iterable[Receipt]) -> tuple[Counter[_Place], Counter[_Place]]:
    """Error rows and rows that were not grown, by the units of the run and by round."""
    errors, stopped = Counter[_Place](), Counter[_Place]()
    for one in receipts:
        place = (parse_unit_id(one.unit_id).unit_index, one.round_index)
        errors[place] += one.num_error_rows - one.num_replaced_errors
        stopped[place] += one.num_stopped - one.num_replaced_stopped
    for counts in (errors, stopped):
        below = [place for place, number in counts.items() if number < 0]
        if below:
            raise ReconcileError(
                f"unit {below[0][0]} round {below[0][1]}: replays take the place of more rows than "
                "had failed, so some were replayed twice: `pairloom verify` says which"
            )
    return errors, stopped
