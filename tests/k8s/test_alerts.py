"""The alert rules, read by Prometheus' own tool: they parse, and fire when they should."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from k8s_render import K8S, ROOT, of_kind, render

from pipelines.limits import LimitsConfig

BESIDE = ROOT / ".venv" / "prometheus" / "usr" / "bin" / "promtool"  # where `make k8s` puts it
FOUND = str(BESIDE) if BESIDE.exists() else shutil.which("promtool")
PROMTOOL = os.environ.get("PROMTOOL") or FOUND

pytestmark = pytest.mark.skipif(not PROMTOOL, reason="no promtool: `make k8s` unpacks Debian's")

LABELS = 'namespace="pairloom",ray_io_cluster="c"'


def _promtool(*words: str) -> None:
    assert PROMTOOL
    done = subprocess.run([PROMTOOL, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands in the PrometheusRule, as a file of rules."""
    (manifest,) = of_kind(render(K8S / "overlays" / "gpu-spot"), "PrometheusRule")
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(yaml.safe_dump(manifest["spec"], width=1000))
    return path


def test_the_rules_are_right_by_promtool(rules: Path) -> None:
    _promtool("check", "rules", str(rules))


# The alert, series a minute as promtool writes them, when it is asked, and whether it then fires.
CASES: dict[str, tuple[str, dict[str, str], str, bool]] = {
    "no pair although there are replicas": (
        "PairloomNoCommit",
        {
            'ray_pairloom_pool_replicas{state="ready"}': "2x60",
            "ray_pairloom_pairs_committed_total": "50x60",
        },
        "30m",
        True,
    ),
    "never a pair": (
        "PairloomNoCommit",
        {'ray_pairloom_pool_replicas{state="ready"}': "2x60"},
        "30m",
        True,
    ),
    "pairs come": (
        "PairloomNoCommit",
        {
            'ray_pairloom_pool_replicas{state="ready"}': "2x60",
            "ray_pairloom_pairs_committed_total": "0+9x60",
        },
        "30m",
        False,
    ),
    "replicas have just come": (
        "PairloomNoCommit",
        {'ray_pairloom_pool_replicas{state="ready"}': "2x60"},
        "5m",
        False,
    ),
    "no node comes, and models load": (
        "PairloomNoCommit",
        {
            'ray_pairloom_pool_replicas{state="pending"}': "2x60",
            'ray_pairloom_pool_replicas{state="loading"}': "2x60",
        },
        "30m",
        False,
    ),
    "nothing runs": (
        "PairloomNoCommit",
        {'ray_pairloom_pool_replicas{state="ready"}': "0x60"},
        "30m",
        False,
    ),
    "one row of ten fails": (
        "PairloomErrorShare",
        {
            'ray_pairloom_error_rows_total{reason="text_rule"}': "0+1x60",
            "ray_pairloom_pairs_committed_total": "0+9x60",
        },
        "30m",
        True,
    ),
    "all rows fail": (
        "PairloomErrorShare",
        {'ray_pairloom_error_rows_total{reason="engine"}': "0+5x60"},
        "30m",
        True,
    ),
    "one row of a hundred fails": (
        "PairloomErrorShare",
        {
            'ray_pairloom_error_rows_total{reason="text_rule"}': "0+1x60",
            "ray_pairloom_pairs_committed_total": "0+99x60",
        },
        "30m",
        False,
    ),
    "replicas die again and again": (
        "PairloomReplicaRestarts",
        {'ray_pairloom_replica_restarts_total{pool="generator"}': "0+1x60"},
        "40m",
        True,
    ),
    "a spot node went": (
        "PairloomReplicaRestarts",
        {'ray_pairloom_replica_restarts_total{pool="generator"}': "0x10 1x60"},
        "40m",
        False,
    ),
    "objects go to disk": (
        "PairloomSpill",
        {'ray_object_store_memory{Location="SPILLED"}': "5000000000x60"},
        "30m",
        True,
    ),
    "objects stay in memory": (
        "PairloomSpill",
        {'ray_object_store_memory{Location="IN_MEMORY"}': "5000000000x60"},
        "30m",
        False,
    ),
    "GPUs wait": (
        "PairloomGpuIdle",
        {'ray_node_gpus_utilization{ray_io_group="captioner-spot"}': "5x60"},
        "40m",
        True,
    ),
    "GPUs work": (
        "PairloomGpuIdle",
        {'ray_node_gpus_utilization{ray_io_group="captioner-spot"}': "70x60"},
        "40m",
        False,
    ),
    "the store is slow": (
        "PairloomSlowCommits",
        {
            'ray_pairloom_commit_seconds_bucket{le="30"}': "0+1x60",
            'ray_pairloom_commit_seconds_bucket{le="120"}': "0+9x60",
            'ray_pairloom_commit_seconds_bucket{le="+Inf"}': "0+9x60",
        },
        "40m",
        True,
    ),
    "the store is quick": (
        "PairloomSlowCommits",
        {
            'ray_pairloom_commit_seconds_bucket{le="30"}': "0+9x60",
            'ray_pairloom_commit_seconds_bucket{le="120"}': "0+9x60",
            'ray_pairloom_commit_seconds_bucket{le="+Inf"}': "0+9x60",
        },
        "40m",
        False,
    ),
}


def _series(name: str) -> str:
    metric, _, labels = name.partition("{")
    return f"{metric}{{{LABELS}{',' if labels else ''}{labels or '}'}"


@pytest.mark.parametrize("case", CASES)
def test_an_alert_fires_when_it_should_and_only_so(case: str, rules: Path, tmp_path: Path) -> None:
    alert, series, at, is_firing = CASES[case]
    query = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    samples: list[dict[str, Any]] = [{"labels": "{}", "value": 1}] if is_firing else []
    test = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": _series(name), "values": values} for name, values in series.items()
                ],
                "promql_expr_test": [{"expr": query, "eval_time": at, "exp_samples": samples}],
            }
        ],
    }
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(test, width=1000))
    _promtool("test", "rules", str(path))


def test_the_alert_of_failing_rows_comes_before_the_run_stops_itself(rules: Path) -> None:
    groups = yaml.safe_load(rules.read_text())["groups"]
    every = [one for group in groups for one in group["rules"]]
    (rule,) = (one for one in every if one.get("alert") == "PairloomErrorShare")
    assert float(rule["expr"].rpartition(">")[2]) < LimitsConfig().max_error_share
