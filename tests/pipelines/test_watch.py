"""pipelines/watch.py: what it says; its looks: tests/faults."""

from typing import Any

from cluster.pool import PoolStats
from pipelines.watch import describe


def _stats(**more: Any) -> PoolStats:
    counts: dict[str, Any] = dict.fromkeys(
        ("num_loads", "num_restarts", "num_calls", "num_rows", "num_retries"), 0
    )
    counts |= {
        "num_replicas": 2,
        "num_replicas_ready": 2,
        "queue_length": 5,
        "in_flight": 3,
        "busy_s": 0.0,
    }
    return PoolStats(**counts | more)


def test_a_pool_is_told_about_in_one_line() -> None:
    assert describe(_stats()) == "2 replicas ready; 3 batches at work; 5 waiting"
    told = describe(_stats(waiting="of 2 replicas 1 load", last_failure="replica 0 ended: killed"))
    assert told.endswith("; of 2 replicas 1 load; last failure: replica 0 ended: killed")
