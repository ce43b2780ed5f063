"""What every pod of an overlay must be: locked down, sized, told enough to end in time.

Limits: judges templates; what KubeRay puts into a pod later (probes, the init container that waits
for the head, variables) is not here.
"""

import re
from collections.abc import Iterator

from k8s_render import (
    GPU,
    Manifest,
    PodTemplate,
    Problem,
    all_pods,
    cluster_spec,
    of_kind,
    quantity,
    ray_pods,
    ray_resource,
)

from cluster.session import ENVIRONMENT

SECRET_NAME = re.compile(
    r"(TOKEN|SECRET|PASSWORD|ACCESS_KEY|API_KEY|CREDENTIAL)(?!\w*_(PATH|FILE)$)", re.IGNORECASE
)
SECRET_VALUE = re.compile(r"AKIA[0-9A-Z]{16}|hf_[A-Za-z]{20,}|-----BEGIN|ey[JK][\w-]{20,}\.")
HOME = "/home/pairloom"
# Paths that Ray and the libraries write to; the rest of a container is read-only.
WRITTEN = {"head": ("/tmp", "/tmp/ray", "/dev/shm", HOME), "submitter": ("/tmp", HOME)}
WRITTEN |= {"worker": WRITTEN["head"], "fetcher": WRITTEN["submitter"]}


def pod_problems(manifests: list[Manifest]) -> list[Problem]:
    found: list[Problem] = []
    is_debug = not _is_restricted(manifests)
    for pod in all_pods(manifests):
        for check, messages in (
            ("security", _security_problems(pod, is_debug=is_debug)),
            ("account", _account_problems(pod, manifests)),
            ("volumes", _volume_problems(pod, manifests)),
            ("resources", _resource_problems(pod)),
            ("secret", _secret_problems(pod)),
        ):
            found += [Problem(check, f"{pod.name}: {message}") for message in messages]
    for pod in ray_pods(manifests):
        found += [Problem("environment", f"{pod.name}: {one}") for one in _knob_problems(pod)]
        found += [Problem("memory", f"{pod.name}: {one}") for one in _memory_problems(pod)]
        found += [Problem("placement", f"{pod.name}: {one}") for one in _placement_problems(pod)]
    options = cluster_spec(ray_resource(manifests)).get("autoscalerOptions", {})
    found += [
        Problem("security", f"autoscaler: {one}") for one in _container_problems(options, set())
    ]
    return found


def _is_restricted(manifests: list[Manifest]) -> bool:
    (namespace,) = of_kind(manifests, "Namespace")
    labels = namespace["metadata"].get("labels", {})
    return labels.get("pod-security.kubernetes.io/enforce") == "restricted"


def _security_problems(pod: PodTemplate, *, is_debug: bool) -> Iterator[str]:
    context = pod.spec.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or context.get("runAsUser", 0) == 0:
        yield "may run as root: runAsNonRoot and runAsUser"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "seccompProfile is not RuntimeDefault"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(key):
            yield f"{key} is set"
    for volume in pod.spec.get("volumes", []):
        if "hostPath" in volume:
            yield f"volume {volume['name']} is a path of the host"
    for one in pod.containers:
        yield from _container_problems(one, {"SYS_PTRACE"} if is_debug else set())


def _container_problems(container: Manifest, allowed: set[str]) -> Iterator[str]:
    context = container.get("securityContext", {})
    added = set(context.get("capabilities", {}).get("add", []))
    if added - allowed or "ALL" not in context.get("capabilities", {}).get("drop", []):
        yield f"capabilities: drop ALL, add nothing but {sorted(allowed)}"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "the root file system is writable"
    if context.get("allowPrivilegeEscalation") is not False and not added & allowed:
        yield "allowPrivilegeEscalation is not false"
    if context.get("privileged") or context.get("runAsUser") == 0:
        yield "privileged, or root by its own securityContext"


def _account_problems(pod: PodTemplate, manifests: list[Manifest]) -> Iterator[str]:
    names = {one["metadata"]["name"] for one in of_kind(manifests, "ServiceAccount")}
    name = pod.spec.get("serviceAccountName")
    if name not in names or name != f"pairloom-{pod.part}":
        yield f"serviceAccountName is {name!r}, not the one made for it"
    if pod.spec.get("automountServiceAccountToken") is not (pod.part == "head"):
        yield "the Kubernetes token is for the head alone: automountServiceAccountToken"


def _volume_problems(pod: PodTemplate, manifests: list[Manifest]) -> Iterator[str]:
    volumes = {one["name"]: one for one in pod.spec.get("volumes", [])}
    mounts = {one["mountPath"]: one for one in pod.container.get("volumeMounts", [])}
    claims = {one["metadata"]["name"] for one in of_kind(manifests, "PersistentVolumeClaim")}
    names = {one["name"] for one in mounts.values()}
    if names != set(volumes):
        yield f"volumes {sorted(volumes)} and mounts {sorted(names)} differ"
        return
    for path in WRITTEN[pod.part]:
        if "emptyDir" not in volumes.get(mounts.get(path, {}).get("name", ""), {}):
            yield f"{path} is written to, and no emptyDir is there"
    for name, volume in volumes.items():
        if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
            yield f"volume {name} has no sizeLimit"
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim and claim not in claims:
            yield f"volume {name}: no claim {claim!r} is among the manifests"
    models = mounts.get("/models")
    if models and not models.get("readOnly") and pod.part != "fetcher":
        yield "the mirror of the models is writable"
    if pod.env().get("HOME") != HOME:
        yield f"HOME is not {HOME}"


def _resource_problems(pod: PodTemplate) -> Iterator[str]:
    for container in pod.containers:
        resources = container.get("resources", {})
        for name in ("cpu", "memory"):
            limit = resources.get("limits", {}).get(name)
            if limit is None or limit != resources.get("requests", {}).get(name):
                yield f"{name}: the limit is what Ray counts with, the request must be as much"
        if resources.get("limits", {}).get(GPU) != resources.get("requests", {}).get(GPU):
            yield f"{GPU}: limit and request differ"


def _secret_problems(pod: PodTemplate) -> Iterator[str]:
    for one in (each for container in pod.containers for each in container.get("env", [])):
        value = one.get("value", "")
        if value and (SECRET_NAME.search(one["name"]) or SECRET_VALUE.search(value)):
            yield f"variable {one['name']} has its secret written down: use valueFrom"


def _knob_problems(pod: PodTemplate) -> Iterator[str]:
    env = pod.env()
    for name, value in {**ENVIRONMENT, "HF_HUB_OFFLINE": "1"}.items():
        if env.get(name) != value:
            yield f"{name} is {env.get(name)!r}, a run wants {value!r} (cluster/session.py)"


def _memory_problems(pod: PodTemplate) -> Iterator[str]:
    """Object store <= /dev/shm < the container's memory, half of which is the processes' own."""
    volumes = {one["name"]: one for one in pod.spec.get("volumes", [])}
    names = {one["mountPath"]: one["name"] for one in pod.container.get("volumeMounts", [])}
    shm = volumes.get(names.get("/dev/shm", ""), {}).get("emptyDir", {})
    if shm.get("medium") != "Memory":
        yield "/dev/shm is no memory: Ray would put its object store on a disk"
    size, memory = quantity(shm.get("sizeLimit", 0)), pod.limit("memory")
    store = int(pod.group.get("rayStartParams", {}).get("object-store-memory", 0))
    if not 0 < store <= size:
        yield f"object-store-memory {store} does not fit into /dev/shm of {size}"
    if not size <= memory / 2:
        yield f"/dev/shm of {size} leaves less than half of {memory} to the processes"


def _placement_problems(pod: PodTemplate) -> Iterator[str]:
    tolerations = pod.spec.get("tolerations", [])
    selector = pod.spec.get("nodeSelector", {})
    tolerated = {one.get("key"): one for one in tolerations}
    capacity = selector.get("pairloom.io/capacity")
    if pod.limit(GPU) and "nvidia.com/gpu" not in tolerated:
        yield "no toleration of nvidia.com/gpu: GPU nodes will not take it"
    if pod.limit(GPU) and capacity not in ("spot", "ondemand"):
        yield "no nodeSelector pairloom.io/capacity"
    if capacity == "spot" and tolerated.get("pairloom.io/capacity", {}).get("value") != "spot":
        yield "no toleration of pairloom.io/capacity=spot"
    if capacity != "spot" and "pairloom.io/capacity" in tolerated:
        yield "tolerates spot nodes and is not meant for them"
    if pod.group.get("labels", {}).get("pairloom.io/capacity", capacity) != capacity:
        yield "its label pairloom.io/capacity is not where it runs"
    is_head_idle = pod.group.get("rayStartParams", {}).get("num-cpus") == "0"
    if pod.part == "head" and not is_head_idle:
        yield "work could be put on the head: num-cpus must be 0"
    image = pod.container.get("image", "").rpartition("/")[2]
    if bool(pod.limit(GPU)) != image.startswith(("gpu", "vllm")):
        yield f"{pod.limit(GPU)} GPUs and the image {image}"
