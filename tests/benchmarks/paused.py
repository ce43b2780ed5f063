"""Bytes in flight while the captioner stands still: they must not grow, and nothing may spill.

    python tests/benchmarks/paused.py [pause_s]

A run on simulated engines, pictures of 256 x 256 px of noise (190 kB). Its captioner is stopped for
a minute (SIGSTOP, as a GPU that hangs looks from outside), while the generators could go on. Every
second the object store of the node is asked what it holds and what it has spilled. The same run
without a pause, with one round and with four, shows that bytes do not grow with rounds.

Limits: one node. The calls' timeout is above the pause, so that the pause is not a fault.
"""

import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]
os.environ.setdefault("RAY_worker_niceness", "0")

from cluster.config import load
from cluster.session import SessionConfig, session
from pipelines.overview import make_plan
from pipelines.run import run
from pipelines.synergy import SynergyConfig

UNIT_SIZE, NUM_UNITS = 64, 32


@dataclass
class Seen:
    """What the store held, second by second since the run began."""

    at_s: list[float] = field(default_factory=list)
    used_bytes: list[int] = field(default_factory=list)
    spilled_bytes: int = 0
    planned_bytes: int = 0
    """What the plan would say if it knew how long these pictures are."""

    def between(self, begin_s: float, end_s: float) -> list[int]:
        both = zip(self.at_s, self.used_bytes, strict=True)
        return [used for at, used in both if begin_s <= at <= end_s]


def watch(seen: Seen, is_over: threading.Event) -> None:
    """Asks for what the store has free: who asks for its statistics waits for the stopped process,
    and so saw nothing of the pause."""
    import ray

    whole = ray.cluster_resources()["object_store_memory"]
    began = time.monotonic()
    while not is_over.wait(1.0):
        seen.at_s.append(time.monotonic() - began)
        seen.used_bytes.append(round(whole - ray.available_resources()["object_store_memory"]))


def spilled_bytes() -> int:
    """Since this Ray began."""
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state: Any = get_state_from_address(ray.get_runtime_context().gcs_address)
    return get_memory_info_reply(state).store_stats.spilled_bytes_total


def pause(log: Path, after_calls: int, pause_s: float, paused: list[float], began: float) -> None:
    """Stops the captioner's process once it has answered some batches."""
    while True:
        lines = log.read_text().splitlines() if log.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("}")]
        if sum(event["event"] == "call" for event in events) >= after_calls:
            break
        time.sleep(0.2)
    pid = next(event["pid"] for event in events if event["event"] == "load")
    os.kill(pid, signal.SIGSTOP)
    paused.append(time.monotonic() - began)
    time.sleep(pause_s)
    os.kill(pid, signal.SIGCONT)
    paused.append(time.monotonic() - began)


def picture_bytes(output: Path) -> int:
    shard = next(output.glob("data/round=0/*.parquet"))
    images = pq.read_table(shard, columns=["image"]).column("image").to_pylist()
    return round(statistics.mean(len(image["bytes"]) for image in images))


def grow(folder: Path, num_rounds: int, num_units: int, pause_s: float) -> tuple[Seen, list[float]]:
    seeds = folder / "seeds.txt"
    seeds.write_text("\n".join(f"scene {n}" for n in range(num_units * UNIT_SIZE)))
    log = folder / "describe.log"
    words = [
        f"output={folder / 'run'}",
        f"seeds.path={seeds}",
        f"num_rounds={num_rounds}",
        f"unit_size={UNIT_SIZE}",
        "generator.backend=simulated",
        "generator.width_px=256",
        "generator.height_px=256",
        "generator.simulated.call_s=0.4",
        "captioner.backend=simulated",
        "captioner.simulated.call_s=0.1",
        f"captioner.simulated.log_path={log}",
        "pools.generator={num_replicas: 4, num_gpus: 1, num_cpus: 0.01, batch_size: 8}",
        "pools.captioner={num_replicas: 1, num_gpus: 1, num_cpus: 0.01, batch_size: 8}",
    ]
    seen, is_over, paused = Seen(), threading.Event(), list[float]()
    began = time.monotonic()
    watcher = threading.Thread(target=watch, args=(seen, is_over))
    watcher.start()
    if pause_s:
        arguments = (log, 24, pause_s, paused, began)
        threading.Thread(target=pause, args=arguments, daemon=True).start()
    config = load(SynergyConfig, str(ROOT / "conf" / "synergy.yaml"), words)
    try:
        totals = run(config)
    finally:
        is_over.set()
        watcher.join()
    seen.spilled_bytes = spilled_bytes()
    plan = replace(make_plan(config), row_bytes=picture_bytes(folder / "run"))
    seen.planned_bytes = plan.bytes_in_flight
    assert totals.num_pairs == num_units * UNIT_SIZE * num_rounds
    return seen, paused


def compare_rounds() -> None:
    for num_rounds in (1, 4):
        with tempfile.TemporaryDirectory() as name:
            seen, _ = grow(Path(name), num_rounds, NUM_UNITS // num_rounds, 0.0)
        print(
            f"{num_rounds} rounds: at most {max(seen.used_bytes) / 1e6:.0f} MB in flight, "
            f"median {statistics.median(seen.used_bytes) / 1e6:.0f}, the plan says "
            f"{seen.planned_bytes / 1e6:.0f}; {seen.spilled_bytes} bytes spilled"
        )


def stand_still(pause_s: float) -> bool:
    """Whether the store held no more in the second half of the pause, and nothing was spilled."""
    with tempfile.TemporaryDirectory() as name:
        seen, (begin_s, end_s) = grow(Path(name), 1, NUM_UNITS, pause_s)
    print(f"paused from {begin_s:.0f} to {end_s:.0f} s, load {os.getloadavg()[0]:.1f}")
    sixth_s = (end_s - begin_s) / 6
    sixths = [begin_s + n * sixth_s for n in range(6)]
    held = [seen.between(at, at + sixth_s) for at in sixths]
    for at, one in zip(sixths, held, strict=True):
        print(f"  from {at:5.0f} s: {min(one) / 1e6:.0f}-{max(one) / 1e6:.0f} MB")
    print(f"at most {max(seen.used_bytes) / 1e6:.0f} MB, {seen.spilled_bytes} bytes spilled")
    early, late = (max(max(one) for one in half) for half in (held[:3], held[3:]))
    return late <= early * 1.02 and not seen.spilled_bytes


def main() -> None:
    pause_s = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with session(SessionConfig(num_cpus=4, num_gpus=5, has_dashboard=False)):
        compare_rounds()
        is_met = stand_still(pause_s)
    print(f"flat while paused, no spill: {'met' if is_met else 'MISSED'}")
    sys.exit(0 if is_met else 1)


if __name__ == "__main__":
    main()
