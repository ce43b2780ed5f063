"""Whether what Prometheus is told to do can be done: ports and pods exist, metrics too.

Limits: there is no schema of the Prometheus operator here; the keys that manifests use are known.
"""

import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from k8s_render import ROOT, Manifest, Problem, of_kind, ray_pods, selects

from cluster.metrics import METRICS

ENDPOINT_KEYS = {"port", "interval", "relabelings", "path", "scheme"}
RULE_KEYS = {"alert", "expr", "for", "labels", "annotations"}
METRIC = re.compile(r"\b(?:ray|autoscaler)_\w+\b")
NODE_LABELS = {"namespace"}  # what the operator puts on every series by itself
WORDS_OF_RULES = {"ray_io_cluster", "ray_io_group"}


@cache
def known_metrics() -> frozenset[str]:
    """Ours, and those that the dashboards of the Ray at hand ask for."""
    names = {series for one in METRICS for series in one.series}
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    panels = Path(spec.origin).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    for path in panels.glob("*.py"):
        names |= set(METRIC.findall(path.read_text()))
    return frozenset(names)


def monitoring_problems(manifests: list[Manifest]) -> list[Problem]:
    found: list[str] = []
    for monitor in of_kind(manifests, "PodMonitor"):
        found += _monitor_problems(monitor, manifests)
    for rules in of_kind(manifests, "PrometheusRule"):
        found += _rule_problems(rules, _labels_of_series(manifests))
    return [Problem("monitoring", one) for one in found]


def _monitor_problems(monitor: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    spec = monitor["spec"]
    if set(spec) != {"selector", "podMetricsEndpoints"}:
        yield f"PodMonitor has the keys {sorted(spec)}"
    pods = ray_pods(manifests)
    for pod in pods:
        if not selects(spec["selector"], pod.labels):
            yield f"PodMonitor does not see {pod.name}"
    ports = {port["name"] for pod in pods for port in pod.container.get("ports", [])}
    for endpoint in spec["podMetricsEndpoints"]:
        if set(endpoint) - ENDPOINT_KEYS or endpoint.get("port") not in ports:
            yield f"PodMonitor: no pod has what this endpoint says: {endpoint}"
    for pod in pods:
        metrics = [one for one in pod.container.get("ports", []) if one["name"] == "metrics"]
        wanted = pod.group.get("rayStartParams", {}).get("metrics-export-port")
        if [str(one["containerPort"]) for one in metrics] != [wanted]:
            yield f"{pod.name}: the port `metrics` is not metrics-export-port {wanted}"
    yield from _reach_problems(spec, manifests)


def _reach_problems(spec: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    numbers = {port["name"]: port["containerPort"] for pod in ray_pods(manifests)
               for port in pod.container.get("ports", [])}  # fmt: skip
    opened = {
        port["port"]
        for policy in of_kind(manifests, "NetworkPolicy")
        for rule in policy["spec"].get("ingress") or []
        if any(
            peer.get("namespaceSelector", {})
            .get("matchLabels", {})
            .get("kubernetes.io/metadata.name")
            == "monitoring"
            for peer in rule.get("from", [])
        )
        for port in rule.get("ports", [])
    }
    for endpoint in spec["podMetricsEndpoints"]:
        if numbers.get(endpoint.get("port")) not in opened:
            yield f"Prometheus may not reach port {endpoint.get('port')}"


def _labels_of_series(manifests: list[Manifest]) -> set[str]:
    return NODE_LABELS | {
        one["targetLabel"]
        for monitor in of_kind(manifests, "PodMonitor")
        for endpoint in monitor["spec"]["podMetricsEndpoints"]
        for one in endpoint.get("relabelings", [])
    }


def _rule_problems(rules: Manifest, labels: set[str]) -> Iterator[str]:
    headings = set(re.findall(r"^### (\S+)$", (ROOT / "k8s/README.md").read_text(), re.MULTILINE))
    for rule in (one for group in rules["spec"]["groups"] for one in group["rules"]):
        name = rule.get("alert")
        if set(rule) - RULE_KEYS or not name or not rule.get("expr"):
            yield f"rule {name} has the keys {sorted(rule)}"
            continue
        unknown = set(METRIC.findall(rule["expr"])) - known_metrics() - WORDS_OF_RULES
        if unknown:
            yield f"alert {name} waits for metrics that nobody exports: {sorted(unknown)}"
        missing = {one for one in WORDS_OF_RULES if one in rule["expr"]} - labels
        if missing:
            yield f"alert {name} groups by {sorted(missing)}, which no relabeling makes"
        yield from _words_problems(name, rule, headings)


def _words_problems(name: str, rule: dict[str, Any], headings: set[str]) -> Iterator[str]:
    if rule.get("labels", {}).get("severity") not in ("warning", "critical"):
        yield f"alert {name} has no severity"
    if rule.get("annotations", {}).get("runbook") not in headings:
        yield f"alert {name}: k8s/README.md has no heading for its runbook"
    used = set(re.findall(r"\$labels\.(\w+)", rule.get("annotations", {}).get("summary", "")))
    by = {
        word for part in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for word in part.split(", ")
    }
    if used - by:
        yield f"alert {name} speaks of {sorted(used - by)}, which its expression sums away"
