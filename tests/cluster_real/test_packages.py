"""A job that brings its packages along, to a node where nothing but Ray is installed."""

import json
import subprocess
import sys
from pathlib import Path

import cli
import pytest
import ray
from jobs import logs_of, submit, wait_for_end
from ray_nodes import ray_nodes
from whole_runs import check_whole, words_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

# As README has it: pip puts the folder that was uploaded in the variable's place.
PACKAGES = {"pip": ["-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/conf/constraints/cpu.txt"]}


def _environment_of_ray_alone(folder: Path) -> Path:
    """Its programs; the versions are those of this tree, as Ray asks of all its nodes."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    words = ["-m", "pip", "install", "--quiet", f"ray[default]=={ray.__version__}"]
    words += ["-c", str(cli.ROOT / "conf" / "constraints" / "cpu.txt")]
    subprocess.run([str(folder / "bin" / "python"), *words], check=True)
    return folder / "bin"


def test_a_job_brings_what_a_node_with_ray_alone_has_not(tmp_path: Path) -> None:
    bin_ = _environment_of_ray_alone(tmp_path / "bare")
    assert not [*(tmp_path / "bare").rglob("site-packages/torch")]
    config, *words = words_of(tmp_path, num_seeds=8)
    entrypoint = ["python", "-m", "pipelines", "run", str(Path(config).relative_to(cli.ROOT))]
    with ray_nodes(bin_=bin_) as nodes:
        nodes.start_head("--num-cpus=2")
        job_id = submit(nodes, *entrypoint, *words, "--json", runtime_env=PACKAGES)
        assert wait_for_end(nodes, job_id, 1200) == "SUCCEEDED", logs_of(nodes, job_id)
        log = logs_of(nodes, job_id)
    (totals,) = [json.loads(line) for line in log.splitlines() if line.startswith('{"output"')]
    assert totals["num_error_rows"] == 0
    check_whole(tmp_path / "run", tmp_path / "draw.log", totals["num_pairs"], most=1.0)
