"""What the card says of a run, as numbers: counts, models, drift, cost, one chain as an example.

Only what receipts, run record and rows hold: the same for every attempt to publish.

Limits: what loading, idle time and failed calls cost stands in `spent/` alone, for all of them
together. GPUs a replica are those that the run was begun with.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.records import Row
from cluster.ledger import Ledger
from cluster.receipts import Receipt
from pipelines.drift import FIRSTS
from pipelines.filters import Judged
from pipelines.filters.config import SCORES
from pipelines.filters.report import count_rounds
from pipelines.filters.rules import numbers
from pipelines.publish.destination import Claim
from pipelines.publish.plan import Plan
from pipelines.run_totals import count_reasons, count_stop_reasons

MODELS = {"generator": "draw_s", "captioner": "describe_s", "scorer": "score_s"}
TIMES = tuple(MODELS.values())
# What `judge_run` is to read for this module.
FACT_COLUMNS = (*SCORES, *TIMES)
_CONSTANT = [*MODELS, "instruction", "instruction_id", "width", "height"]
_EXAMPLE = ["chain_id", "round_index", "seed", "description", "image"]


@dataclass(frozen=True, kw_only=True)
class RoundFacts:
    """One round: what became of its chains."""

    round_index: int
    num_pairs: int
    num_kept: int
    num_error_rows: int
    num_stopped: int
    scores: dict[str, tuple[float, float, int]]  # of kept pairs: mean, standard deviation, n


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds in which models worked on the pairs, and what a GPU-hour cost, if it is known."""

    model_s: dict[str, float]  # by the column of the pairs that has them
    gpu_hours: float  # of that
    held_gpu_hours: float  # of all that the run held, for whatever; 0 where none is on record
    gpu_hour_price: float | None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the card needs to know of a run."""

    fingerprint: str
    started_at: str
    mode: str
    num_rounds: int
    num_chains: int  # that have a pair which is published
    is_finished: bool
    seeds_are_written: bool  # by a model, not by a person
    rounds: list[RoundFacts]
    error_reasons: dict[str, int]
    stop_reasons: dict[str, int]  # chains that a rule stopped
    stop_rules: Row  # as configured, without what is off
    inject: Row  # likewise; empty where no chain began anew
    drop_reasons: dict[str, int]
    num_unknown: dict[str, int]
    constants: Row
    cost: Cost
    mean_drift: dict[str, tuple[float, int]]  # Mean Cumulative Drift: over how many chains
    example: list[Row]  # one chain, by round


def gather_facts(
    ledger: Ledger,
    run: dict[str, Any],
    claim: Claim,
    judged: Judged,
    plan: Plan,
    *,
    is_finished: bool,
) -> Facts:
    """Counts, and reads the constant columns and one chain."""
    receipts = claim.receipts
    record: dict[str, Any] = run["record"]
    first = judged.files[int(plan.file_of[np.flatnonzero(judged.is_kept)[0]])]
    there = [name for name in _CONSTANT if name in first.schema.names]
    constants = ledger.read_pairs(first.receipt, there).slice(0, 1).to_pylist()[0]
    chains = judged.table.column("chain_id").filter(judged.is_kept)
    return Facts(
        fingerprint=run["fingerprint"],
        started_at=run["started_at"],
        mode=record["mode"],
        num_rounds=record["num_rounds"],
        num_chains=len(chains.unique()),
        is_finished=is_finished,
        seeds_are_written=(record.get("seeds") or {}).get("path", "") is None,
        rounds=_rounds(receipts, judged, record["num_rounds"]),
        error_reasons=count_reasons(receipts),
        stop_reasons=count_stop_reasons(receipts),
        stop_rules={k: v for k, v in (record.get("stop") or {}).items() if v not in (None, False)},
        inject=record["inject"] if (record.get("inject") or {}).get("share") else {},
        drop_reasons=judged.count_reasons(),
        num_unknown=judged.num_unknown,
        constants=dict.fromkeys(_CONSTANT) | constants,
        cost=_cost(judged, record, claim.gpu_s),
        mean_drift=_mean_drift(judged) if record["mode"] == "loop" else {},
        example=_example(ledger, judged, plan),
    )


def sampling_params(model: Row) -> Row:
    """The sampling parameters that a row holds as JSON."""
    return json.loads(model["params"]) if model.get("params") else {}


def _rounds(receipts: Sequence[Receipt], judged: Judged, num_rounds: int) -> list[RoundFacts]:
    pairs = count_rounds(judged)
    of_row = np.asarray(judged.table.column("round_index").to_numpy())
    kept = judged.is_kept
    scores = {name: numbers(judged.table.column(name)) for name in SCORES}
    found: list[RoundFacts] = []
    for index in range(num_rounds):
        of_round = [one for one in receipts if one.round_index == index]
        rows = kept & (of_row == index)
        num_pairs, num_kept = pairs.get(index, (0, 0))
        found.append(
            RoundFacts(
                round_index=index,
                num_pairs=num_pairs,
                num_kept=num_kept,
                num_error_rows=sum(
                    one.num_error_rows - one.num_replaced_errors for one in of_round
                ),
                num_stopped=sum(one.num_stopped - one.num_replaced_stopped for one in of_round),
                scores={
                    name: summary
                    for name, values in scores.items()
                    if (summary := _summarise(values[rows])) is not None
                },
            )
        )
    return found


def _mean_drift(judged: Judged) -> dict[str, tuple[float, int]]:
    """Over the published chains that have a pair with one before it."""
    encoded = judged.table.column("chain_id").combine_chunks().dictionary_encode()
    chains = np.asarray(encoded.indices.to_numpy())
    found: dict[str, tuple[float, int]] = {}
    for name, previous in FIRSTS.items():
        values = numbers(judged.table.column(name))
        has_previous = ~np.isnan(numbers(judged.table.column(previous)))
        rows = judged.is_kept & has_previous & ~np.isnan(values)
        counts = np.bincount(chains[rows])
        sums = np.bincount(chains[rows], weights=values[rows])
        if counts.any():
            means = sums[counts > 0] / counts[counts > 0]
            found[name] = float(means.mean()), len(means)
    return found


def _summarise(values: np.ndarray[Any, Any]) -> tuple[float, float, int] | None:
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    return float(known.mean()), float(known.std()), len(known)


def _cost(judged: Judged, record: dict[str, Any], gpu_s: dict[str, float]) -> Cost:
    seconds = {name: float(np.nansum(numbers(judged.table.column(name)))) for name in TIMES}
    pools: dict[str, Any] = record.get("pools") or {}
    gpus = {
        seconds_of: float((pools.get(name) or {}).get("num_gpus") or 0.0)
        for name, seconds_of in MODELS.items()
    }
    return Cost(
        model_s=seconds,
        gpu_hours=sum(seconds[name] * gpus[name] for name in TIMES) / 3600,
        held_gpu_hours=sum(gpu_s.values()) / 3600,
        gpu_hour_price=(record.get("plan") or {}).get("gpu_hour_price"),
    )


def _example(ledger: Ledger, judged: Judged, plan: Plan) -> list[Row]:
    """The first chain that kept most of its rounds."""
    kept = np.flatnonzero(judged.is_kept)
    chains = judged.table.column("chain_id").to_pylist()
    # The first file with a kept pair is one unit in one round: its chains are looked at.
    near = [int(row) for row in kept if plan.file_of[row] == plan.file_of[kept[0]]]
    by_chain: dict[str, list[int]] = {chains[row]: [] for row in near}
    for row in kept.tolist():
        if chains[row] in by_chain:
            by_chain[chains[row]].append(row)
    chosen = max(by_chain.values(), key=len)
    rows: list[Row] = []
    for row in chosen:
        receipt = judged.files[int(plan.file_of[row])].receipt
        rows += ledger.read_pairs(receipt, _EXAMPLE).slice(int(plan.row_of[row]), 1).to_pylist()
    return sorted(rows, key=lambda row: row["round_index"])
