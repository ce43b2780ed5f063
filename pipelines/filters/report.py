"""`pairloom filter`: judges the pairs of a run, writes the decisions beside it, and counts them.

    filters/<digest of the filter>/<digest of the commits>.parquet
        pair_id, is_kept, reason, reasons

The pairs are not touched; other thresholds are another table. The same filter over the same commits
is the same file.

Limits: the table is in memory whole, some 100 bytes a pair.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.config import to_dict
from cluster.errors import CommitError
from cluster.ledger import Ledger
from cluster.receipts import Receipt
from cluster.run_record import read_run
from cluster.shards import decode_shard, encode_shard
from cluster.storage import Store, open_store
from pipelines.filters.config import FilterConfig
from pipelines.filters.judge import Judged, judge_run

FOLDER = "filters"


@dataclass(frozen=True, kw_only=True)
class FilterReport:
    """What a filter came to; `reasons` count each dropped pair once, `failing` every rule."""

    output: str
    digest: str
    file: str
    num_pairs: int
    num_kept: int
    num_dropped: int
    reasons: dict[str, int]
    failing: dict[str, int]
    num_unknown: dict[str, int]
    rounds: dict[int, tuple[int, int]]  # round -> pairs, kept


def filter_run(output: str, config: FilterConfig) -> FilterReport:
    """Judges what is committed now and writes the decisions.

    Raises:
        ValueError: there is no run, or no pair has a score that the filter asks for.
        CommitError: a committed file is damaged, or the decisions are there and others.
    """
    store = open_store(output)
    receipts = Ledger(store, read_run(store)["fingerprint"]).receipts()
    judged = judge_run(output, receipts, config)
    key = f"{FOLDER}/{config.digest}/{digest_commits(receipts)}.parquet"
    table = decisions(judged, config)
    if not store.put_if_absent(key, encode_shard(table).data) and not _is_same(store, key, table):
        raise CommitError(
            f"{key} in {store.uri} holds other decisions than this version of pairloom makes: "
            "remove it, and filter again"
        )
    num_kept = int(judged.is_kept.sum())
    return FilterReport(
        output=output,
        digest=config.digest,
        file=key,
        num_pairs=len(judged.masks),
        num_kept=num_kept,
        num_dropped=len(judged.masks) - num_kept,
        reasons=judged.count_reasons(),
        failing=judged.count_failing(),
        num_unknown=judged.num_unknown,
        rounds=count_rounds(judged),
    )


def _is_same(store: Store, key: str, table: pa.Table) -> bool:
    """Whether these decisions lie there: another pyarrow writes the same rows as other bytes."""
    try:
        return decode_shard(store.read(key)).cast(table.schema).equals(table)
    except ValueError:  # no Parquet, or other columns
        return False


def decisions(judged: Judged, config: FilterConfig) -> pa.Table:
    """One row a pair: `pair_id`, `is_kept`, the first rule it fails, and all of them.

    The filter stands in the schema's metadata.
    """
    first, failing = judged.reasons()
    table = pa.table(
        {
            "pair_id": judged.table.column("pair_id"),
            "is_kept": pa.array(judged.is_kept),
            "reason": pa.array(first, pa.string()),
            "reasons": pa.array(failing, pa.list_(pa.string())),
        }
    )
    return table.replace_schema_metadata({"pairloom.filter": json.dumps(to_dict(config))})


def count_rounds(judged: Judged) -> dict[int, tuple[int, int]]:
    """Pairs and kept pairs of every round."""
    rounds = np.asarray(judged.table.column("round_index").to_numpy())
    kept = judged.is_kept
    return {
        int(one): (int((rounds == one).sum()), int(kept[rounds == one].sum()))
        for one in np.unique(rounds)
    }


def digest_commits(receipts: Iterable[Receipt]) -> str:
    """16 hex digits that change with any commit: which units, rounds and bytes there are."""
    lines = sorted(
        f"{one.unit_id} {one.round_index} {one.data.sha256 if one.data else '-'}\n"
        for one in receipts
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def describe_filter(report: FilterReport, config: FilterConfig) -> str:
    """The report as a page of text."""
    share = report.num_kept / report.num_pairs if report.num_pairs else 1.0
    lines = [
        f"{report.output}: {report.num_kept} of {report.num_pairs} pairs kept ({share:.1%}), "
        f"{report.num_dropped} dropped",
        f"filter     {json.dumps(config.asked) if config.asked else 'none: all is kept'}",
        "round        pairs         kept",
        *(f"{one:5d} {pairs:12d} {kept:12d}" for one, (pairs, kept) in report.rounds.items()),
    ]
    if report.reasons:
        lines.append(" dropped   fails it   reason")
    for name in report.failing:
        lines.append(f"{report.reasons.get(name, 0):8d} {report.failing[name]:10d}   {name}")
    for name, number in report.num_unknown.items():
        is_kept = config.lets_unknown_pass(name)
        fate = "the rule let them pass" if is_kept else f"dropped as no_{name}"
        lines.append(f"{number} pairs have no {name}: {fate}")
    lines.append(f"decisions  {report.output.rstrip('/')}/{report.file}")
    return "\n".join(lines)
