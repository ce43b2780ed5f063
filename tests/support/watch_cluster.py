"""Prints which nodes and replicas a cluster has, as lines of JSON: `watch_cluster.py ADDRESS`.

A process of its own, because a process speaks to one cluster with one token.
"""

import json
import sys
import time
from typing import Any


def main(address: str, interval_s: float = 0.5) -> None:
    import ray
    from ray._private.state import actors

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    while True:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        replicas: list[dict[str, Any]] = [
            one for one in actors().values() if one["ActorClassName"].endswith("Replica")
        ]
        line = {
            "at": time.time(),
            "gpu_nodes": [n["NodeID"] for n in nodes if n["Resources"].get("GPU")],
            "num_cpu_nodes": sum(not node["Resources"].get("GPU") for node in nodes),
            "num_placed": sum(one["State"] == "ALIVE" for one in replicas),
            "num_pending": sum(
                one["State"] in ("PENDING_CREATION", "DEPENDENCIES_UNREADY") for one in replicas
            ),
        }
        print(json.dumps(line), flush=True)  # noqa: T201 - its output is what it is for
        time.sleep(interval_s)


if __name__ == "__main__":
    main(sys.argv[1])
