"""The Grafana dashboard of a run, made from the list of metrics: `python -m cluster.grafana`.

Prints the JSON that lies at `k8s/components/monitoring/dashboard.json` (`make dashboard` writes it
there). Each panel answers one question, and every metric of `METRICS` is in one of them.

Limits: written for Grafana 10 and later (schema 39), with one Prometheus as data source; variables
choose the data source, the namespace and the Ray cluster. What is not Kubernetes has no such labels
and is found under `All`. Of Ray's own metrics only those in `RAY_METRICS` are asked for.
"""

import json
import sys
from dataclasses import dataclass
from typing import Any, Final

from cluster.metrics import METRICS

# Of Ray, not ours; the second one only where a node has a GPU.
RAY_METRICS: Final = ("ray_object_store_memory", "ray_node_gpus_utilization")
COLUMNS, WIDTH, HEIGHT = 3, 8, 7
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
# "All" is `.*`, which also matches what has no such label.
_WHERE: Final = 'namespace=~"$namespace",ray_io_cluster=~"$cluster"'
_UNITS: Final = {
    "rows": "short",
    "replicas": "short",
    "batches": "short",
    "restarts": "short",
    "pairs": "short",
    "price": "short",
    "seconds": "s",
    "ratio": "percentunit",
    "bytes": "bytes",
    "percent": "percent",
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A question, and queries that answer it: legend -> PromQL, `@` for the labels chosen above."""

    title: str
    question: str
    unit: str
    queries: dict[str, str]

    def expressions(self, where: str = _WHERE) -> list[str]:
        """The queries with the chosen labels in place of `@`."""
        return [query.replace("@", where) for query in self.queries.values()]


def _rate(name: str, more: str = "") -> str:
    return f"rate(ray_pairloom_{name}{{@{more}}}[$__rate_interval])"


_HALF_FULL: Final = _rate("batch_fill_ratio_bucket", ',le="0.5625"')


PANELS: Final = (
    Panel(
        title="Pairs a second",
        question="Does it move, and as fast as `pairloom plan` said?",
        unit="pairs",
        queries={"pairs/s": f"sum({_rate('pairs_committed_total')})"},
    ),
    Panel(
        title="Error rows a second, by reason",
        question="What fails? Reason codes are those of actors/reasons.py.",
        unit="rows",
        queries={"{{reason}}": f"sum by (reason) ({_rate('error_rows_total')}) > 0"},
    ),
    Panel(
        title="What becomes of rows",
        question="What share fails, or is not grown because its chain failed or was stopped?",
        unit="ratio",
        queries={
            legend: f"sum({_rate(f'{kind}_rows_total')}) / (sum({_rate('error_rows_total')}) "
            f"+ sum({_rate('stopped_rows_total')}) + sum({_rate('pairs_committed_total')}))"
            for legend, kind in (("failed", "error"), ("not grown", "stopped"))
        },
    ),
    Panel(
        title="Busy share of a replica",
        question="Which model is the bottleneck? It is near 100 %, the other one waits for it.",
        unit="ratio",
        queries={
            "{{pool}}": f"sum by (pool) ({_rate('replica_busy_seconds_total')}) / sum by (pool) "
            '(ray_pairloom_pool_replicas{@,state="ready"})'
        },
    ),
    Panel(
        title="Busy share of every replica",
        question="Is one slower or idler than the others of its pool? Numbers are the pool's own.",
        unit="ratio",
        queries={
            "{{pool}} {{replica}}": "sum by (pool, replica) "
            f"({_rate('replica_busy_seconds_total')})"
        },
    ),
    Panel(
        title="Rows that wait",
        question="Where does work pile up? 0 at a pool that is not busy: it is starved.",
        unit="rows",
        queries={"{{pool}}": "sum by (pool) (ray_pairloom_pool_queue_rows{@})"},
    ),
    Panel(
        title="Replicas",
        question="Is all that was asked for at work? `pending` waits for a node.",
        unit="replicas",
        queries={"{{pool}} {{state}}": "sum by (pool, state) (ray_pairloom_pool_replicas{@}) > 0"},
    ),
    Panel(
        title="Batch fill",
        question="Are calls full? If not, unit_size is no multiple of batch_size, or rows failed.",
        unit="ratio",
        queries={
            "{{pool}}": f"sum by (pool) ({_rate('batch_fill_ratio_sum')}) "
            f"/ sum by (pool) ({_rate('batch_fill_ratio_count')})",
            "{{pool}}, at most half full": f"sum by (pool) ({_HALF_FULL}) "
            f"/ sum by (pool) ({_rate('batch_fill_ratio_count')})",
        },
    ),
    Panel(
        title="Seconds of a commit",
        question="Is the store slow? Commits wait in the background, but units wait for them.",
        unit="seconds",
        queries={
            f"p{percent}": f"histogram_quantile({percent / 100}, sum by (le) "
            f"({_rate('commit_seconds_bucket')}))"
            for percent in (50, 95)
        }
        | {
            "mean": f"sum({_rate('commit_seconds_sum')}) / sum({_rate('commit_seconds_count')})",
        },
    ),
    Panel(
        title="Retries in 10 minutes, by cause",
        question="How much is done twice, and why?",
        unit="batches",
        queries={
            "{{pool}} {{kind}}": "sum by (pool, kind) "
            "(increase(ray_pairloom_retries_total{@}[10m])) > 0"
        },
    ),
    Panel(
        title="Replicas replaced in 30 minutes",
        question="Does a model crash, or does a spot fleet churn? Retries tell which.",
        unit="restarts",
        queries={
            "{{pool}}": "sum by (pool) (increase(ray_pairloom_replica_restarts_total{@}[30m]))"
        },
    ),
    Panel(
        title="GPUs held",
        question="What is paid for? Less than the nodes have: nodes stand empty.",
        unit="replicas",
        queries={"{{pool}}": f"sum by (pool) ({_rate('gpu_seconds_total')})"},
    ),
    Panel(
        title="Cost",
        question="What did it come to so far, and what do 1000 pairs cost now?",
        unit="price",
        queries={
            "so far": "sum(ray_pairloom_cost_total{@})",
            "of 1000 pairs": "1000 * sum(increase(ray_pairloom_cost_total{@}[30m])) "
            "/ sum(increase(ray_pairloom_pairs_committed_total{@}[30m]))",
        },
    ),
    Panel(
        title="Objects on disk",
        question="Does the object store spill? Then units in flight are too many or too large.",
        unit="bytes",
        queries={"spilled": 'sum(ray_object_store_memory{@,Location="SPILLED"})'},
    ),
    Panel(
        title="GPU utilization",
        question="Do GPUs work while replicas say that they are busy?",
        unit="percent",
        queries={"{{ray_io_group}}": "avg by (ray_io_group) (ray_node_gpus_utilization{@})"},
    ),
)


def dashboard() -> dict[str, Any]:
    """What Grafana imports; the same object each time."""
    return {
        "title": "pairloom",
        "uid": "pairloom",
        "description": "A run of pairloom. Counters are this attempt's; the ledger is the truth.",
        "tags": ["pairloom", "ray"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": [_panel(number, one) for number, one in enumerate(PANELS)],
    }


def _variables() -> list[dict[str, Any]]:
    chosen = [
        {
            "name": name,
            "type": "query",
            "datasource": _SOURCE,
            "definition": query,
            "query": {"query": query, "refId": name},
            "includeAll": True,
            "allValue": ".*",
            "multi": False,
            "refresh": 2,
            "current": {"text": "All", "value": "$__all"},
        }
        for name, query in (
            ("namespace", f"label_values({METRICS[0].series[0]}, namespace)"),
            ("cluster", f"label_values({METRICS[0].series[0]}, ray_io_cluster)"),
        )
    ]
    return [{"name": "datasource", "type": "datasource", "query": "prometheus"}, *chosen]


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, COLUMNS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.question,
        "datasource": _SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": _UNITS[panel.unit], "min": 0}, "overrides": []},
        "options": {"tooltip": {"mode": "multi"}, "legend": {"displayMode": "list"}},
        "targets": [
            {"refId": "ABC"[place], "datasource": _SOURCE, "legendFormat": legend, "expr": query}
            for place, (legend, query) in enumerate(
                zip(panel.queries, panel.expressions(), strict=True)
            )
        ],
    }


def to_json() -> str:
    """The dashboard as the file has it."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(to_json())
