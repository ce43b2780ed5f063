"""What Prometheus sees of a run: a real scrape of Ray's agents, held against the run's totals."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from scraped_run import ENVIRONMENT, PRICE

from actors.reasons import Reason
from cluster.grafana import PANELS
from cluster.metrics import METRICS, OTHER, RETRY_KINDS, find_metric

# Two attempts under a scraper: 50 s of the 15 minutes that every change may take.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RULES = ROOT / "k8s" / "components" / "monitoring" / "rules.yaml"
NEEDS_GPU = {"ray_node_gpus_utilization"}  # Ray asks the GPUs' driver for it
NAME = re.compile(r"\b(ray_(?!io_)\w+)\b")
OF_RAY = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId", "le"}

Saw = dict[str, Any]


@pytest.fixture(scope="module")
def saw(tmp_path_factory: pytest.TempPathFactory) -> Saw:
    """What tests/support/scraped_run.py saw."""
    script = ROOT / "tests" / "support" / "scraped_run.py"
    folder = tmp_path_factory.mktemp("scraped")
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "saw.json").read_text())


def _sums(samples: list[Any], name: str, *tags: str) -> dict[tuple[str, ...], float]:
    """Over all processes: by the values of these tags."""
    sums = Counter[tuple[str, ...]]()
    for found, labels, value in samples:
        if found == f"ray_{name}":
            sums[tuple(labels[tag] for tag in tags)] += value
    return dict(sums)


def test_counters_are_the_totals_of_the_run(saw: Saw) -> None:
    after = saw["after_first"]
    assert saw["totals"] == {"num_pairs": 27, "num_stopped": 2}
    assert _sums(after, "pairloom_pairs_committed_total") == {(): 27}
    assert _sums(after, "pairloom_stopped_rows_total") == {(): 2}
    reasons = _sums(after, "pairloom_error_rows_total", "reason")
    assert {code: n for (code,), n in reasons.items() if n} == saw["error_reasons"]
    assert set(reasons) == {(str(code),) for code in (*Reason, OTHER)}, "there from the start, at 0"
    assert not any(name.startswith("ray_pairloom") for name in saw["before"])


def test_a_replica_that_died_once_is_a_restart_and_a_retry(saw: Saw) -> None:
    after = saw["after_first"]
    restarts = _sums(after, "pairloom_replica_restarts_total", "pool")
    assert restarts == {("generator",): 1, ("captioner",): 0}
    retries = _sums(after, "pairloom_retries_total", "pool", "kind")
    assert retries["generator", "replica_died"] >= 1
    assert {kind for (pool, kind), n in retries.items() if n} == {"replica_died"}
    assert {kind for _, kind in retries} == set(RETRY_KINDS)


def test_calls_and_commits_are_in_their_buckets(saw: Saw) -> None:
    after = saw["after_first"]
    # Units of 4, 4 and 2 chains; of the second one a chain fails in the first of three rounds.
    fill = _sums(after, "pairloom_batch_fill_ratio_bucket", "pool", "le")
    below = {float(le): n for (pool, le), n in fill.items() if pool == "captioner"}
    assert (below[0.5625], below[0.8125], below[0.9375], below[1.0625]) == (3, 5, 5, 9)
    assert _sums(after, "pairloom_batch_fill_ratio_count", "pool")["captioner",] == 9
    mean = _sums(after, "pairloom_batch_fill_ratio_sum", "pool")["captioner",] / 9
    assert mean == pytest.approx((4 * 1.0 + 2 * 0.75 + 3 * 0.5) / 9)
    assert _sums(after, "pairloom_commit_seconds_count") == {(): 9}


def test_seconds_and_cost_are_those_of_the_replicas(saw: Saw) -> None:
    after = saw["after_first"]
    busy = _sums(after, "pairloom_replica_busy_seconds_total", "pool")
    assert busy["generator",] >= 9 * 0.3
    held = _sums(after, "pairloom_gpu_seconds_total", "pool")
    assert held["generator",] >= busy["generator",] > busy["captioner",]
    cost = _sums(after, "pairloom_cost_total")[()]
    assert cost == pytest.approx(sum(held.values()) * PRICE / 3600)


def test_gauges_show_the_pools_at_work(saw: Saw) -> None:
    states = {
        (labels["pool"], labels["state"]): value
        for name, labels, value in saw["gauges"]
        if name == "ray_pairloom_pool_replicas" and value
    }
    assert states["generator", "ready"] == states["captioner", "ready"] == 1
    queues = {labels["pool"] for name, labels, _ in saw["gauges"] if name.endswith("queue_rows")}
    assert queues == {"generator", "captioner"}


def test_an_attempt_that_goes_on_counts_its_own_and_nothing_goes_back(saw: Saw) -> None:
    first, second = saw["after_first"], saw["after_second"]
    again = _sums(second, "pairloom_pairs_committed_total")[()]
    assert again == 27 + saw["num_again"] < 54
    before = {(name, tuple(sorted(labels.items()))): value for name, labels, value in first}
    after = {(name, tuple(sorted(labels.items()))): value for name, labels, value in second}
    ours = [one for one in before if "pairloom" in one[0] and one[0].endswith("_total")]
    assert ours
    assert all(after[one] >= before[one] for one in ours)


def test_series_are_few_because_tags_have_closed_values(saw: Saw) -> None:
    closed = {
        "pool": {"generator", "captioner"},
        "kind": set(RETRY_KINDS),
        "reason": {*map(str, Reason), OTHER},
        "state": {"ready", "loading", "pending", "leaving", "over"},
        "replica": {"0"},
    }
    tags = {series: set(one.tags) for one in METRICS for series in one.series}
    for name, labels, _ in [*saw["after_second"], *saw["gauges"]]:
        if "pairloom" in name:
            own = {key for key in labels if not key.startswith("otel_")} - OF_RAY
            assert own == tags[name], name
            assert all(labels[key] in closed[key] for key in own)


def test_every_metric_of_list_panels_and_alerts_is_in_the_scrape(saw: Saw) -> None:
    found = {name for name, _, _ in [*saw["after_first"], *saw["gauges"]]}
    rules = [rule for group in yaml.safe_load(RULES.read_text())["spec"]["groups"]
             for rule in group["rules"]]  # fmt: skip
    asked = {name for rule in rules for name in NAME.findall(rule["expr"])}
    queries = [query for panel in PANELS for query in panel.queries.values()]
    asked |= {name for query in queries for name in NAME.findall(query)}
    asked |= {series for one in METRICS for series in one.series}
    assert asked - found - NEEDS_GPU == set()
    assert ("ray_object_store_memory", "SPILLED") in {
        (name, labels.get("Location")) for name, labels, _ in saw["after_first"]
    }
    assert find_metric("pairloom_cost_total").series == ("ray_pairloom_cost_total",)
