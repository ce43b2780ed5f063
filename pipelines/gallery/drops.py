"""What the filters of a run have dropped, from the tables that `pairloom filter` left beside it.

Limits: tables of other commits than those that are there now are left out, they judged another
dataset.
"""

import io
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from cluster.ledger import Ledger
from pipelines.filters.report import FOLDER, digest_commits


@dataclass(frozen=True, kw_only=True)
class Drops:
    """One filter: pairs that it keeps, by round, and dropped ones by their first reason."""

    digest: str
    asked: str  # the filter as JSON
    kept: dict[int, int]
    reasons: dict[str, int]


def read_drops(ledger: Ledger) -> list[Drops]:
    """Every filter that judged exactly what is committed now, by digest."""
    keys = ledger.store.list(FOLDER)
    if not keys:
        return []
    commits = digest_commits(ledger.receipts())
    return [_read(ledger, key) for key in keys if key.endswith(f"/{commits}.parquet")]


def _read(ledger: Ledger, key: str) -> Drops:
    kept, reasons = Counter[int](), Counter[str]()
    with pq.ParquetFile(io.BytesIO(ledger.store.read(key))) as file:
        metadata: dict[bytes, bytes] = file.schema_arrow.metadata or {}
        for batch in file.iter_batches(columns=["pair_id", "is_kept", "reason"]):
            rows: list[dict[str, Any]] = batch.to_pylist()
            for row in rows:
                if row["is_kept"]:
                    kept[int(row["pair_id"].rpartition("-")[2])] += 1
                else:
                    reasons[row["reason"]] += 1
    return Drops(
        digest=key.split("/")[1],
        asked=_asked(metadata.get(b"pairloom.filter", b"{}")),
        kept=dict(sorted(kept.items())),
        reasons=dict(reasons.most_common()),
    )


def _asked(data: bytes) -> str:
    """The fields of a filter that ask for something."""
    value: dict[str, Any] = json.loads(data)
    nothing = (None, [], {}, "keep", True, {"min": None, "max": None})
    return json.dumps({k: v for k, v in value.items() if v not in nothing and k != "missing"})
