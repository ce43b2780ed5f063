"""What the filters of a run have dropped, from the tables that `pairloom filter` left beside it.

Limits: the ids of dropped pairs are in memory, some 100 bytes each. Tables of other commits than
those that are there now are left out: they judged another dataset.
"""

import io
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from cluster.config import to_dict
from cluster.ledger import Ledger
from cluster.receipts import Receipt
from pipelines.filters.columns import in_order, read_columns
from pipelines.filters.config import FilterConfig
from pipelines.filters.report import FOLDER, digest_commits
from pipelines.gallery.pages import VERBS

_SECONDS = ("pair_id", *(f"{verb}_s" for verb in VERBS))


@dataclass(frozen=True, kw_only=True)
class Drops:
    """One filter: pairs that it keeps, by round, and dropped ones by their first reason."""

    digest: str
    asked: str  # the filter as JSON
    kept: dict[int, int]
    kept_s: dict[str, float]  # by verb: seconds to draw, describe and score the pairs that it keeps
    reasons: dict[str, int]


def read_drops(ledger: Ledger) -> list[Drops]:
    """Every filter that judged exactly what is committed now, by digest."""
    keys = ledger.store.list(FOLDER)
    if not keys:
        return []
    receipts = ledger.receipts()
    commits = digest_commits(receipts)
    found = [key for key in keys if key.endswith(f"/{commits}.parquet")]
    return [_read(ledger, key, receipts) for key in found]


def _read(ledger: Ledger, key: str, receipts: list[Receipt]) -> Drops:
    kept, reasons, dropped = Counter[int](), Counter[str](), set[str]()
    with pq.ParquetFile(io.BytesIO(ledger.store.read(key))) as file:
        metadata: dict[bytes, bytes] = file.schema_arrow.metadata or {}
        for batch in file.iter_batches(columns=["pair_id", "is_kept", "reason"]):
            rows: list[dict[str, Any]] = batch.to_pylist()
            for row in rows:
                if row["is_kept"]:
                    kept[int(row["pair_id"].rpartition("-")[2])] += 1
                else:
                    reasons[row["reason"]] += 1
                    dropped.add(row["pair_id"])
    return Drops(
        digest=key.split("/")[1],
        asked=_asked(metadata.get(b"pairloom.filter", b"{}")),
        kept=dict(sorted(kept.items())),
        kept_s=_seconds(ledger, receipts, dropped),
        reasons=dict(reasons.most_common()),
    )


def _seconds(ledger: Ledger, receipts: list[Receipt], dropped: set[str]) -> dict[str, float]:
    total = dict.fromkeys(VERBS, 0.0)
    for columns in read_columns(ledger.store.uri, in_order(receipts), _SECONDS):
        rows: list[dict[str, Any]] = columns.table.to_pylist()
        for row in rows:
            if row["pair_id"] not in dropped:
                for verb in total:
                    total[verb] += row[f"{verb}_s"] or 0.0
    return total


def _asked(data: bytes) -> str:
    """The fields of a filter that are not at their defaults; of a field that is gone, all."""
    value: dict[str, Any] = json.loads(data)
    defaults = to_dict(FilterConfig())
    return json.dumps({k: v for k, v in value.items() if k not in defaults or v != defaults[k]})
