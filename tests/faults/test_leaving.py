"""A run that is told to end, or that fails too often, ends in time and goes on later."""

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import cli
import pytest
from fault_proxy import FaultProxy, never
from runs import MakeConfig, read_log
from s3_servers import S3Server
from whole_runs import check_sound, check_whole, drawn_before, receipts_of, wait_for, words_of

from pipelines import watch
from pipelines.cli import main
from pipelines.run import run

logger = logging.getLogger(__name__)


def _notice_at(err: str) -> float:
    """When the log says that no new work is begun."""
    line = next(line for line in err.splitlines() if "no new work" in line)
    return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()


def _tell(process: subprocess.Popen[str], number: signal.Signals) -> tuple[float, str]:
    """Sends a signal; returns the moment and what the run said on its way out."""
    moment = time.time()
    process.send_signal(number)
    try:
        _, err = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    logger.info("left %.1f s after %s", time.time() - moment, number.name)
    return moment, err


@pytest.mark.faults  # two runs with a Ray each, 37 s; Ctrl-C is in tests/integration/test_cli.py
@pytest.mark.parametrize("kind", ["walker", "actor"])
def test_sigterm_commits_what_is_at_work_and_begins_nothing(tmp_path: Path, kind: str) -> None:
    output, log = tmp_path / "run", tmp_path / "draw.log"
    words = words_of(
        tmp_path,
        f"stages.kind={kind}",
        "unit_size=4",
        "pools.generator.batch_size=2",
        "generator.simulated.call_s=0.3",
        "captioner.simulated.call_s=0.3",
        num_seeds=12,
    )
    process = cli.start(["run", *words])
    wait_for(lambda: len(receipts_of(output)) >= 3, process)
    moment, err = _tell(process, signal.SIGTERM)
    took_s = time.time() - moment
    assert process.returncode == 143, err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert took_s < 30 + 15, "limits.grace_s and Ray's own end"
    missing = drawn_before(output, log, moment, unit_size=4) - receipts_of(output)
    assert not missing, f"drawn before the signal, and not committed: {missing}"
    late = [call for call in read_log(log) if call["started_at"] > _notice_at(err) + 2]
    assert len(late) <= 2, "begun after the notice, beyond what the replica had: in_flight is 2"
    assert len(receipts_of(output)) < 9
    check_sound(output)

    done = cli.call("run", *words, "--json")
    assert done.code == 0, done.err
    assert done.totals["num_resumed"] >= 3 * 4
    check_whole(output, log, 36, most=1.5)


@pytest.mark.faults
def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    words = words_of(tmp_path, "generator.simulated.call_s=20", "limits.grace_s=60")
    process = cli.start(["run", *words])
    wait_for(lambda: (tmp_path / "draw.log").exists(), process)  # the model is loaded
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    for line in process.stderr:
        if "no new work" in line:
            break
    moment, err = _tell(process, signal.SIGINT)
    took_s = time.time() - moment
    assert process.returncode == 130, err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert took_s < 15, "neither the call (20 s) nor the grace time (60 s) was waited for"
    check_sound(tmp_path / "run")


@pytest.mark.faults
def test_a_run_whose_stages_find_no_place_leaves_when_told(tmp_path: Path) -> None:
    """Nothing ever comes out of such a dataset, so whoever waits for it hears nothing."""
    words = words_of(
        tmp_path,
        "cluster.num_cpus=1",
        "cluster.can_autoscale=true",
        # Of the generator and the stages only one fits, whichever comes first.
        "pools.generator.num_cpus=0.995",
        "pools.captioner.num_cpus=0.004",
    )
    process = cli.start(["run", *words])
    wait_for((tmp_path / "describe.log").exists, process)
    time.sleep(2)
    moment, err = _tell(process, signal.SIGTERM)
    took_s = time.time() - moment
    assert process.returncode == 143, err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert took_s < 15, "nothing was under way: there was nothing to wait 30 s for"
    assert receipts_of(tmp_path / "run") == set()


@pytest.fixture
def run_in_an_outage(
    tmp_path: Path, moto_s3: S3Server, fault_proxy: FaultProxy
) -> Iterator[subprocess.Popen[str]]:
    """A run over object storage that is away since its first commits."""
    words = words_of(
        tmp_path,
        f"output={moto_s3.uri}",
        "stages.kind=walker",
        "unit_size=1",
        "limits.grace_s=5",
        num_seeds=40,
    )
    client, under = moto_s3.client(), f"{moto_s3.prefix}/receipts/"

    def is_under_way() -> bool:
        return client.list_objects_v2(Bucket=moto_s3.bucket, Prefix=under)["KeyCount"] >= 3

    process = cli.start(["run", *words])
    try:
        wait_for(is_under_way, process)
        fault_proxy.fault = lambda method, path: "reset"
        time.sleep(6)  # a look of the watcher has begun since, and every unit is stuck in `record`
        yield process
    finally:
        process.kill()
        fault_proxy.fault = never
    check_sound(moto_s3.uri)


@pytest.mark.faults
@pytest.mark.parametrize(
    "first", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.faults)]
)
def test_the_grace_time_holds_while_the_store_is_away(
    run_in_an_outage: subprocess.Popen[str], first: signal.Signals
) -> None:
    moment, err = _tell(run_in_an_outage, first)
    took_s = time.time() - moment
    assert run_in_an_outage.returncode == 128 + first, err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert took_s < 5 + 25, "the grace time, a last look that fails, and Ray's own end"


@pytest.mark.faults
def test_a_second_ctrl_c_leaves_at_once_while_the_store_is_away(
    run_in_an_outage: subprocess.Popen[str],
) -> None:
    run_in_an_outage.send_signal(signal.SIGINT)
    time.sleep(1)
    moment, err = _tell(run_in_an_outage, signal.SIGINT)
    took_s = time.time() - moment
    assert run_in_an_outage.returncode == 130, err
    assert "Traceback" not in err
    assert took_s < 15


@pytest.mark.faults
@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("starting or joining Ray", signal.SIGTERM),
        ("models are loading", signal.SIGTERM),
        ("models are loading", signal.SIGINT),
    ],
)
def test_a_signal_outside_the_loop_ends_the_command_with_a_word(
    tmp_path: Path, said: str, number: signal.Signals
) -> None:
    """While Ray starts, and while the author writes: no loop is there to be told."""
    words = words_of(
        tmp_path,
        "seeds.path=null",
        "seeds.author.num_batches=1",
        "seeds.author.model.backend=simulated",
        "seeds.author.model.simulated.call_s=60",
        "seeds.author.pool.num_cpus=0.1",
    )
    process = cli.start(["seeds", *words])
    assert process.stderr is not None
    for line in process.stderr:
        if said in line:
            break
    time.sleep(1)
    moment, err = _tell(process, number)
    took_s = time.time() - moment
    assert process.returncode == 128 + number, err
    assert f"stopped by {number.name}" in err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert took_s < 15


@contextmanager
def _signal_when(is_time: Callable[[], bool], number: signal.Signals) -> Iterator[list[float]]:
    """Sends this process a signal when it is time; yields a list that gets the moment."""
    moments: list[float] = []
    is_over = threading.Event()

    def send() -> None:
        while not is_over.wait(0.05):
            if is_time():
                moments.append(time.time())
                os.kill(os.getpid(), number)
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield moments
    finally:
        is_over.set()
        thread.join()


def _is_loaded(log: Path, before_s: float) -> Callable[[], bool]:
    """The model was loaded so many seconds ago."""
    return lambda: log.exists() and read_log(log, "load")[-1]["time"] < time.time() - before_s


@pytest.mark.faults
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("kind", ["walker", "actor"])
def test_slow_calls_do_not_outlast_the_grace_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    output, log = tmp_path / "run", tmp_path / "draw.log"
    words = words_of(tmp_path, f"stages.kind={kind}", "limits.grace_s=1", "unit_size=2")
    slow = ["generator.simulated.call_s=40"]
    with _signal_when(_is_loaded(log, 2.0), signal.SIGTERM) as moments:
        assert main(["run", *words, *slow]) == 143
    took_s = time.time() - moments[0]
    logger.info("left %.1f s after SIGTERM with a grace time of 1 s", took_s)
    assert took_s < 20
    assert "the same command goes on" in capsys.readouterr().err
    assert receipts_of(output) == set()
    assert main(["run", *words]) == 0
    check_whole(output, log, 30, most=1.0)


@pytest.mark.faults
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("kind", ["walker", "actor"])
def test_many_units_that_are_left_do_not_hold_the_run_up(tmp_path: Path, kind: str) -> None:
    output, log = tmp_path / "run", tmp_path / "draw.log"
    words = words_of(
        tmp_path,
        f"stages.kind={kind}",
        "unit_size=1",
        "generator.simulated.call_s=0.3",
        num_seeds=400,
    )
    with _signal_when(lambda: len(receipts_of(output)) >= 5, signal.SIGTERM) as moments:
        assert main(["run", *words]) == 143
    took_s = time.time() - moments[0]
    logger.info("left %.1f s after SIGTERM with 400 units", took_s)
    assert took_s < 20
    assert not drawn_before(output, log, moments[0], unit_size=1) - receipts_of(output)
    assert len(receipts_of(output)) < 1200
    check_sound(output)


@pytest.mark.faults
@pytest.mark.usefixtures("local_ray")
def test_a_run_that_fails_too_often_stops_with_the_reasons_and_goes_on_when_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_INTERVAL_S", 0.5)
    output = tmp_path / "run"
    words = words_of(
        tmp_path,
        "unit_size=4",
        "num_rounds=2",
        "limits.max_error_share=0.3",
        "limits.min_rows_judged=12",
        num_seeds=60,
    )
    faults = [
        "generator.simulated.fault=nan",
        "generator.simulated.fault_rate=0.5",
        "generator.simulated.call_s=0.3",
        "captioner.simulated.fault=empty",
        "captioner.simulated.fault_rate=0.5",
    ]
    assert main(["run", *words, *faults]) == 1
    err = capsys.readouterr().err
    for words_said in ("ErrorShareError", "image_not_finite", "description_empty", "0.3 of them"):
        assert words_said in err, err
    assert "Traceback" not in err
    num_receipts = len(receipts_of(output))
    assert 3 <= num_receipts < 30
    check_sound(output)

    assert main(["run", *words]) == 0
    check_whole(output, tmp_path / "draw.log", 120, most=2.0)
    assert len(receipts_of(output)) == 30


@pytest.mark.usefixtures("local_ray")
def test_a_verdict_of_the_last_look_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is over before the second look must not end with 0 when all of it failed."""
    monkeypatch.setattr(watch, "LOOK_INTERVAL_S", 3600.0)
    words = words_of(tmp_path, "limits.min_rows_judged=1", "num_rounds=1")
    faults = ["generator.simulated.fault=nan", "generator.simulated.fault_rate=1.0"]
    assert main(["run", *words, *faults]) == 1
    assert "ErrorShareError" in capsys.readouterr().err
    assert receipts_of(tmp_path / "run")
    check_sound(tmp_path / "run")


@pytest.mark.faults
@pytest.mark.usefixtures("local_ray")
def test_a_run_that_stands_still_says_what_each_pool_waits_for(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "LOOK_INTERVAL_S", 0.5)
    monkeypatch.setattr(watch, "WAITING_INTERVAL_S", 1.0)
    # Long against the start of the processes before the first look, also on a busy machine.
    slow = ["generator.simulated.load_s=20", "limits.no_progress_s=2"]
    config = make_config("num_rounds=1", *slow)
    with caplog.at_level(logging.INFO, "pipelines.watch"):
        assert run(config).num_pairs == 10
    told = [record.getMessage() for record in caplog.records if record.name == "pipelines.watch"]
    assert any(line.startswith("nothing was committed for") for line in told), told
    waits = [line for line in told if line.startswith("pool generator: 0 replicas ready")]
    assert any("1 load their model" in line for line in waits), told
    assert any(line.startswith("pool captioner: ") for line in told), told
