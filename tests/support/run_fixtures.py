"""Fixtures for whole runs in one process: a local Ray, seeds, and configs over simulated engines.

A folder of tests takes them by importing them in its conftest.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import MakeConfig

from cluster import config as config_files
from cluster.session import SessionConfig, session
from pipelines.synergy import SynergyConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A small Ray that the runs of a test session attach to; eight logical GPUs."""
    with session(SessionConfig(num_cpus=4, num_gpus=8, has_dashboard=False)):
        yield


@pytest.fixture
def seed_file(tmp_path: Path) -> Path:
    """Ten seeds."""
    path = tmp_path / "seeds.txt"
    path.write_text("".join(f"scene number {i}\n" for i in range(10)))
    return path


@pytest.fixture
def make_config(tmp_path: Path, seed_file: Path) -> MakeConfig:
    """conf/synergy.yaml with simulated engines that log every call, and any further words."""

    def make(*words: str, output: str = "run") -> SynergyConfig:
        base = [
            f"output={output if '://' in output else tmp_path / output}",
            f"seeds.path={seed_file}",
            "unit_size=4",
            "generator.backend=simulated",
            f"generator.simulated.log_path={tmp_path}/draw.log",
            "captioner.backend=simulated",
            f"captioner.simulated.log_path={tmp_path}/describe.log",
            "pools.generator.num_cpus=0.1",
            "pools.captioner.num_cpus=0.1",
        ]
        return config_files.load(
            SynergyConfig, str(ROOT / "conf" / "synergy.yaml"), [*base, *words]
        )

    return make
