"""The job that fills the volume of models: checked as all pods are, and its commands are run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubRepo, repo_of, serve_hub
from k8s_checks import problems
from k8s_entry import config_of
from k8s_render import K8S, Manifest, all_pods, of_kind, ray_resource, render

from actors.scenes.defaults import EMBEDDED_MODELS

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def manifests() -> list[Manifest]:
    """What is there once the job of the models and that of a run have been applied."""
    fetch, base = render(K8S / "fetch"), render(K8S / "base")
    assert not [one for one in base if one not in fetch and one["kind"] != "RayJob"]
    return [*fetch, ray_resource(base)]


def test_nothing_is_wrong_with_the_job_beside_a_run(manifests: list[Manifest]) -> None:
    assert problems(manifests) == []


def test_mistakes_in_it_are_caught(manifests: list[Manifest]) -> None:
    (job,) = of_kind(manifests, "Job")
    spec = job["spec"]["template"]["spec"]
    verify, generator = spec["containers"][0], spec["initContainers"][0]
    hub = next(one for one in manifests if one["metadata"]["name"] == "hub")
    for check, node, key, value in (
        ("image", generator, "image", "registry.example.com/pairloom/cpu:latest"),
        ("security", generator, "securityContext", {}),
        ("resources", generator, "resources", {}),
        ("secret", verify, "env", [{"name": "HF_TOKEN", "value": "hf_x"}]),
        ("volumes", verify, "volumeMounts", verify["volumeMounts"][1:]),
        ("network", hub["spec"], "egress", []),
        ("schema", job["spec"], "backofLimit", 1),
    ):
        kept = node.get(key)
        node[key] = value
        assert check in {one.check for one in problems(manifests)}, (check, key)
        node[key] = kept
        if kept is None:
            del node[key]


def _repo(name: str, variant: str) -> HubRepo:
    """An embedded model as the hub has a full-size one, in that variant beside the plain one."""
    repo = repo_of(EMBEDDED_MODELS[name])
    files = {
        path.replace(".safetensors", f".{variant}.safetensors"): data
        for path, data in repo.files.items()
        if variant and path.endswith(".safetensors")
    }
    return HubRepo(repo.files | files)


def test_its_commands_bring_the_models_that_the_runs_ask_for(
    manifests: list[Manifest], tmp_path: Path
) -> None:
    """Against a stand-in of the hub, with the image's variables and the pod's."""
    (pod,) = [one for one in all_pods(manifests) if one.part == "fetcher"]
    env = {"PATH": f"{BIN}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"} | pod.env()
    with serve_hub() as hub:
        env |= {"HOME": str(tmp_path), "HF_ENDPOINT": hub.endpoint}
        for container in pod.containers:
            words = [*container["command"], *container["args"]]
            for repo, name, variant in (
                ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl", "fp16"),
                ("llava-hf/llava-1.5-7b-hf", "llava", ""),
            ):
                hub.repos.setdefault(repo, _repo(name, variant))
                pinned = f"{repo}@{hub.repos[repo].commit}"
                words = [word.replace(f"{repo}@replace-me", pinned) for word in words]
            words = [word.replace("/models/", f"{tmp_path}/models/") for word in words]
            done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("sound:") == 2
    assert (tmp_path / "models/sdxl/unet/diffusion_pytorch_model.fp16.safetensors").is_file()
    config = config_of(ray_resource(manifests)["spec"]["entrypoint"])
    for model in (config.generator.model, config.captioner.model):
        assert (tmp_path / model.lstrip("/")).is_dir()
