"""One run whose work comes in waves, on a cluster that brings its GPU nodes and takes them back.

What makes the waves is what makes them in earnest: the store is away. Units wait for their commits,
the pools have nothing to do, their replicas go, then the nodes. When the store is back, so is work.
The cluster's node types are the worker groups of a manifest; their idle times alone are cut.

Limits: simulated models; nodes that come in seconds and are processes of one machine.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import cli
from fake_nodes import autoscaling_nodes, lose_node
from fault_proxy import FaultProxy, never, proxy_before
from k8s_groups import head_resources, node_types
from k8s_render import K8S, ray_resource, render
from ray_nodes import RayNodes
from runs import read_log
from s3_servers import S3Server, moto_process

OVERLAY = "gpu-spot"
MOST_GPU_NODES = 3  # two for the generator, one for the captioner
NODE_IDLE_S = 5.0
POOL_IDLE_S = 5.0
WAIT_S = 180.0
UNIT_SIZE = 8
COMMITS_A_WAVE = 6

Sample = dict[str, Any]


@dataclass
class Timeline:
    """What was seen, in seconds since the Unix epoch."""

    samples: list[Sample] = field(default_factory=list[Sample])
    commits: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    """When, and how many pairs."""
    outages: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    node_lost_at: float = 0.0
    lost_node: str = ""
    """Ray counts it for seconds more, beside the one that came in its place."""
    first_call_at: float = 0.0
    """When the first batch was drawn."""
    totals: dict[str, Any] = field(default_factory=dict[str, Any])
    log: str = ""
    verify_code: int = -1
    verify_said: str = ""
    num_cycles: int = 0
    """Times that there were all GPU nodes and then none."""

    def num_gpu_nodes(self) -> list[int]:
        """By sample, without the one that was lost."""
        return [
            len(set(one["gpu_nodes"]) - ({self.lost_node} if self._is_lost(one) else set()))
            for one in self.samples
        ]

    def _is_lost(self, sample: Sample) -> bool:
        return bool(self.lost_node) and sample["at"] >= self.node_lost_at

    def to_json(self) -> str:
        return json.dumps(self.__dict__)


def words(seeds: Path, uri: str, address: str, folder: Path) -> list[str]:
    """The manifest's own config, with simulated models and pools that follow their work."""
    return [
        str(cli.ROOT / "conf" / "synergy_kuberay.yaml"),
        f"output={uri}",
        f"seeds.path={seeds}",
        f"cluster.address={address}",
        "num_rounds=2",
        f"unit_size={UNIT_SIZE}",
        "stages.num_units_in_flight=6",
        "generator.backend=simulated",
        "generator.width_px=128",
        "generator.height_px=128",
        "generator.simulated.call_s=1.2",
        f"generator.simulated.log_path={folder / 'draw.log'}",
        "captioner.backend=simulated",
        "captioner.simulated.call_s=0.4",
        "pools.generator.num_replicas=2",
        "pools.generator.batch_size=4",
        "pools.captioner.num_replicas=1",
        "pools.captioner.batch_size=4",
        *(f"pools.{pool}.min_replicas=0" for pool in ("generator", "captioner")),
        *(f"pools.{pool}.idle_s={POOL_IDLE_S}" for pool in ("generator", "captioner")),
        "--json",
    ]


def group_types() -> tuple[dict[str, int], dict[str, Any]]:
    """Head and node types of the manifest, with idle times of seconds."""
    resource = ray_resource(render(K8S / "overlays" / OVERLAY))
    types = node_types(resource)
    for one in types.values():
        one["idle_timeout_s"] = NODE_IDLE_S
    return head_resources(resource), types


class Waves:
    """A run under way, and whoever takes its store away."""

    def __init__(self, nodes: RayNodes, proxy: FaultProxy, timeline: Timeline) -> None:
        self._nodes, self._proxy, self.timeline = nodes, proxy, timeline
        self.said: Callable[[], tuple[str, str]] = lambda: ("", "")
        self._watch = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "watch_cluster.py"), nodes.address],
            env=nodes.env,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._watch.stdout is not None
        for line in self._watch.stdout:
            if line.startswith("{"):  # Ray prints on stdout as well, what its autoscaler did
                self.timeline.samples.append(json.loads(line))

    def close(self) -> None:
        self._watch.kill()
        self._watch.wait()

    def num_gpu_nodes(self) -> int:
        return len(self.timeline.samples[-1]["gpu_nodes"]) if self.timeline.samples else -1

    def until(self, is_so: Any, run: "subprocess.Popen[str] | None", what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not is_so():
            seen = self.timeline.samples[-1:]
            assert time.monotonic() < deadline, f"no {what}: {seen} {self._nodes.logs()}"
            if run is not None and run.poll() is not None:
                raise AssertionError(f"before {what} the run ended: {self.said()}")
            time.sleep(0.2)

    def all_nodes(self) -> bool:
        """All GPU nodes are there, with a replica on each."""
        last = self.timeline.samples[-1] if self.timeline.samples else {}
        return bool(last) and (
            len(last["gpu_nodes"]) == MOST_GPU_NODES and last["num_placed"] == MOST_GPU_NODES
        )

    def one_outage(self, run: "subprocess.Popen[str]") -> None:
        """The store is away until the last GPU node is gone."""
        began = time.time()
        self._proxy.fault = lambda method, path: "error"
        try:
            self.until(lambda: self.num_gpu_nodes() == 0, run, "empty cluster")
        finally:
            self._proxy.fault = never
        self.timeline.outages.append((began, time.time()))
        self.timeline.num_cycles += 1

    def lose_one(self) -> None:
        """A GPU node goes in the middle of its work."""
        self.timeline.lost_node = self.timeline.samples[-1]["gpu_nodes"][0]
        self.timeline.node_lost_at = time.time()
        lose_node(self._nodes, self.timeline.lost_node)


def run_waves(folder: Path, num_cycles: int = 5) -> Timeline:
    """A whole run through that many outages, with a node lost in the third wave; see `Timeline`."""
    timeline = Timeline()
    seeds = folder / "seeds.txt"
    num_seeds = (num_cycles + 2) * COMMITS_A_WAVE * UNIT_SIZE
    seeds.write_text("".join(f"scene number {index}\n" for index in range(num_seeds)))
    server = moto_process(folder)
    server.start()
    try:
        with proxy_before(server.server.endpoint) as proxy:
            _run(folder, seeds, server.server, proxy, timeline, num_cycles)
    finally:
        server.kill()
    return timeline


def _run(
    folder: Path,
    seeds: Path,
    server: S3Server,
    proxy: FaultProxy,
    timeline: Timeline,
    num_cycles: int,
) -> None:
    head, types = group_types()
    env = server.env | {"AWS_ENDPOINT_URL": proxy.endpoint}
    uri = f"s3://{server.bucket}/waves"
    with autoscaling_nodes(head, types, env) as nodes:
        waves = Waves(nodes, proxy, timeline)
        try:
            waves.until(lambda: waves.num_gpu_nodes() == 0, None, "cluster")
            run = cli.start(["run", *words(seeds, uri, nodes.address, folder)], nodes.env)
            waves.said = _drained(run)
            for cycle in range(num_cycles):
                waves.until(waves.all_nodes, run, f"all nodes, {cycle + 1}")
                if cycle == 2:
                    waves.lose_one()
                    waves.until(lambda: not waves.all_nodes(), run, "loss of a node")
                    waves.until(waves.all_nodes, run, "node in its place")
                wanted = len(_receipts(server)) + COMMITS_A_WAVE
                waves.until(lambda n=wanted: len(_receipts(server)) >= n, run, "commits")
                waves.one_outage(run)
            run.wait(timeout=WAIT_S * 2)
            out, timeline.log = waves.said()
            assert run.returncode == 0, timeline.log[-4000:]
            timeline.totals = json.loads(out.strip().splitlines()[-1])
            waves.until(lambda: waves.num_gpu_nodes() == 0, None, "empty cluster at the end")
            done = cli.call("verify", uri, env=env)
            timeline.verify_code, timeline.verify_said = done.code, done.out + done.err
            timeline.commits = sorted(_commits(server))
            timeline.first_call_at = min(one["time"] for one in read_log(folder / "draw.log"))
        finally:
            waves.close()
            cli.kill_leftovers()


def _drained(run: "subprocess.Popen[str]") -> Callable[[], tuple[str, str]]:
    """Reads what a process says while it runs; called, waits and returns (stdout, stderr)."""
    said: dict[str, str] = {}

    def read(name: str) -> None:
        said[name] = getattr(run, name).read()

    threads = [threading.Thread(target=read, args=(name,)) for name in ("stdout", "stderr")]
    for thread in threads:
        thread.start()

    def wait() -> tuple[str, str]:
        for thread in threads:
            thread.join()
        return said["stdout"], said["stderr"]

    return wait


def _receipts(server: S3Server) -> list[str]:
    pages = (
        server.client()
        .get_paginator("list_objects_v2")
        .paginate(Bucket=server.bucket, Prefix="waves/receipts/")
    )
    return [one["Key"] for page in pages for one in page.get("Contents", [])]


def _commits(server: S3Server) -> list[tuple[float, int]]:
    client, found = server.client(), list[tuple[float, int]]()
    for key in _receipts(server):
        receipt = json.loads(client.get_object(Bucket=server.bucket, Key=key)["Body"].read())
        at = datetime.fromisoformat(receipt["committed_at"]).timestamp()
        found.append((at, receipt["num_pairs"]))
    return found
