"""What a batch costs the dispatcher, the caller and a replica, in CPU: models that take no time.

    python tests/benchmarks/dispatch_cost.py [num_batches] [num_repeats]

Batches of 8 rows with 20 kB of picture each go through a pool of 4 and of 32 replicas that return
them, as many at a time as keeps every replica busy. CPU is what the kernel has charged each process
with (`/proc`), Ray's own threads in it; the goal is 5 ms of one core a batch in the dispatcher.

Predicted before the first run: 3 ms in the dispatcher with either pool, 2 ms in a replica.

Limits: Linux. One process is the caller; a run has one, its walker, for all units of a node.
"""

import asyncio
import os
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2])]
os.environ.setdefault("RAY_worker_niceness", "0")

import numpy as np

from cluster.pool import Pool, PoolConfig, Row, start_pool
from cluster.session import SessionConfig, session

BATCH_SIZE, IMAGE_BYTES, GOAL_MS = 8, 20_000, 5.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def return_rows() -> Any:
    return lambda rows: rows


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def dispatcher_pid() -> int:
    found = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"dispatcher" in (title := path.read_bytes().lower()) and title.startswith(b"ray::")
    ]
    assert len(found) == 1, found
    return found[0]


async def send(pool: Pool, num_batches: int, at_a_time: int) -> None:
    picture = np.random.default_rng(0).bytes(IMAGE_BYTES)
    rows: list[Row] = [{"image": {"bytes": picture, "path": None}}] * BATCH_SIZE
    places = asyncio.Semaphore(at_a_time)

    async def one(order: int) -> None:
        async with places:
            await pool.run(rows, order=order)

    await asyncio.gather(*(one(n) for n in range(num_batches)))


def measure(num_replicas: int, num_batches: int) -> dict[str, float]:
    """Milliseconds of CPU a batch, by kind of process."""
    config = PoolConfig(num_replicas=num_replicas, num_cpus=0.01, batch_size=BATCH_SIZE)
    pool = start_pool("echo", return_rows, config)
    try:
        asyncio.run(send(pool, num_replicas, num_replicas))  # the rest is asked for with the first
        pool.wait_ready(300.0, num_replicas=num_replicas)
        pids = {
            "dispatcher": [dispatcher_pid()],
            "caller": [os.getpid()],
            "replica": list(pool.stats().replica_pids),
        }
        before = {name: sum(map(cpu_s, some)) for name, some in pids.items()}
        asyncio.run(send(pool, num_batches, 2 * num_replicas))
        return {
            name: 1000 * (sum(map(cpu_s, some)) - before[name]) / num_batches
            for name, some in pids.items()
        }
    finally:
        pool.close()


def main() -> None:
    num_batches = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    found: dict[int, list[dict[str, float]]] = {4: [], 32: []}
    with session(SessionConfig(num_cpus=4, has_dashboard=False)):
        for _ in range(repeats):
            for num_replicas, results in found.items():
                results.append(measure(num_replicas, num_batches))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {num_batches} batches")
    for num_replicas, results in found.items():
        told = ", ".join(
            f"{name} {statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
            for name in results[0]
            if (values := [one[name] for one in results])
        )
        is_met = statistics.median(one["dispatcher"] for one in results) <= GOAL_MS
        verdict = "met" if is_met else "MISSED"
        print(f"{num_replicas} replicas, ms of CPU a batch: {told}; goal {GOAL_MS:g}: {verdict}")


if __name__ == "__main__":
    main()
