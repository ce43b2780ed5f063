"""pipelines/attempt.py: a place that would be lost is refused; pairloom may be a mere folder."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from run_fixtures import ROOT

from pipelines.attempt import RECORDED_PACKAGES, check_place

IN_A_JOB = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}


@pytest.mark.parametrize("output", ["out/run", "./run"])
def test_a_relative_folder_inside_a_ray_job_is_refused(output: str) -> None:
    check_place(output, {})
    with pytest.raises(ValueError, match="absolute path"):
        check_place(output, IN_A_JOB)


@pytest.mark.parametrize("output", ["/mnt/run", "~/run", "s3://bucket/run", "file:///mnt/run"])
def test_other_places_are_fine_inside_a_ray_job(output: str) -> None:
    check_place(output, IN_A_JOB)


PREPARE = """
import json, sys
sys.path[:0] = sys.argv[1:3]
from cluster.config import load
from pipelines.attempt import prepare
from pipelines.synergy import SynergyConfig
words = ["seeds.limit=1", "generator.backend=simulated", "captioner.backend=simulated"]
attempt = prepare(load(SynergyConfig, "conf/synergy.yaml", [*words, f"output={sys.argv[3]}"]))
print(json.dumps(attempt.ledger._versions))
"""


def test_a_job_brings_pairloom_as_a_folder_that_is_not_installed(tmp_path: Path) -> None:
    """`ray job submit --working-dir .` onto nodes that have what pairloom needs, but not pairloom:
    a run ended there, for it asked after its own version."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "pairloom" not in path.name:
            (packages / path.name).symlink_to(path)
    folder = tmp_path / "job"
    folder.mkdir()
    for name in ("cluster", "actors", "pipelines", "conf"):
        (folder / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [sys.executable, "-S", "-c", PREPARE, str(folder), str(packages), str(tmp_path / "run")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    versions = json.loads(done.stdout)
    assert "ray" in versions
    assert versions.keys() <= set(RECORDED_PACKAGES) - {"pairloom"}
