"""Looks after the processes that a vLLM engine starts: none outlives its replica, and the reason
why one died is known.

vLLM runs its scheduler and its workers in processes of their own. They go on, with their GPU, when
the process that started them is killed (seen with 0.32: after SIGKILL both were there a minute
later). So a reaper, this file run as a script, waits at the end of a pipe: when the replica ends,
however it ends, it kills every process that carries the engine's mark in its environment. And what
vLLM raises says no more than that the engine is dead, so its processes log their errors into a
file, from which the first one is read.
Limits: Linux, for it reads /proc. The reaper must live: whoever kills the whole machine's
processes takes it along, and the others as well.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

_MARK = "PAIRLOOM_VLLM_ENGINE"
# The exception itself, as a traceback ends; of a chain the first one is the root of the others.
_RAISED = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt)\b.*", re.MULTILINE)


class EngineProcesses:
    """The mark, the error log and the reaper of one engine."""

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex
        self.folder = Path(tempfile.mkdtemp(prefix="pairloom-vllm-"))
        """For what is of use while the engine lives; goes with it."""
        self._errors = self.folder / "errors.log"
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", __file__, self._mark, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C at the terminal is not for it
        )
        self._reaper.wait()  # only the process that started it ends at once

    @contextlib.contextmanager
    def marked(self) -> Iterator[None]:
        """What is started inside carries the mark, and so do its children."""
        os.environ[_MARK] = self._mark
        try:
            yield
        finally:
            del os.environ[_MARK]

    def logging_file(self) -> str:
        """Path of a config for Python's logging: all to stdout as ever, errors into the log too."""
        handlers = {
            "console": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"},
            "errors": {
                "class": "logging.FileHandler",
                "filename": str(self._errors),
                "level": "ERROR",
                "delay": True,
                "encoding": "utf-8",
            },
        }
        for handler in handlers.values():
            handler["formatter"] = "plain"
        logger = {"handlers": list(handlers), "level": "INFO", "propagate": False}
        plain = {"format": "vllm %(process)d %(levelname)s %(message)s"}
        content = {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"plain": plain},
            "handlers": handlers,
            "loggers": {"vllm": logger},
        }
        path = self.folder / "logging.json"
        path.write_text(json.dumps(content))
        return str(path)

    def cause(self) -> str:
        """The first error that a process of the engine logged; empty if none did."""
        with contextlib.suppress(FileNotFoundError):
            raised = _RAISED.findall(self._errors.read_text(errors="replace"))
            # What this process logs when it finds the others gone says nothing of the reason.
            return next((each for each in raised if "EngineDeadError" not in each), "")
        return ""

    def close(self) -> None:
        """Ends every process of the engine that is still there, and removes the folder."""
        assert self._reaper.stdin is not None
        assert self._reaper.stdout is not None
        self._reaper.stdin.close()
        self._reaper.stdout.read()  # ends with the reaper
        self._reaper.stdout.close()


def processes_with(mark: str) -> list[int]:
    """Ids of the processes of this user whose environment holds `mark`."""
    wanted = f"{_MARK}={mark}".encode()
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if wanted in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
    return found


def _reap(mark: str, folder: str) -> None:
    # No child of the replica: Ray kills those with it, and the folder was left.
    if os.fork():
        return
    sys.stdin.buffer.read()  # ends with the replica
    # Again until none is left: one may be starting another.
    while found := processes_with(mark):
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _reap(*sys.argv[1:])
