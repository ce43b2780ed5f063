"""The worker groups of a manifest as node types of Ray's autoscaler, for a cluster of fake nodes.

    with autoscaling_nodes(head_resources(job), node_types(job)) as nodes:

Limits: whole CPUs and GPUs and the limits of the first container, as KubeRay reads them; memory is
left out, since fake nodes have that of their machine.
"""

import math
from typing import Any

from k8s_render import GPU, Manifest, PodTemplate, cluster_spec, quantity


def node_types(resource: Manifest) -> dict[str, dict[str, Any]]:
    """Of a RayJob or RayCluster: what `available_node_types` holds of each worker group."""
    return {
        group["groupName"]: _node_type(group)
        for group in cluster_spec(resource)["workerGroupSpecs"]
    }


def head_resources(resource: Manifest) -> dict[str, int]:
    """CPUs, and GPUs if any, that Ray counts on the head."""
    return _resources(cluster_spec(resource)["headGroupSpec"])


def _node_type(group: Manifest) -> dict[str, Any]:
    hosts = group.get("numOfHosts", 1)
    node_type: dict[str, Any] = {
        "resources": _resources(group),
        "node_config": {},
        "min_workers": group["minReplicas"] * hosts,
        "max_workers": group["maxReplicas"] * hosts,
        "labels": dict(group.get("labels", {})),
    }
    if "idleTimeoutSeconds" in group:
        node_type["idle_timeout_s"] = float(group["idleTimeoutSeconds"])
    if "priority" in group:
        node_type["priority"] = group["priority"]
    return node_type


def _resources(group: Manifest) -> dict[str, int]:
    own, params = group.get("resources", {}), group.get("rayStartParams", {})
    pod = PodTemplate(name="", part="", template=group["template"], group=group)
    found = {
        "CPU": own.get("CPU") or params.get("num-cpus") or pod.limit("cpu"),
        "GPU": own.get("GPU") or params.get("num-gpus") or pod.limit(GPU),
    }
    amounts = {name: math.ceil(quantity(str(value))) for name, value in found.items()}
    return {name: value for name, value in amounts.items() if value or name == "CPU"}
