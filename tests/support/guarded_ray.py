"""A Ray as pairloom starts it, in a process of its own, to be looked at from outside.

Limits: the agent's HTTP port, fixed in Ray (52365), is a free one here, as another Ray of the
machine may hold it; an agent that finds it taken goes on without its server.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
HOLD = """
import functools, json, sys
import ray
from ray._private.parameter import RayParams
from cluster.session import SessionConfig, session

free_port = {"dashboard_agent_listen_port": 0}
RayParams.__init__ = functools.partialmethod(RayParams.__init__, **free_port)
with session(SessionConfig(num_cpus=1)) as info:
    ray.get(ray.remote(num_cpus=0)(lambda: None).remote())
    print(json.dumps([info.dashboard_url, info.logs_path]), flush=True)
    sys.stdin.read()
"""
_ROUTE = re.compile(r"<ResourceRoute \[(\w+)\] <(?:Plain|Dynamic)Resource\s+(\S+)>")


@dataclass(frozen=True)
class GuardedRay:
    """Where it is, and the processes that it consists of."""

    dashboard: str
    session: Path
    home: Path
    process: psutil.Process

    @property
    def token(self) -> str:
        return (self.home / ".ray" / "auth_token").read_text()

    @property
    def gcs(self) -> str:
        return f"127.0.0.1:{self.port('gcs_server_port')}"

    def port(self, name: str) -> int:
        """A port that Ray has written down; -1 for a server that could not start."""
        deadline = time.monotonic() + 60
        while not (files := list(self.session.glob(f"{name}_*"))):
            assert time.monotonic() < deadline, f"no {name}"
            time.sleep(0.1)
        return int(files[0].read_text())

    def listening(self) -> list[tuple[str, int]]:
        """(address, port) of every TCP server of it."""
        found: list[tuple[str, int]] = []
        for process in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                sockets = process.net_connections(kind="tcp")
                found += [
                    (one.laddr.ip, one.laddr.port) for one in sockets if one.status == "LISTEN"
                ]
        return found

    def routes(self, log: str) -> list[tuple[str, str]]:
        """(method, path) of every route, which the server of `log` wrote down."""
        path = self.session / "logs" / log
        deadline = time.monotonic() + 60
        while not re.search(r"Registered \d+ routes", text := path.read_text()):
            assert time.monotonic() < deadline, text
            time.sleep(0.1)
        return _ROUTE.findall(text)


@contextlib.contextmanager
def guarded_ray(extra: Mapping[str, str]) -> Iterator[GuardedRay]:
    """Starts it with a home and a temporary folder of its own, and ends it."""
    folder = Path(tempfile.mkdtemp(prefix="g", dir="/tmp"))  # short: sockets have 107 characters
    folder.chmod(0o755)  # what is private below is so by itself
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env |= {"HOME": str(folder), "TMPDIR": str(folder), "PYTHONPATH": str(ROOT), **extra}
    with (folder / "err").open("w") as err:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        line = holder.stdout.readline()
        assert line, (folder / "err").read_text()
        url, logs = json.loads(line)
        yield GuardedRay(url, Path(logs).parent, folder, psutil.Process(holder.pid))
    finally:
        holder.stdin.close()
        holder.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)
