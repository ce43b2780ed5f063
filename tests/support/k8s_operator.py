"""What KubeRay's operator refuses by its own code and the schemas' CEL rules, said again in Python.

Read in `ray-operator/controllers/ray/utils/validation.go` and the RayJob schema of KubeRay, as of
2026-08 (tests/k8s/crds/README.md). Only what can happen to a RayJob or RayCluster is here.

Limits: restated by hand; another version of KubeRay may refuse more.
"""

import re
from collections.abc import Iterator

import yaml
from k8s_render import Manifest, Problem, cluster_spec

MAX_JOB_NAME, MAX_CLUSTER_NAME = 47, 53  # room for what is put behind it
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
OWN_RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")
MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
DELETION_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")


def operator_problems(resource: Manifest) -> list[Problem]:
    """Why the operator would not start this RayJob or RayCluster."""
    found = list(_name_problems(resource))
    found += _cluster_problems(cluster_spec(resource))
    if resource["kind"] == "RayJob":
        found += _job_problems(resource["spec"])
        found += _deletion_problems(resource["spec"])
    return [Problem("operator", message) for message in found]


def _name_problems(resource: Manifest) -> Iterator[str]:
    name = resource["metadata"]["name"]
    most = MAX_JOB_NAME if resource["kind"] == "RayJob" else MAX_CLUSTER_NAME
    if len(name) > most:
        yield f"name {name!r} has more than {most} characters"
    if not DNS_LABEL.fullmatch(name):
        yield f"name {name!r} is no DNS-1035 label"


def _cluster_problems(spec: Manifest) -> Iterator[str]:
    head = spec["headGroupSpec"]
    groups = [head | {"groupName": "head"}, *spec["workerGroupSpecs"]]
    is_autoscaled = bool(spec.get("enableInTreeAutoscaling"))
    options = spec.get("autoscalerOptions", {})
    is_v2 = is_autoscaled and options.get("version") == "v2"
    names = [group["groupName"] for group in groups]
    if len(set(names)) != len(names):
        yield f"groups share a name: {names}"
    for group in groups:
        yield from _group_problems(group, is_autoscaled=is_autoscaled, is_v2=is_v2)
    containers = head["template"]["spec"]["containers"]
    env = (
        {one["name"]: one.get("value") for one in containers[0].get("env", [])}
        if containers
        else {}
    )
    if "RAY_enable_autoscaler_v2" in env and ("version" in options or not is_autoscaled):
        yield "RAY_enable_autoscaler_v2 is set beside autoscalerOptions.version, or without it"
    if spec.get("gcsFaultToleranceOptions") is None and "RAY_REDIS_ADDRESS" in env:
        yield "RAY_REDIS_ADDRESS without gcsFaultToleranceOptions"
    if "REDIS_USERNAME" in env or "redis-username" in head.get("rayStartParams", {}):
        yield "a redis username outside of gcsFaultToleranceOptions"
    if spec.get("authOptions", {}).get("mode") == "token":
        version = re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+).*", spec.get("rayVersion", ""))
        if not version or tuple(map(int, version.groups())) < (2, 52, 0):
            yield f"token authentication with rayVersion {spec.get('rayVersion')!r}, under 2.52.0"
    if spec.get("managedBy", MANAGERS[0]) not in MANAGERS:
        yield f"managedBy {spec['managedBy']!r}"


def _group_problems(group: Manifest, *, is_autoscaled: bool, is_v2: bool) -> Iterator[str]:
    name, params = group["groupName"], group.get("rayStartParams", {})
    if not group["template"]["spec"].get("containers"):
        yield f"{name} has no container"
    if group.get("resources") and any(params.get(key) for key in OWN_RESOURCES):
        yield f"{name} has resources of its own and in rayStartParams"
    if "labels" in params:
        yield f"{name} has labels in rayStartParams"
    for key, value in group.get("labels", {}).items():
        if len(value) > 63 or not LABEL_VALUE.fullmatch(value):
            yield f"{name}: label {key} has the value {value!r}"
    if is_autoscaled and group.get("suspend"):
        yield f"{name} is suspended though the cluster autoscales"
    policy = group["template"]["spec"].get("restartPolicy", "Never")
    if is_v2 and policy != "Never":
        yield f"{name} restarts {policy!r} under autoscaler v2"
    if name != "head":
        least, now, most = (group.get(key, 0) for key in ("minReplicas", "replicas", "maxReplicas"))
        if not 0 <= least <= now <= most:
            yield f"{name} has minReplicas {least}, replicas {now}, maxReplicas {most}"


def _job_problems(spec: Manifest) -> Iterator[str]:
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"):
        yield f"submissionMode {mode!r}"
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        yield "suspend without shutdownAfterJobFinishes"
    if spec.get("clusterSelector"):
        yield "clusterSelector beside rayClusterSpec"
    if mode == "InteractiveMode" and spec.get("backoffLimit", 0) > 0:
        yield "backoffLimit with InteractiveMode"
    if mode == "SidecarMode" and ("submitterPodTemplate" in spec or "submitterConfig" in spec):
        yield "SidecarMode with a submitter of its own"
    if not isinstance(yaml.safe_load(spec.get("runtimeEnvYAML") or "{}"), dict):
        yield "runtimeEnvYAML is no mapping"
    if spec.get("activeDeadlineSeconds", 1) <= 0:
        yield "activeDeadlineSeconds must be positive"
    if spec.get("backoffLimit", 0) < 0:
        yield "backoffLimit must not be negative"
    if spec.get("managedBy", MANAGERS[0]) not in MANAGERS:
        yield f"managedBy {spec['managedBy']!r}"


def _deletion_problems(spec: Manifest) -> Iterator[str]:
    ttl = spec.get("ttlSecondsAfterFinished", 0)
    is_shut_down = bool(spec.get("shutdownAfterJobFinishes"))
    if ttl < 0 or (ttl > 0 and not is_shut_down):
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes and a number from 0"
    strategy = spec.get("deletionStrategy")
    if strategy is None:
        return
    rules = strategy.get("deletionRules", [])
    is_legacy = "onSuccess" in strategy or "onFailure" in strategy
    if bool(rules) == is_legacy or (is_legacy and not {"onSuccess", "onFailure"} <= set(strategy)):
        yield "deletionStrategy has either both onSuccess and onFailure, or deletionRules"
    if rules and is_shut_down:
        yield "deletionRules with shutdownAfterJobFinishes"
    yield from _rule_problems(rules, bool(spec["rayClusterSpec"].get("enableInTreeAutoscaling")))


def _rule_problems(rules: list[Manifest], is_autoscaled: bool) -> Iterator[str]:
    ttls: dict[tuple[str, str], int] = {}
    for rule in rules:
        condition, policy = rule["condition"], rule["policy"]
        if ("jobStatus" in condition) == ("jobDeploymentStatus" in condition):
            yield "a deletion rule has one of jobStatus and jobDeploymentStatus"
        if policy == "DeleteWorkers" and is_autoscaled:
            yield "DeleteWorkers on a cluster that autoscales"
        key = (condition.get("jobStatus", ""), policy)
        if key in ttls:
            yield f"two deletion rules for {key}"
        ttls[key] = condition.get("ttlSeconds", 0)
    for status in {status for status, _ in ttls}:
        times = [ttls[status, one] for one in DELETION_ORDER if (status, one) in ttls]
        if times != sorted(times):
            yield f"{status}: workers go before the cluster, the cluster before the job"
