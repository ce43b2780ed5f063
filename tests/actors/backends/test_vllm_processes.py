"""The reaper and the error log, with sleeping processes in the place of an engine's."""

import json
import logging
import logging.config
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.backends.vllm_processes import EngineProcesses, processes_with

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
# A process that starts an engine's processes, and a child of theirs, and then waits.
OWNER = """
import subprocess, sys, time
from actors.backends.vllm_processes import EngineProcesses
processes = EngineProcesses()
sleep = "import time; time.sleep(60)"
nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{sleep}'])"
with processes.marked():
    subprocess.Popen([sys.executable, "-c", nested])
print(processes._mark, processes.folder, flush=True)
time.sleep(60)
"""


def _wait_for(mark: str, count: int) -> list[int]:
    ends = time.monotonic() + 20
    while len(found := processes_with(mark)) != count:
        assert time.monotonic() < ends, found
        time.sleep(0.05)
    return found


def test_closing_ends_what_was_started_marked_and_nothing_else() -> None:
    processes = EngineProcesses()
    beside = subprocess.Popen(SLEEP)
    with processes.marked():
        inside = subprocess.Popen(SLEEP)
    after = subprocess.Popen(SLEEP)
    assert _wait_for(processes._mark, 1) == [inside.pid]
    processes.close()
    assert inside.wait(10) == -signal.SIGKILL
    assert not processes.folder.exists()
    for each in (beside, after):
        assert each.poll() is None
        each.kill()
        each.wait()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_an_owner_that_is_killed_leaves_no_process_and_no_folder(name: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        mark, folder = owner.stdout.readline().split()
        _wait_for(mark, 2)
        os.kill(owner.pid, getattr(signal, name))
    _wait_for(mark, 0)
    ends = time.monotonic() + 10
    while Path(folder).exists():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_the_first_error_of_a_chain_is_the_cause() -> None:
    processes = EngineProcesses()
    try:
        assert processes.cause() == ""
        config = json.loads(Path(processes.logging_file()).read_text())
        assert config["loggers"]["vllm"]["handlers"] == ["console", "errors"]
        handler = logging.FileHandler(config["handlers"]["errors"]["filename"])
        logger = logging.getLogger("as-vllm-logs")
        logger.propagate = False
        logger.addHandler(handler)
        try:
            try:
                raise MemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            except MemoryError as error:
                raise RuntimeError("Worker failed with error") from error
        except RuntimeError:
            logger.exception("EngineCore encountered a fatal error.")
        handler.close()
        assert processes.cause() == "MemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    finally:
        processes.close()


def test_what_the_owner_says_of_the_death_is_no_cause() -> None:
    processes = EngineProcesses()
    try:
        text = "Traceback\nvllm.v1.engine.exceptions.EngineDeadError: See stack trace (above)\n"
        (processes.folder / "errors.log").write_text(text)
        assert processes.cause() == ""
    finally:
        processes.close()
