"""Processes, nodes and the head of a cluster are lost while a run is at work: nothing else is."""

import json
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cli
import pytest
from runs import MakeConfig, read_log
from small_cluster import GPU_WORDS, add_worker, small_cluster, worker_of
from whole_runs import check_sound, check_whole, receipts_of, wait_for, words_of

from pipelines.run import run

logger = logging.getLogger(__name__)

# Goals on a quiet machine: 10 s for a replica, 30 s for a node. These only catch a standstill.
REPLICA_BACK_S = 90
NODE_BACK_S = 150
SLOW = ["generator.simulated.call_s=1", "captioner.simulated.call_s=0.2", "unit_size=4"]


def _draws(log: Path, event: str = "call") -> list[dict[str, Any]]:
    return read_log(log, event) if log.exists() else []


def _back_s(output: Path, log: Path, moment: float, lost_pid: int) -> float:
    """From a loss to the first commit after the first call of the replica in its place."""
    calls = [one["time"] for one in _draws(log) if one["pid"] != lost_pid and one["time"] > moment]
    commits = [path.stat().st_mtime for path in output.glob("receipts/*/*.json")]
    return min(commit for commit in commits if commit > min(calls)) - moment


@pytest.mark.faults
def test_a_replica_that_is_killed_in_a_batch_costs_that_batch(
    make_config: MakeConfig, tmp_path: Path, local_ray: None
) -> None:
    """Three times, with whole batches in between: three kills of the same row make it poison."""
    log = tmp_path / "draw.log"
    kills: list[tuple[float, int]] = []

    def kill() -> None:
        for number in range(3):
            # The first calls of a life are its proof and the batch that the last one died in.
            wait_for(lambda number=number: has_worked(number + 1, num_calls=3))
            time.sleep(0.3)  # a call takes a second: the next one is at work
            pid = _draws(log)[-1]["pid"]
            kills.append((time.time(), pid))
            os.kill(pid, signal.SIGKILL)

    def has_worked(num_lives: int, num_calls: int) -> bool:
        calls = Counter(one["pid"] for one in _draws(log))
        return len(calls) == num_lives and calls[_draws(log)[-1]["pid"]] >= num_calls

    killer = threading.Thread(target=kill)
    killer.start()
    totals = run(make_config(*SLOW, "pools.generator.batch_size=1"))
    killer.join()
    assert (totals.num_pairs, totals.num_error_rows) == (30, 0)
    assert totals.model_loads["generator"] == 4
    check_whole(tmp_path / "run", log, 30, most=1.3)
    for moment, pid in kills:
        back_s = _back_s(tmp_path / "run", log, moment, pid)
        logger.info("a replica was back, and its unit committed, after %.1f s", back_s)
        assert back_s < REPLICA_BACK_S


def _start(cluster: Any, tmp_path: Path, *words: str) -> tuple[subprocess.Popen[str], list[str]]:
    command = words_of(
        tmp_path, f"cluster.address={cluster.address}", *GPU_WORDS, *SLOW, *words, num_seeds=24
    )
    return cli.start(["run", *command, "--json"]), command


def _end(process: subprocess.Popen[str], timeout_s: float = 240.0) -> cli.Finished:
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the run stands still: {err[-4000:]}") from None
    return cli.Finished(process.returncode, out, err)


@contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """A test that fails leaves no driver behind."""
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["walker", "actor"])
def test_a_node_that_vanishes_costs_no_row(tmp_path: Path, kind: str) -> None:
    output, log = tmp_path / "run", tmp_path / "draw.log"
    with small_cluster(num_workers=2) as cluster:
        process, _ = _start(cluster, tmp_path, f"stages.kind={kind}")
        with _ended(process):
            wait_for(lambda: len(receipts_of(output)) >= 2, process)
            pid = _draws(log)[-1]["pid"]
            moment = time.time()
            cluster.remove_node(worker_of(cluster, pid), allow_graceful=False)
            add_worker(cluster)
            done = _end(process)
    assert done.code == 0, done.err
    assert (done.totals["num_pairs"], done.totals["num_error_rows"]) == (72, 0)
    back_s = _back_s(output, log, moment, pid)
    logger.info("a node was replaced, and a unit committed, after %.1f s", back_s)
    assert back_s < NODE_BACK_S
    check_whole(output, log, 72, most=1.5)


@pytest.mark.faults
def test_a_spot_notice_moves_the_replica_before_its_node_is_gone(tmp_path: Path) -> None:
    output, log = tmp_path / "run", tmp_path / "draw.log"
    deadline_s = 15.0
    with small_cluster(num_workers=2) as cluster:
        process, _ = _start(cluster, tmp_path)
        with _ended(process):
            wait_for(lambda: len(receipts_of(output)) >= 2, process)
            pid = _draws(log)[-1]["pid"]
            node = worker_of(cluster, pid)
            add_worker(cluster)
            moment = time.time()
            _take_away(cluster, node, deadline_s)
            done = _end(process)
    assert done.code == 0, done.err
    assert (done.totals["num_pairs"], done.totals["num_error_rows"]) == (72, 0)
    late = [one for one in _draws(log) if one["pid"] == pid and one["started_at"] > moment + 5]
    assert not late, "the notice is read every second; what the replica had takes two"
    assert len({one["pid"] for one in _draws(log)}) == 2
    back_s = _back_s(output, log, moment, pid)
    logger.info("the replica worked elsewhere, and a unit was committed, after %.1f s", back_s)
    assert back_s < NODE_BACK_S
    check_whole(output, log, 72, most=1.2)


def _take_away(cluster: Any, node: Any, notice_s: float | None) -> None:
    """A node that goes: at once, or so long after a notice."""
    if notice_s is not None:
        _give_notice(cluster, node, time.time() + notice_s)
        time.sleep(notice_s)
    cluster.remove_node(node, allow_graceful=False)


def _give_notice(cluster: Any, node: Any, deadline: float) -> None:
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    preemption = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    gcs = GcsClient(address=cluster.address)
    is_accepted, why_not = gcs.drain_node(
        node.node_id, preemption, "spot notice", int(deadline * 1000)
    )
    assert is_accepted, why_not


# Two replicas of each model on two GPUs: a group a GPU, one of each in it.
SHARED = [
    f"pools.{pool}.{word}"
    for pool in ("generator", "captioner")
    for word in ("num_replicas=2", "num_gpus=0.5")
]


@pytest.mark.faults
@pytest.mark.parametrize("has_notice", [False, True], ids=["vanishes", "drains"])
def test_a_node_whose_gpu_two_models_share_goes_and_both_come_again(
    tmp_path: Path, has_notice: bool
) -> None:
    output, log = tmp_path / "run", tmp_path / "draw.log"
    deadline_s = 10.0
    with small_cluster(num_workers=2) as cluster:
        process, _ = _start(cluster, tmp_path, *SHARED, "generator.simulated.call_s=3")
        with _ended(process):
            wait_for(lambda: len({one["pid"] for one in _draws(log)}) == 2, process)
            wait_for(lambda: len(receipts_of(output)) >= 2, process)
            pid = _draws(log)[-1]["pid"]
            node = worker_of(cluster, pid)
            add_worker(cluster)
            moment = time.time()
            _take_away(cluster, node, deadline_s if has_notice else None)
            done = _end(process)
    assert done.code == 0, done.err
    assert (done.totals["num_pairs"], done.totals["num_error_rows"]) == (72, 0)
    assert len({one["pid"] for one in _draws(log) if one["time"] > moment + deadline_s}) == 2
    loads = [one["time"] > moment for one in _draws(tmp_path / "describe.log", "load")]
    assert loads == [False, False, True], "the other model came again as well"
    check_whole(output, log, 72, most=1.5)


@pytest.mark.faults
def test_a_head_that_keeps_its_state_is_killed_and_started_again(tmp_path: Path) -> None:
    """Its state is on disk (Ray's RocksDB backend): the run goes on as if nothing had been."""
    output, log = tmp_path / "run", tmp_path / "draw.log"
    storage = {"gcs_storage": "rocksdb", "gcs_storage_path": str(tmp_path / "gcs")}
    with small_cluster(num_workers=2, **storage) as cluster:
        process, _ = _start(cluster, tmp_path)
        with _ended(process):
            wait_for(lambda: len(receipts_of(output)) >= 2, process)
            cluster.head_node.kill_gcs_server()
            time.sleep(5)
            before = len(receipts_of(output))
            cluster.head_node.start_gcs_server()
            moment = time.time()
            wait_for(lambda: len(receipts_of(output)) > before, process)
            logger.info("the first commit came %.1f s after the head's", time.time() - moment)
            done = _end(process)
    assert done.code == 0, done.err
    assert (done.totals["num_pairs"], done.totals["num_error_rows"]) == (72, 0)
    check_whole(output, log, 72, most=1.5)


@pytest.mark.faults
def test_a_head_that_forgot_everything_ends_the_run_and_the_same_command_goes_on(
    tmp_path: Path,
) -> None:
    output, log = tmp_path / "run", tmp_path / "draw.log"
    with small_cluster(num_workers=2) as cluster:
        process, _ = _start(cluster, tmp_path)
        with _ended(process):
            wait_for(lambda: len(receipts_of(output)) >= 2, process)
            cluster.head_node.kill_gcs_server()
            moment = time.time()
            cluster.head_node.start_gcs_server()
            ended = _end(process)
            logger.info(
                "ended with %d %.1f s after the head did: %s",
                ended.code,
                time.time() - moment,
                ended.err[-500:],
            )
    assert ended.code != 0, "seen: 1 after 18 s, a PoolError that says what to do"
    check_sound(output)
    with small_cluster(num_workers=2) as cluster:
        process, _ = _start(cluster, tmp_path)
        with _ended(process):
            done = _end(process)
    assert done.code == 0, done.err
    assert done.totals["num_resumed"] >= 8
    check_whole(output, log, 72, most=1.5)


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["walker", "actor"])
def test_calls_between_processes_that_fail_now_and_then_lose_nothing(
    tmp_path: Path, kind: str
) -> None:
    """Ray's own switch fails them before they arrive, on the way, and after they were carried out.

    A run may end over it, and the same command goes on; with one try a batch all of them ended.
    """
    method = {"num_failures": -1, "req_failure_prob": 1, "resp_failure_prob": 1}
    faults = {
        f"CoreWorkerService.grpc_client.{name}": method | {"in_flight_failure_prob": 1}
        for name in ("PushTask", "GetObjectStatus", "PubsubLongPolling")
    }
    folder = tempfile.mkdtemp(prefix="pl", dir="/tmp")  # sockets bear 107 characters of path
    env = {"RAY_testing_rpc_failure": json.dumps(faults), "RAY_TMPDIR": folder}
    words = words_of(tmp_path, f"stages.kind={kind}", "unit_size=4", num_seeds=60)
    codes: list[int] = []
    while not codes or (codes[-1] != 0 and len(codes) < 4):
        done = cli.call("run", *words, env=env, timeout_s=240)
        codes.append(done.code)
        logger.info("ended with %d: %s", done.code, done.err[-300:])
        check_sound(tmp_path / "run")
    logs = [path.read_text(errors="replace") for path in Path(folder).rglob("logs/*.log")]
    shutil.rmtree(folder)
    num_faults = sum(log.count("Inject RPC re") for log in logs)
    logger.info("%d faults were injected", num_faults)
    assert num_faults >= 10, "Ray's switch has changed: nothing was tested"
    if codes[-1] != 0:
        assert cli.call("run", *words, timeout_s=240).code == 0
    check_whole(tmp_path / "run", tmp_path / "draw.log", 180, most=2.0)
