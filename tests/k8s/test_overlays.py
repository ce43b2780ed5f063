"""Every overlay, as kubectl renders it, has nothing that any check would say of it."""

import gzip
import json
import re
from pathlib import Path

import pytest
import yaml
from k8s_checks import problems
from k8s_crds import KINDS, ORIGINALS, reduced, shipped
from k8s_render import (
    K8S,
    OVERLAYS,
    Manifest,
    all_pods,
    cluster_spec,
    of_kind,
    ray_pods,
    ray_resource,
    render,
)

COMPONENTS = ("aws", "azure", "gcp")


def test_the_overlays_are_those_that_are_there() -> None:
    assert sorted(path.name for path in (K8S / "overlays").iterdir()) == sorted(OVERLAYS)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_renders_and_nothing_is_wrong_with_it(overlay: str) -> None:
    assert problems(render(K8S / "overlays" / overlay)) == []


def _copy_with(folder: Path, old: str, new: str) -> None:
    """k8s/ with some words of its files replaced."""
    for path in [*K8S.rglob("*.yaml"), *K8S.rglob("*.json")]:
        copy = folder / path.relative_to(K8S)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("cloud", COMPONENTS)
@pytest.mark.parametrize("overlay", ["debug-profiling", "gpu-ondemand", "gpu-spot", "secure"])
def test_an_overlay_may_be_of_another_cloud(overlay: str, cloud: str, tmp_path: Path) -> None:
    """The README says to change one line."""
    _copy_with(tmp_path, "components/aws #", f"components/{cloud} #")
    manifests = render(tmp_path / "overlays" / overlay)
    assert problems(manifests) == []
    for account in of_kind(manifests, "ServiceAccount"):
        has_cloud = bool(account["metadata"].get("annotations"))
        assert has_cloud == (account["metadata"]["name"] != "pairloom-submitter")
    if cloud == "azure":
        label = "azure.workload.identity/use"
        assert all(pod.labels.get(label) for pod in all_pods(manifests) if pod.part != "submitter")


@pytest.mark.parametrize("overlay", ["gpu-ondemand", "gpu-spot"])
def test_captioners_may_be_vllms(overlay: str, tmp_path: Path) -> None:
    """As the component says: its line in the overlay, its keys in the command."""
    kueue = "  - ../../components/kueue\n"
    _copy_with(tmp_path, kueue, kueue.replace("kueue", "vllm") + kueue)
    manifests = render(tmp_path / "overlays" / overlay)
    text = (K8S / "components/vllm/kustomization.yaml").read_text()
    (keys,) = re.findall(r"^#   (captioner\.backend=.*)$", text, re.MULTILINE)
    ray_resource(manifests)["spec"]["entrypoint"] += f" {keys}"
    assert problems(manifests) == []
    names = {pod.name: pod.container["image"].rpartition("/")[2] for pod in ray_pods(manifests)}
    assert {name for name, image in names.items() if image.startswith("vllm:")} == {
        name for name in names if name.startswith("captioner-")
    }


def test_the_development_cluster_is_that_of_the_job() -> None:
    cluster = ray_resource([one for one in render(K8S / "cluster") if one["kind"] != "RayJob"])
    assert cluster["kind"] == "RayCluster"
    assert cluster["spec"] == cluster_spec(ray_resource(render(K8S / "base")))


def test_a_secure_overlay_pins_images_by_digest_and_goes_nowhere_but_where_it_is_told() -> None:
    manifests = render(K8S / "overlays" / "secure")
    assert all("@sha256:" in pod.container["image"] for pod in all_pods(manifests))
    assert cluster_spec(ray_resource(manifests))["tlsOptions"] == {"enabled": True}
    assert "0.0.0.0/0" not in json.dumps(of_kind(manifests, "NetworkPolicy"))


def test_yaml_files_are_all_used() -> None:
    """A file that no kustomization names is one that people edit in vain."""
    named: set[Path] = set()
    for path in K8S.rglob("kustomization.yaml"):
        content: Manifest = yaml.safe_load(path.read_text())
        parts = [
            *content.get("resources", []),
            *(one.get("path") for one in content.get("patches", [])),
        ]
        named |= {(path.parent / part).resolve() for part in parts if part}
    files = {path for path in K8S.rglob("*.yaml") if path.name != "kustomization.yaml"}
    assert files <= named


@pytest.mark.skipif(not ORIGINALS.exists(), reason=f"KubeRay's files are not at {ORIGINALS}")
@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_schemas_are_those_of_kuberay(kind: str) -> None:
    assert shipped(kind) == reduced(ORIGINALS / KINDS[kind])


def test_the_shipped_schemas_say_where_they_come_from() -> None:
    readme = (K8S.parent / "tests/k8s/crds/README.md").read_text()
    assert "Apache License 2.0" in readme
    assert re.search(r"commit [0-9a-f]{7}", readme)
    for kind in KINDS:
        packed = (K8S.parent / f"tests/k8s/crds/{kind}.json.gz").read_bytes()
        assert b'"description":"' not in gzip.decompress(packed)
