"""`ray job submit` with token authentication, against a cluster that was started on its own."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cli
import psutil
import pytest
from ports import free_ports
from runs import read_pairs

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def cluster_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A head node with a token; only the processes started here are ended."""
    folder = tmp_path_factory.mktemp("head")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    gcs, dashboard, agent = free_ports(3)
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env |= {
        "PATH": f"{BIN}:{env['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_worker_niceness": "0",
        "RAY_enable_worker_prestart": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={gcs}", "--num-cpus=2"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    # Another Ray of this machine may hold the agent's fixed port, 52365; an agent that finds it
    # taken runs no jobs and says so only in its log.
    command += [f"--dashboard-agent-listen-port={agent}"]
    command += [f"--temp-dir={folder}", "--include-dashboard=true"]
    with (folder / "log").open("w") as log:
        head = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    env["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    try:
        _wait_for_jobs(env, head, folder / "log")
        yield env
    finally:
        # Asked to end, `ray start --block` takes half a minute over it.
        started = [*psutil.Process(head.pid).children(recursive=True), head]
        for process in started:
            process.kill()
        head.wait(timeout=60)


def _wait_for_jobs(env: dict[str, str], head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while _ray(env, "job", "list").returncode != 0:
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(1)


def _ray(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "ray"), *words],
        cwd=cli.ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )


def _submit(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Submits; again while the agent that runs jobs is not there, seconds after the job server."""
    deadline = time.monotonic() + 60
    while True:
        done = _ray(env, *words)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)


def test_a_submitted_job_makes_the_dataset(cluster_env: dict[str, str], tmp_path: Path) -> None:
    words = [f"output={tmp_path / 'run'}", "seeds.limit=4", "num_rounds=2", "unit_size=2"]
    words += ["generator.backend=simulated", "captioner.backend=simulated", "--json"]
    submit = ["job", "submit", "--working-dir", ".", "--", "python", "-m", "pipelines", "run"]
    done = _submit(cluster_env, *submit, "conf/synergy.yaml", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (totals,) = [line for line in done.stdout.splitlines() if line.startswith('{"output"')]
    assert json.loads(totals)["num_pairs"] == 8
    assert len(read_pairs(tmp_path / "run")) == 8


def test_a_client_without_the_token_is_refused(cluster_env: dict[str, str]) -> None:
    env = {k: v for k, v in cluster_env.items() if not k.startswith("RAY_AUTH")}
    env["HOME"] = "/nonexistent"
    done = _ray(env, "job", "list")
    assert done.returncode != 0
    assert "401" in done.stdout + done.stderr or "nauth" in done.stdout + done.stderr
