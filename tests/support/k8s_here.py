"""The pods of an overlay as processes of this machine, each with a network and a root of its own.

Each has a network namespace with an address of its own on one bridge, a mount namespace in which
the root is read-only and only what the manifest lays a volume over can be written, uid 1000, no
capability, and no way to more. What they say to each other is watched, not filtered.

Limits: Linux, root, iproute2 and util-linux; containers' images, limits of memory and Kubernetes
itself are not there. /app and /output are below /tmp here.
"""

import os
import re
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from k8s_render import ROOT, PodTemplate

BIN = ROOT / ".venv" / "bin"
RAY = f"{BIN}/python -m ray.scripts.scripts"
BRIDGE = "plbr0"
TOKEN = "0123456789abcdef" * 4


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


class Pods:
    """Pods by name, from `start` until `close`; `talk` has each (client, server, port) seen."""

    def __init__(self, shared: Path) -> None:
        self.shared = shared
        self.addresses: dict[str, str] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.talk: set[tuple[str, str, int]] = set()
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "link", "set", BRIDGE, "up")
        self._watcher.start()

    def add(self, name: str) -> str:
        """A network for a pod; its address."""
        space, number = f"pl-{name}", len(self.addresses) + 1
        run("ip", "netns", "add", space)
        run(
            "ip",
            "link",
            "add",
            f"plv{number}",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            space,
        )
        run("ip", "link", "set", f"plv{number}", "master", BRIDGE, "up")
        for words in (["link", "set", "lo", "up"], ["link", "set", "eth0", "up"],
                      ["addr", "add", f"10.77.0.{number}/24", "dev", "eth0"]):  # fmt: skip
            run("ip", "-n", space, *words)
        self.addresses[name] = f"10.77.0.{number}"
        return self.addresses[name]

    def start(
        self, name: str, pod: PodTemplate, command: str, env: dict[str, str], log: Path
    ) -> None:
        """Runs the command as the pod's container."""
        script = "\n".join([*self._mounts(pod), f"cd /tmp/app; exec {_as_user(pod)} {command}"])
        words = ["ip", "netns", "exec", f"pl-{name}", "unshare", "--mount", "bash", "-ec", script]
        variables = {"PATH": f"{BIN}:/usr/bin:/bin", "LANG": "C.UTF-8"} | pod.env() | env
        variables["RAY_AUTH_MODE"], variables["RAY_AUTH_TOKEN"] = "token", TOKEN
        with log.open("wb") as out:
            self.processes[name] = subprocess.Popen(words, env=variables, stdout=out, stderr=out)

    def _mounts(self, pod: PodTemplate) -> list[str]:
        """Volumes where the manifest has them, all else read-only."""
        volumes = {one["name"]: one for one in pod.spec["volumes"]}
        lines = ["mount --make-rprivate /", *_python(), f"mount --bind {self.shared} /mnt"]
        mounts = sorted(pod.container["volumeMounts"], key=lambda one: len(one["mountPath"]))
        for one in mounts:
            if "emptyDir" in volumes[one["name"]]:
                path = one["mountPath"]
                make = f"mkdir -p {path}" if path.startswith(("/tmp/", "/home/")) else "true"
                if path.startswith("/home/"):
                    lines.append("mount -t tmpfs tmpfs /home")
                lines.append(f"{make}; mount -t tmpfs -o mode=1777 tmpfs {path}")
        lines += ["mkdir /tmp/output /tmp/app /tmp/app/conf", "mount --move /mnt /tmp/output"]
        lines += [f"mount --bind {ROOT}/conf /tmp/app/conf", "mount -o remount,bind,ro /"]
        return [
            *lines,
            "mount -o remount,bind,ro /home" if any("/home" in m for m in lines) else "true",
        ]

    def _watch(self) -> None:
        while not self._is_over.wait(0.2):
            for name, address in list(self.addresses.items()):
                seen = subprocess.run(
                    ["ip", "netns", "exec", f"pl-{name}", "cat", "/proc/net/tcp", "/proc/net/tcp6"],
                    capture_output=True, text=True, check=False,
                ).stdout  # fmt: skip
                self.talk |= _connections(seen, name, address, self.addresses)

    def ask(self, client: str, server: str, port: int, path: str) -> str:
        """What a pod answers another one that has no token: the code and the body."""
        code = (
            "import sys, urllib.request; answer = urllib.request.urlopen(sys.argv[1], timeout=10); "
            "print(answer.status, answer.read().decode())"
        )
        url = f"http://{self.addresses[server]}:{port}{path}"
        words = ["ip", "netns", "exec", f"pl-{client}", sys.executable, "-c", code, url]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return (done.stdout or done.stderr).strip()

    def close(self) -> None:
        self._is_over.set()
        self._watcher.join(timeout=10)
        for name in self.addresses:
            pids = subprocess.run(
                ["ip", "netns", "pids", f"pl-{name}"], capture_output=True, text=True, check=False
            )
            for pid in pids.stdout.split():
                subprocess.run(["kill", "-9", pid], check=False, capture_output=True)
        for process in self.processes.values():
            process.wait(timeout=30)
        for number, name in enumerate(self.addresses, 1):
            subprocess.run(["ip", "link", "del", f"plv{number}"], check=False, capture_output=True)
            subprocess.run(["ip", "netns", "del", f"pl-{name}"], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", BRIDGE], check=False, capture_output=True)


def _python() -> list[str]:
    """Python itself may lie in root's home, which nobody else may enter."""
    if not sys.base_prefix.startswith("/root/"):
        return []
    prefix = sys.base_prefix
    return [
        f"mount --bind {prefix} /mnt",
        "mount -t tmpfs -o mode=755 tmpfs /root",
        f"mkdir -p {prefix}; mount --move /mnt {prefix}; mount -o remount,bind,ro /root",
    ]


def _as_user(pod: PodTemplate) -> str:
    context: dict[str, Any] = pod.spec["securityContext"]
    uid, gid = context["runAsUser"], context["runAsGroup"]
    return (
        f"setpriv --reuid {uid} --regid {gid} --clear-groups --no-new-privs "
        "--bounding-set -all --inh-caps -all"
    )


def _connections(
    text: str, name: str, address: str, addresses: dict[str, str]
) -> set[tuple[str, str, int]]:
    """From the kernel's table: who listens is told by its port being in LISTEN here."""
    names = {value: key for key, value in addresses.items()}
    rows = re.findall(r"^ *\d+: (\w+):(\w{4}) (\w+):(\w{4}) (\w\w)", text, re.MULTILINE)
    listening = {int(port, 16) for _, port, _, _, state in rows if state == "0A"}
    found: set[tuple[str, str, int]] = set()
    for _, port, other, _, state in rows:
        peer = names.get(".".join(str(int(other[-8:][i : i + 2], 16)) for i in (6, 4, 2, 0)))
        if state == "01" and peer and peer != name and int(port, 16) in listening:
            found.add((peer, name, int(port, 16)))
    return found


def ray_start(pod: PodTemplate, address: str, head: str | None, **params: str) -> str:
    """The command that KubeRay makes of a group's rayStartParams and limits."""
    words = {"num-cpus": str(int(pod.limit("cpu"))), **pod.group["rayStartParams"], **params}
    words |= {"node-ip-address": address, "disable-usage-stats": ""}
    words |= {"port": "6379"} if head is None else {"address": f"{head}:6379"}
    options = " ".join(f"--{key}={value}" if value else f"--{key}" for key, value in words.items())
    return f"{RAY} start {'--head ' if head is None else ''}--block {options}"


def after(seconds: int, command: str) -> str:
    return f"bash -c {shlex.quote(f'sleep {seconds}; exec {command}')}"


def here(text: str) -> str:
    """Paths of the image and of volumes as they are on this machine."""
    return shlex.join(
        word.replace("/app/", "/tmp/app/").replace("/output/", "/tmp/output/")
        for word in shlex.split(text)
    )


def can_be_here() -> bool:
    if os.geteuid() != 0:
        return False
    try:
        done = subprocess.run(["ip", "netns", "add", "pl-probe"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    if done.returncode == 0:
        subprocess.run(["ip", "netns", "del", "pl-probe"], capture_output=True, check=False)
    return done.returncode == 0


def wait_until(is_so: Any, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if is_so():
            return True
        time.sleep(0.5)
    return False
