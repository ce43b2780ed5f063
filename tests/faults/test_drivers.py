"""Drivers that are killed, that are two, or whose clock jumps: the ledger does not mind."""

import logging
import random
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import cli
import pytest
from fault_proxy import FaultProxy, at_random
from runs import read_log, read_pairs
from s3_servers import S3Server
from whole_runs import check_sound, check_whole, receipts_of, wait_for, words_of

from cluster.storage import open_store

logger = logging.getLogger(__name__)

# The goal is 20 s and Ray's start, on a quiet machine.
DRIVER_BACK_S = 150
DAY_S = 24 * 3600.0
STABLE = ("pair_id", "prompt", "parent_id", "image_sha256", "description")


def _kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["walker", "actor"])
def test_a_driver_killed_at_random_moments_loses_nothing(tmp_path: Path, kind: str) -> None:
    output, log = tmp_path / "run", tmp_path / "draw.log"
    slow = ["generator.simulated.call_s=0.5", "unit_size=2", "stages.num_units_in_flight=2"]
    words = words_of(tmp_path, f"stages.kind={kind}", *slow, num_seeds=16)
    moments = random.Random(20261122)
    for goal in (1, 6, 12):
        started = time.time()
        before = receipts_of(output)
        process = cli.start(["run", *words])
        wait_for(
            lambda goal=goal, before=before: (
                len(receipts_of(output)) >= goal and receipts_of(output) != before
            ),
            process,
            timeout_s=DRIVER_BACK_S,
        )
        logger.info("the first commit came %.1f s after the command", time.time() - started)
        time.sleep(moments.uniform(0.0, 1.5))
        _kill(process)
        assert len(receipts_of(output)) < 24
        check_sound(output)
    done = cli.call("run", *words, "--json")
    assert done.code == 0, done.err
    # `actor` has up to all 8 units under way at each kill, of which a call or two are at work.
    check_whole(output, log, 48, most=1.0 + 3 * 2 * 4 / 48)


@pytest.mark.faults
def test_a_driver_killed_while_the_author_writes_asks_again_for_all_of_it(tmp_path: Path) -> None:
    """Seeds are committed as one table: there is none, or all of it."""
    output, author_log = tmp_path / "run", tmp_path / "author.log"
    author = {
        "num_batches": "6",
        "batch_size": "2",
        "model.backend": "simulated",
        "model.simulated.call_s": "1",
        "model.simulated.log_path": str(author_log),
        "pool.num_cpus": "0.1",
    }
    words = words_of(tmp_path, *(f"seeds.author.{key}={value}" for key, value in author.items()))
    words.append("seeds.path=null")
    for num_calls in (1, 3):
        before = len(read_log(author_log)) if author_log.exists() else 0
        process = cli.start(["run", *words])
        wait_for(
            lambda goal=before + num_calls: (
                author_log.exists() and len(read_log(author_log)) >= goal
            ),
            process,
        )
        _kill(process)
        assert not (output / "seeds" / "seeds.parquet").exists()
        assert receipts_of(output) == set()
    done = cli.call("run", *words, "--json")
    assert done.code == 0, done.err
    assert done.totals["num_pairs"] == 36
    check_whole(output, tmp_path / "draw.log", 36, most=1.0)


def _run_two(words: list[str]) -> list[cli.Finished]:
    drivers = [cli.start(["run", *words, "--json"]) for _ in range(2)]
    try:
        told = [driver.communicate(timeout=200) for driver in drivers]
    finally:
        for driver in drivers:
            driver.kill()
    return [
        cli.Finished(driver.returncode, *text) for driver, text in zip(drivers, told, strict=True)
    ]


@pytest.mark.faults
def test_two_drivers_on_one_output_commit_each_unit_once(tmp_path: Path) -> None:
    words = words_of(tmp_path, "unit_size=2", "generator.simulated.call_s=0.8", num_seeds=20)
    for done in _run_two(words):
        assert done.code == 0, done.err
        assert done.totals["num_pairs"] == 60
    pids = {call["pid"] for call in read_log(tmp_path / "draw.log")}
    assert len(pids) == 2, "only one of them ever drew"
    check_whole(tmp_path / "run", tmp_path / "draw.log", 60, most=2.0)


@pytest.mark.faults
def test_two_drivers_on_one_prefix_of_s3_commit_each_unit_once(
    tmp_path: Path, fault_proxy: FaultProxy, moto_s3: S3Server
) -> None:
    """Through a proxy that fails some requests: a reply that is lost may be that of the winner."""
    fault_proxy.fault = at_random(7, 0.05)
    output = f"{moto_s3.uri}/run"
    words = [*words_of(tmp_path, "unit_size=2", num_seeds=20), f"output={output}"]
    for done in _run_two(words):
        assert done.code == 0, done.err
        assert done.totals["num_pairs"] == 60
    assert len(open_store(output).list("receipts")) == 30
    check_whole(output, tmp_path / "draw.log", 60, most=2.0)


@pytest.fixture
def shift_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seconds that the wall clock of every process started from here on is ahead by."""
    library, path = tmp_path / "clock_shift.so", tmp_path / "shift"
    source = cli.ROOT / "tests" / "support" / "clock_shift.c"
    compile_it = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
    subprocess.run(compile_it, check=True)
    path.write_bytes(struct.pack("d", 0.0))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("CLOCK_SHIFT", str(path))
    return path


def _shift(path: Path, shift_s: float) -> None:
    with path.open("r+b") as file:  # in place: the processes have mapped it
        file.write(struct.pack("d", shift_s))


@pytest.mark.faults
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_clock_that_jumps_changes_nothing_but_the_times_told(
    tmp_path: Path, shift_file: Path
) -> None:
    """Three days ahead, then three back, for the driver and all of its Ray."""
    output, log = tmp_path / "run", tmp_path / "draw.log"
    slow = ["generator.simulated.call_s=1", "unit_size=2"]
    words = words_of(tmp_path, *slow, num_seeds=12)
    process = cli.start(["run", *words, "--json"])
    for days, goal in ((3, 3), (-3, 8)):
        wait_for(lambda goal=goal: len(receipts_of(output)) >= goal, process)
        _shift(shift_file, days * DAY_S)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    check_whole(output, log, 36, most=1.0)
    jumped = read_pairs(output)
    days = {row["created_at"].date() for row in jumped}
    assert len(days) >= 3, f"the clock did not jump: {days}"

    shutil.move(output, tmp_path / "jumped")
    log.unlink()
    calm = cli.call("run", *words_of(tmp_path, "unit_size=2", num_seeds=12))
    assert calm.code == 0, calm.err
    assert [[row[name] for name in STABLE] for row in jumped] == [
        [row[name] for name in STABLE] for row in read_pairs(output)
    ]
