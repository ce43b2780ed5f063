"""Ray nodes of this machine as an operator starts them: `ray start`, a token, a process tree each.

Ended by their process ids alone: `ray stop` would end every Ray of the machine.

Limits: all nodes share this machine's CPUs, files and clock. Ports are free ones, but for that of
the autoscaler's metrics (44217), which Ray does without where it is taken.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cli
import psutil
from ports import free_ports

from cluster.session import ENVIRONMENT

BIN = Path(sys.executable).parent
START_TIMEOUT_S = 120.0


@dataclass
class RayNodes:
    """A head and what was added to it; `env` is that of somebody who may use them."""

    folder: Path
    env: dict[str, str]
    bin: Path = BIN
    address: str = ""
    dashboard: str = ""
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start_head(
        self, *words: str, gcs_port: int | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        free_gcs, dashboard, agent = free_ports(3)
        gcs = gcs_port or free_gcs
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        self._start(
            "head",
            "--head",
            f"--port={gcs}",
            "--node-ip-address=127.0.0.1",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}",
            # An agent that finds its port taken runs no jobs, and says so in its log only.
            f"--dashboard-agent-listen-port={agent}",
            f"--temp-dir={self.folder}",
            *words,
            env=env,
        )
        self.address = f"127.0.0.1:{gcs}"
        self.env |= {"RAY_API_SERVER_ADDRESS": self.dashboard}
        self._wait(lambda: self.ray("job", "list").returncode == 0)

    def add_worker(self, *words: str) -> "subprocess.Popen[bytes]":
        """A node; it is there once Ray counts it."""
        (agent,) = free_ports(1)
        name = f"worker{len(self.processes)}"
        before = self.num_alive()
        started = self._start(
            name,
            f"--address={self.address}",
            "--node-ip-address=127.0.0.1",
            f"--dashboard-agent-listen-port={agent}",
            *words,
        )
        self._wait(lambda: self.num_alive() > before)
        return started

    def num_alive(self) -> int:
        """Nodes that Ray counts, the head included."""
        done = self.ray("list", "nodes", "--filter", "state=ALIVE", "--format", "json")
        return done.stdout.count('"node_id"') if done.returncode == 0 else 0

    def ray(
        self, *words: str, env: Mapping[str, str] | None = None, timeout_s: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """The `ray` command, in the repository."""
        return subprocess.run(
            [str(self.bin / "ray"), *words],
            cwd=cli.ROOT,
            env=self.env if env is None else dict(env),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def kill(self, node: "subprocess.Popen[bytes]") -> None:
        """A node and all that runs on it, at once."""
        for process in tree_of(node.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait(timeout=60)

    def logs(self) -> str:
        """What the nodes said, its end."""
        return "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("*.out")))

    def _start(
        self, name: str, *words: str, env: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.out").open("wb") as out:
            started = subprocess.Popen(
                [str(self.bin / "ray"), "start", "--block", "--disable-usage-stats", *words],
                env=self.env | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self.processes.append(started)
        return started

    def _wait(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_so():
            assert time.monotonic() < deadline, self.logs()
            assert all(one.poll() is None for one in self.processes), self.logs()
            time.sleep(0.5)


def tree_of(pid: int) -> list[psutil.Process]:
    """A process and all below it, the lowest first."""
    try:
        top = psutil.Process(pid)
        return [*reversed(top.children(recursive=True)), top]
    except psutil.NoSuchProcess:
        return []


@contextlib.contextmanager
def ray_nodes(extra: Mapping[str, str] | None = None, bin_: Path = BIN) -> Iterator[RayNodes]:
    """None yet; all that are started in the block are ended with it.

    `bin_` holds the `ray` of an environment, this one's if nothing is said.
    """
    folder = Path(tempfile.mkdtemp(prefix="pl", dir="/tmp"))  # sockets bear 107 characters of path
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # A cluster must bring these itself, as k8s/base/rayjob.yaml does.
    env |= {
        **ENVIRONMENT,
        "PATH": f"{bin_}:{env['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    nodes = RayNodes(folder, env | dict(extra or {}), bin_)
    try:
        yield nodes
    finally:
        # All are looked up before the first is killed: whose parent is gone is found no more.
        started = [one for node in nodes.processes for one in tree_of(node.pid)]
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for node in nodes.processes:
            node.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)
