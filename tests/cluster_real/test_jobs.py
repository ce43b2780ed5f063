"""Ray jobs on a cluster of three nodes that were started as an operator starts them."""

import json
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cli
import psutil
import pytest
from jobs import job, logs_of, status_of, submit, wait_for_end
from ray_nodes import RayNodes, ray_nodes
from runs import read_log
from whole_runs import check_sound, check_whole, drawn_before, receipts_of, wait_for, words_of

from pipelines.verify import verify_run

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NUM_SEEDS, NUM_ROUNDS = 40, 3
# Three rounds of 40 rows, 8 a second.
SLOW = ["generator.simulated.call_s=1", "captioner.simulated.call_s=0.1", "unit_size=8"]
SLOW += ["pools.generator.batch_size=8", "pools.generator.num_gpus=1", "pools.captioner.num_gpus=1"]


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    """A head for drivers only, and two workers with more GPUs than the runs ask for."""
    with ray_nodes() as started:
        started.start_head("--num-cpus=0")
        for _ in range(2):
            started.add_worker("--num-cpus=2", "--num-gpus=4")
        yield started


def _command(folder: Path, *more: str) -> list[str]:
    """As the entrypoint of a job: paths of the working directory that was uploaded."""
    config, *words = words_of(folder, *SLOW, *more, num_seeds=NUM_SEEDS)
    return ["python", "-m", "pipelines", "run", str(Path(config).relative_to(cli.ROOT)), *words]


def test_what_is_uploaded_is_the_code_and_nothing_that_git_ignores(nodes: RayNodes) -> None:
    code = "import os; print('FOUND', *sorted(os.listdir()), sep=' ')"
    words = ["job", "submit", "--address", nodes.dashboard, "--working-dir", "."]
    done = nodes.ray(*words, "--", "python", "-c", code)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("FOUND")]
    found = set(line.split()[1:])
    assert {"actors", "cluster", "pipelines", "conf", "pyproject.toml"} <= found
    assert not found & {".venv", ".venv-vllm", "out", "pairloom.egg-info"}


def test_a_job_is_followed_from_elsewhere_and_its_log_is_lines(
    nodes: RayNodes, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    job_id = submit(nodes, *_command(tmp_path), "--json")
    wait_for(lambda: len(receipts_of(output)) >= 3)
    elsewhere = {"RAY_ADDRESS": "", "RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN_PATH": ""}
    seen = cli.call("status", str(output), env=elsewhere, cwd=tmp_path)
    assert seen.code == 0, seen.err
    assert "not finished" in seen.out
    assert status_of(nodes, job_id) == "RUNNING"
    assert wait_for_end(nodes, job_id) == "SUCCEEDED", logs_of(nodes, job_id)
    log = logs_of(nodes, job_id)
    assert not re.search(r"[\r\u2500-\u259f]", log), "bars belong on a terminal"
    lines = log.splitlines()
    ours = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d \S+ (cluster|pipelines)\.", line)]
    assert len(ours) >= 4
    assert not any("\x1b" in line for line in ours), "so do colours; Ray's own lines have some"
    assert any("joined" in line for line in lines), log
    (totals,) = [json.loads(line) for line in lines if line.startswith('{"output"')]
    assert totals["num_pairs"] == NUM_SEEDS * NUM_ROUNDS
    seen = cli.call("status", str(output), env=elsewhere, cwd=tmp_path)
    assert ": finished, 120 pairs" in seen.out, seen.out
    check_whole(output, tmp_path / "draw.log", NUM_SEEDS * NUM_ROUNDS, most=1.0)


def test_a_job_that_is_stopped_commits_what_is_under_way_and_the_next_one_goes_on(
    nodes: RayNodes, tmp_path: Path
) -> None:
    output, log = tmp_path / "run", tmp_path / "draw.log"
    job_id = submit(nodes, *_command(tmp_path))
    wait_for(lambda: len(receipts_of(output)) >= 3)
    asked_at = time.time()
    stopped = job(nodes, "stop", job_id, env=nodes.env)
    assert stopped.returncode == 0, stopped.stderr
    assert wait_for_end(nodes, job_id) == "STOPPED"
    logger.info("stopped after %.1f s", time.time() - asked_at)
    check_sound(output)
    assert not verify_run(str(output)).is_finished
    said = logs_of(nodes, job_id)
    assert "no new work; what is under way has 30 s" in said, said[-3000:]
    committed = receipts_of(output)
    assert drawn_before(output, log, asked_at, unit_size=8) <= committed, "drawn, and thrown away"
    again = submit(nodes, *_command(tmp_path), "--json")
    assert wait_for_end(nodes, again) == "SUCCEEDED", logs_of(nodes, again)
    (totals,) = [
        json.loads(line) for line in logs_of(nodes, again).splitlines() if line.startswith('{"out')
    ]
    assert totals["num_resumed"] == 8 * len(committed)
    check_whole(output, log, NUM_SEEDS * NUM_ROUNDS, most=1.1)


@pytest.mark.parametrize(
    ("token", "code", "word"),
    [("", 401, "Unauthorized"), ("0" * 64, 403, "Forbidden")],
    ids=["no token", "wrong token"],
)
def test_who_has_not_the_token_may_do_nothing(
    nodes: RayNodes, token: str, code: int, word: str, tmp_path: Path
) -> None:
    request = urllib.request.Request(f"{nodes.dashboard}/api/jobs/", method="POST", data=b"{}")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == code
    env = {key: value for key, value in nodes.env.items() if not key.startswith("RAY_AUTH")}
    env["HOME"] = str(tmp_path)
    if token:
        env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    for words in (["list"], ["submit", "--", "true"], ["stop", "raysubmit_x"], ["logs", "x"]):
        at = words.index("--") if "--" in words else len(words)
        address = ["--address", nodes.dashboard]
        done = nodes.ray("job", *words[:at], *address, *words[at:], env=env)
        said = done.stdout + done.stderr
        assert done.returncode != 0, said
        assert word in said, said


def test_a_node_that_dies_under_a_job_costs_no_row(nodes: RayNodes, tmp_path: Path) -> None:
    """The last test of the module: one of three nodes is gone after it."""
    output, log = tmp_path / "run", tmp_path / "draw.log"
    job_id = submit(nodes, *_command(tmp_path, "pools.generator.num_replicas=2"), "--json")
    wait_for(lambda: len(receipts_of(output)) >= 3)
    pid = read_log(log)[-1]["pid"]
    victim = next(one for one in nodes.processes[1:] if pid in _pids(one.pid))
    nodes.kill(victim)
    assert wait_for_end(nodes, job_id) == "SUCCEEDED", logs_of(nodes, job_id)
    assert nodes.num_alive() == 2
    lost = {one["pid"] for one in read_log(log)}
    assert len(lost) > 2, "a replica was started again"
    check_whole(output, log, NUM_SEEDS * NUM_ROUNDS, most=1.6)


def _pids(pid: int) -> set[int]:
    return {one.pid for one in psutil.Process(pid).children(recursive=True)}
