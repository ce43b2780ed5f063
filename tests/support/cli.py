"""Runs the command line as a user does: a process of its own, its output captured."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_started: list[subprocess.Popen[str]] = []


@dataclass(frozen=True)
class Finished:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def totals(self) -> dict[str, Any]:
        """The JSON line that `--json` ends with."""
        return json.loads(self.out.strip().splitlines()[-1])


def start(
    words: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.Popen[str]:
    """Starts `pairloom` with these words; `kill_leftovers` ends it where the test does not."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines", *words],
        cwd=cwd,
        env={**os.environ, **(env or {}), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _started.append(process)
    return process


def kill_leftovers() -> None:
    """A run that its test gave up on took a core from all tests after it, for half an hour."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
            process.wait()


def call(
    *words: str,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    timeout_s: float = 150.0,
) -> Finished:
    """Runs `pairloom` with these words to its end."""
    with start(words, env, cwd) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return Finished(process.returncode, out, err)
