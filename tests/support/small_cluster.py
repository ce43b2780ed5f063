"""A Ray cluster of several nodes on this machine: a head for the driver, workers with logical GPUs.

Limits: all nodes share this machine's CPUs, files and clock; a node is a raylet and its processes.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.session import prepared_environment

STORE = {"object_store_memory": 100 << 20}
# What a run is told, so that each model is on a worker of its own.
GPU_WORDS = ("pools.generator.num_gpus=1", "pools.captioner.num_gpus=1")


@contextmanager
def small_cluster(num_workers: int = 0, **system_config: Any) -> Iterator[Any]:
    """A head without GPUs, and workers. Its folder is its own, so that `auto` elsewhere does not
    find it."""
    folder = tempfile.mkdtemp(prefix="pl", dir="/tmp")  # sockets bear 107 characters of path
    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = folder
    cluster: Any = None
    try:
        with prepared_environment(is_local=False):
            from ray.cluster_utils import Cluster

            head = {"num_cpus": 2, "include_dashboard": False, "_system_config": system_config}
            cluster = Cluster(initialize_head=True, head_node_args=head | STORE)
            for _ in range(num_workers):
                add_worker(cluster)
            yield cluster
    finally:
        if cluster is not None:
            cluster.shutdown()
        if before is None:
            del os.environ["RAY_TMPDIR"]
        else:
            os.environ["RAY_TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)


def add_worker(cluster: Any) -> Any:
    """A node with one logical GPU: it holds one replica."""
    return cluster.add_node(num_cpus=1, num_gpus=1, **STORE)


def worker_of(cluster: Any, pid: int) -> Any:
    """The worker node that a process runs on: its raylet is among the parents."""
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
    while pid > 1 and pid not in raylets:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return raylets[pid]
