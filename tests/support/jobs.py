"""Ray jobs as a user has them: `ray job submit`, `status`, `logs`, `stop`, against `RayNodes`."""

import json
import re
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from ray_nodes import RayNodes

FINAL = ("SUCCEEDED", "FAILED", "STOPPED")
# limits.grace_s is 30 by default; README has both numbers.
STOP_WAIT_S = 45


def submit(nodes: RayNodes, *entrypoint: str, runtime_env: Mapping[str, Any] | None = None) -> str:
    """`ray job submit` as README has it, without the wait; the job's id."""
    asked = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}} | dict(runtime_env or {})
    words = ["job", "submit", "--address", nodes.dashboard, "--working-dir", "."]
    words += ["--runtime-env-json", json.dumps(asked), "--no-wait"]
    deadline = time.monotonic() + 60
    while True:
        done = nodes.ray(*words, "--", *entrypoint)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            break  # the agent that runs jobs comes seconds after the job server
        time.sleep(1)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"raysubmit_\w+", done.stdout)
    assert found, done.stdout
    return found.group()


def status_of(nodes: RayNodes, job_id: str) -> str:
    done = nodes.ray("job", "status", "--address", nodes.dashboard, job_id)
    said = done.stdout + done.stderr
    # "Status for job 'raysubmit_x': RUNNING", and at its end "Job 'raysubmit_x' succeeded"
    found = re.search(r"\b(pending|running|succeeded|failed|stopped)\b", said, re.IGNORECASE)
    return found.group().upper() if found else said


def wait_for_end(nodes: RayNodes, job_id: str, timeout_s: float = 240.0) -> str:
    deadline = time.monotonic() + timeout_s
    while (status := status_of(nodes, job_id)) not in FINAL:
        assert time.monotonic() < deadline, f"{status}: {logs_of(nodes, job_id)[-4000:]}"
        time.sleep(1)
    return status


def logs_of(nodes: RayNodes, job_id: str) -> str:
    """What the job printed, as `ray job logs` gives it to a file."""
    done = nodes.ray("job", "logs", "--address", nodes.dashboard, job_id)
    return done.stdout


def job(nodes: RayNodes, *words: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`ray job ...` as somebody else has it."""
    return nodes.ray("job", *words, "--address", nodes.dashboard, env=env)
