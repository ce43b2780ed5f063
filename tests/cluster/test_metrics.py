"""cluster/metrics.py and grafana.py: one list, from which the dashboard and the docs are made.

What a real scrape shows of it: tests/integration/test_metrics.py.
"""

import os
import pickle
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cluster.dispatch import Batch, BatchQueue, Slot, state_of
from cluster.grafana import PANELS, RAY_METRICS, dashboard, to_json
from cluster.metrics import METRICS, Observer, fill_observer

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "k8s" / "components" / "monitoring" / "dashboard.json"
BESIDE = ROOT / ".venv" / "prometheus" / "usr" / "bin" / "promtool"  # where `make k8s` puts it
PROMTOOL = os.environ.get("PROMTOOL") or (str(BESIDE) if BESIDE.exists() else "")
PROMTOOL = PROMTOOL or shutil.which("promtool") or ""
NAME = re.compile(r"\bray_(?!io_)\w+\b")


def test_names_follow_the_rules_of_prometheus() -> None:
    assert len({one.name for one in METRICS}) == len(METRICS)
    for one in METRICS:
        assert re.fullmatch(r"pairloom_[a-z_]+", one.name)
        assert one.name.endswith("_total") == (one.kind == "counter")
        assert bool(one.buckets) == (one.kind == "histogram")
        assert list(one.buckets) == sorted(set(one.buckets))
        assert one.help.endswith(".")


def test_a_full_batch_counts_as_full_although_sums_come_from_middles_of_buckets() -> None:
    (fill,) = [one for one in METRICS if one.name == "pairloom_batch_fill_ratio"]
    middles = [(low + high) / 2 for low, high in zip(fill.buckets, fill.buckets[1:], strict=False)]
    assert middles == [n / 8 for n in range(1, 9)]


def test_the_dashboard_that_is_committed_is_the_one_that_is_made() -> None:
    assert DASHBOARD.read_text() == to_json(), "run `make dashboard`"


def test_every_metric_is_in_a_panel_and_every_panel_asks_for_known_ones() -> None:
    asked = {name for one in PANELS for query in one.expressions() for name in NAME.findall(query)}
    known = {series: one.name for one in METRICS for series in one.series}
    assert asked <= known.keys() | set(RAY_METRICS)
    assert {known[name] for name in asked & known.keys()} == {one.name for one in METRICS}


def test_panels_do_not_overlap_and_each_states_its_question() -> None:
    panels = dashboard()["panels"]
    assert len({(one["gridPos"]["x"], one["gridPos"]["y"]) for one in panels}) == len(panels)
    assert all(one["description"] and one["targets"] for one in panels)
    assert len({one["id"] for one in panels}) == len(panels)
    assert [len(one["targets"]) for one in panels] == [len(one.queries) for one in PANELS]


@pytest.mark.skipif(not PROMTOOL, reason="no promtool: `make k8s` unpacks Debian's")
def test_every_query_is_promql(tmp_path: Path) -> None:
    queries = [query for one in PANELS for query in one.expressions('namespace=~".*"')]
    rules = [
        {"record": f"panel_{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries)
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        [PROMTOOL, "check", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_on_profiling_has_every_metric_with_its_help_and_every_alert() -> None:
    page = (ROOT / "cluster" / "profiling.md").read_text()
    for one in METRICS:
        tags = f"{{{','.join(one.tags)}}}" if one.tags else ""
        assert f"| `ray_{one.name}{tags}` | {one.kind} | {one.help} |" in page, one.name
    rules = yaml.safe_load((DASHBOARD.parent / "rules.yaml").read_text())["spec"]["groups"]
    for rule in (rule for group in rules for rule in group["rules"]):
        assert f"| `{rule['alert']}` |" in page
    for panel in PANELS:
        assert panel.title in page


def test_an_observer_travels_without_what_ray_gave_it() -> None:
    observer = fill_observer("generator", 8)
    observer._histogram = object()
    there: Observer = pickle.loads(pickle.dumps(observer))
    assert there._histogram is None
    assert (there.tags, there.scale) == ({"pool": "generator"}, 8)


def test_a_queue_knows_its_rows() -> None:
    queue = BatchQueue()
    for arrival, (first, last) in enumerate([(0, 8), (2, 3)]):
        queue.push(Batch(0, arrival, first, last, None))
    assert queue.num_rows == 9


def test_a_replica_is_in_one_state_at_a_time() -> None:
    assert state_of(Slot(0)) == "pending"
    assert state_of(Slot(0, pid=7)) == "loading"
    assert state_of(Slot(0, pid=7, is_proving=True)) == "loading"
    assert state_of(Slot(0, pid=7, is_ready=True)) == "ready"
    assert state_of(Slot(0, pid=7, is_ready=True, is_leaving=True)) == "leaving"
    assert state_of(Slot(0, pid=7, is_leaving=True, is_over=True)) == "over"
