"""Overlays as kubectl renders them, and the ways to walk through what comes out.

Limits: renders without a cluster; what an API server would set by default is not there.
"""

import copy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ("cpu-demo", "debug-profiling", "gpu-ondemand", "gpu-spot", "secure")
JOBS = {"pairloom-fetch": "fetcher"}  # beside Ray's own, with their parts
GPU = "nvidia.com/gpu"
SUFFIXES = {
    "": 1, "m": Decimal("0.001"), "k": 10**3, "M": 10**6, "G": 10**9,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip

Manifest = dict[str, Any]


class Problem(NamedTuple):
    """What is wrong with a set of manifests, and which check says so."""

    check: str
    message: str


@dataclass(frozen=True, kw_only=True)
class PodTemplate:
    """One pod template of a job or cluster, with what is said of it around it."""

    name: str  # head, submitter, or the name of its group or Job
    part: str  # head, worker, submitter, fetcher: its label
    template: Manifest
    group: Manifest  # the group it stands in, if in one

    @property
    def spec(self) -> Manifest:
        return self.template["spec"]

    @property
    def container(self) -> Manifest:
        return self.spec["containers"][0]

    @property
    def containers(self) -> list[Manifest]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def labels(self) -> dict[str, str]:
        return self.template.get("metadata", {}).get("labels", {})

    def env(self) -> dict[str, str]:
        return {one["name"]: one.get("value", "") for one in self.container.get("env", [])}

    def limit(self, name: str) -> Decimal:
        return quantity(self.container.get("resources", {}).get("limits", {}).get(name, 0))


def render(folder: Path) -> list[Manifest]:
    """The manifests of a kustomization.

    Raises:
        CalledProcessError: kustomize refuses it; its words are on stderr.
    """
    kubectl = Path(sys.executable).with_name("kubectl")
    found = str(kubectl) if kubectl.exists() else shutil.which("kubectl")
    assert found, "no kubectl: make k8s installs it"
    done = subprocess.run(
        [found, "kustomize", str(folder)], check=True, capture_output=True, text=True
    )
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    # Copied through: YAML anchors would let a change in one place appear in others.
    return [copy.deepcopy(one) for one in yaml.load_all(done.stdout, Loader=loader)]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [one for one in manifests if one.get("kind") == kind]


def ray_resource(manifests: list[Manifest]) -> Manifest:
    """The one RayJob or RayCluster of an overlay."""
    (one,) = [*of_kind(manifests, "RayJob"), *of_kind(manifests, "RayCluster")]
    return one


def cluster_spec(resource: Manifest) -> Manifest:
    spec = resource["spec"]
    return spec["rayClusterSpec"] if resource["kind"] == "RayJob" else spec


def ray_pods(manifests: list[Manifest]) -> list[PodTemplate]:
    """Head first, then the groups in their order."""
    spec = cluster_spec(ray_resource(manifests))
    head = spec["headGroupSpec"]
    pods = [PodTemplate(name="head", part="head", template=head["template"], group=head)]
    for group in spec["workerGroupSpecs"]:
        pods.append(
            PodTemplate(
                name=group["groupName"], part="worker", template=group["template"], group=group
            )
        )
    return pods


def all_pods(manifests: list[Manifest]) -> list[PodTemplate]:
    pods = ray_pods(manifests)
    template = ray_resource(manifests)["spec"].get("submitterPodTemplate")
    if template:
        pods.append(PodTemplate(name="submitter", part="submitter", template=template, group={}))
    for job in of_kind(manifests, "Job"):
        name, template = job["metadata"]["name"], job["spec"]["template"]
        pods.append(PodTemplate(name=name, part=JOBS[name], template=template, group={}))
    return pods


def quantity(value: str | int) -> Decimal:
    """A Kubernetes quantity as a number."""
    text = str(value)
    digits = text.rstrip("kKMGTim")
    return Decimal(digits) * SUFFIXES[text[len(digits) :]]


def selects(selector: Manifest | None, labels: dict[str, str]) -> bool:
    """Whether a label selector takes a pod with these labels; None takes none, {} all."""
    if selector is None:
        return False
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for one in selector.get("matchExpressions", []):
        has, values = one["key"] in labels, one.get("values", [])
        verdicts = {"In": labels.get(one["key"]) in values, "Exists": has, "DoesNotExist": not has}
        if not verdicts[one["operator"]]:
            return False
    return True
