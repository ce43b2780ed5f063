"""No version below a known advisory: not allowed, not tested, not installed."""

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
CONSTRAINTS = sorted((ROOT / "conf" / "constraints").glob("*.txt"))

# The first release without the advisory that is named; more of the same kind are left out.
FLOORS = {
    # CVE-2026-57516 (pickle in read_webdataset) < 2.56, CVE-2026-41486 (cloudpickle in a Parquet
    # schema) < 2.55; 2.59.1 for aiohttp (CVE-2026-111064, -111066) and certifi.
    "ray": "2.59.1",
    # CVE-2026-24747: weights_only lets a checkpoint run code, < 2.10.
    "torch": "2.10",
    # GHSA-4prv-5hj7-c2xr: a library name in model_index.json is imported, < 0.42.1.
    "diffusers": "0.42.1",
    # CVE-2026-4372: config.json runs code without trust_remote_code, < 5.3.0; CVE-2026-5241.
    "transformers": "5.3.0",
    # The decoders' overflows and bombs of CVE-2026-40192, -42308..42311, -55798 and later ones.
    "pillow": "13.0.0",
    # CVE-2023-47248 (pickle in IPC and Parquet) < 14.0.1; CVE-2026-25087 in C++ before 24.
    "pyarrow": "24",
}
# As above, for what is not a dependency: absent, or at least this.
FLOORS_IF_PRESENT = {
    # PYSEC-2026-4344, -4349: a Jinja template stops the engine, < 0.32; before that CVE-2026-22778
    # (code from a picture) < 0.14.1.
    "vllm": "0.32.0",
}


def _declared() -> Iterator[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for lines in (project["dependencies"], *project["optional-dependencies"].values()):
        yield from map(Requirement, lines)


def _pins(path: Path) -> dict[str, Version]:
    lines = re.findall(r"^([\w.-]+)={2,3}([^\s=]\S*)", path.read_text(), re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in lines}


def _below(version: Version, floor: str) -> bool:
    return Version(version.base_version) < Version(floor)


def test_every_dependency_has_a_lower_bound() -> None:
    for one in _declared():
        assert one.name == "pairloom" or any(part.operator == ">=" for part in one.specifier), one


def test_every_floor_is_in_pyproject() -> None:
    """No release below the floor satisfies what is declared: a bound that is there and holds."""
    declared = {one.name: one for one in _declared() if one.name in FLOORS}
    assert declared.keys() == FLOORS.keys()
    for name, floor in FLOORS.items():
        bounds = [
            Version(one.version)
            for one in declared[name].specifier
            if one.operator in (">=", "==", "~=")
        ]
        assert bounds, f"{name} has no lower bound"
        assert max(bounds) >= Version(floor), f"{declared[name]} is below {floor}"


def test_what_is_not_a_dependency_yet_keeps_its_floor_once_it_is() -> None:
    for one in _declared():
        floor = FLOORS_IF_PRESENT.get(one.name)
        if floor is not None:
            assert any(
                part.operator == ">=" and Version(part.version) >= Version(floor)
                for part in one.specifier
            ), f"{one} is below {floor}"


@pytest.mark.parametrize("path", CONSTRAINTS, ids=lambda path: path.name)
def test_what_is_tested_and_installed_by_make_is_at_the_floor(path: Path) -> None:
    pins = _pins(path)
    assert FLOORS.keys() <= pins.keys(), "every one of them is pinned"
    for name, floor in (FLOORS | FLOORS_IF_PRESENT).items():
        if name in pins:
            assert not _below(pins[name], floor), f"{name} {pins[name]} is below {floor}"


def test_all_constraint_files_are_there() -> None:
    assert [path.name for path in CONSTRAINTS] == [
        "cpu.txt",
        "gpu.txt",
        "vllm-cpu.txt",
        "vllm-gpu.txt",
    ]


def test_cpus_and_gpus_get_the_same_versions_of_all_that_is_declared() -> None:
    cpu, gpu = (_pins(ROOT / f"conf/constraints/{flavour}.txt") for flavour in ("cpu", "gpu"))
    assert cpu == gpu
    declared = {canonicalize_name(one.name) for one in _declared()} - {"pairloom", "vllm"}
    assert declared <= cpu.keys(), declared - cpu.keys()


def _installed(name: str) -> Version | None:
    try:
        return Version(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return None


@pytest.mark.parametrize(("name", "floor"), FLOORS.items())
def test_what_is_installed_here_is_at_the_floor(name: str, floor: str) -> None:
    version = _installed(name)
    assert version is not None
    assert not _below(version, floor), f"{name} {version} is below {floor}"


@pytest.mark.parametrize(("name", "floor"), FLOORS_IF_PRESENT.items())
def test_what_need_not_be_installed_is_at_the_floor_if_it_is(name: str, floor: str) -> None:
    version = _installed(name)
    assert version is None or not _below(version, floor), f"{name} {version} is below {floor}"
