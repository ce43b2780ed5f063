"""Everything that is checked of an overlay, by one function.

Limits: what an API server, its admission hooks and a network plugin would say is not among it.
"""

import functools
import json

import kubernetes_validate
from k8s_crds import KINDS, schema_errors
from k8s_entry import entry_problems
from k8s_monitoring import monitoring_problems
from k8s_network import around_problems
from k8s_operator import operator_problems
from k8s_pods import pod_problems
from k8s_render import Manifest, Problem, ray_resource

KUBERNETES = "1.33"
# Kinds of the Prometheus operator, whose keys k8s_monitoring.py knows.
WITHOUT_SCHEMA = {"PodMonitor", "PrometheusRule"}


def schema_problems(manifests: list[Manifest]) -> list[Problem]:
    """Unknown keys, missing ones and wrong types."""
    found: list[str] = []
    for one in manifests:
        name = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] in KINDS:
            found += [f"{name} {error}" for error in schema_errors(one)]
        elif one["kind"] not in WITHOUT_SCHEMA:
            found += [f"{name} {error}" for error in _core_errors(json.dumps(one))]
    return [Problem("schema", one) for one in found]


@functools.cache  # the mistakes change one manifest of twenty each
def _core_errors(text: str) -> list[str]:
    try:
        kubernetes_validate.validate(json.loads(text), KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []


def problems(manifests: list[Manifest]) -> list[Problem]:
    """What is wrong with the manifests of an overlay; a wrong shape is told alone."""
    found = schema_problems(manifests)
    if found:
        return found
    return [
        *operator_problems(ray_resource(manifests)),
        *pod_problems(manifests),
        *around_problems(manifests),
        *entry_problems(manifests),
        *monitoring_problems(manifests),
    ]
