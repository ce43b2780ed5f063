"""Whether all nodes of a cluster see the folder that a run writes to.

Limits: asks the nodes that are there now; object storage is taken to be the same from everywhere.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.storage import LocalStore, open_store

logger = logging.getLogger(__name__)

# NFS clients may remember for seconds that a file was not there.
VISIBLE_WITHIN_S = 5.0
# For the answers of all nodes, a process started on each.
NODES_ANSWER_WITHIN_S = 120.0


def check_visible_everywhere(uri: str, key: str) -> None:
    """Refuses an output folder that is not the same on all nodes which now could run a stage.

    `key` is one that the driver has put there. Does nothing for object storage or on one node. A
    node that does not answer is logged, not refused; one that joins later is not asked.

    Raises:
        ValueError: nodes do not see `key`; what they commit would stay with them.
    """
    import ray  # late: `pairloom plan` must not pay for it
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    store = open_store(uri)
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    if len(nodes) < 2 or not isinstance(store, LocalStore):
        return
    path, wait_s = Path(store.uri, key), VISIBLE_WITHIN_S

    def is_visible() -> bool:  # nested, so that it travels by value
        deadline_s = time.monotonic() + wait_s
        while not path.is_file() and time.monotonic() < deadline_s:
            time.sleep(0.2)
        return path.is_file()

    probe: Any = ray.remote(is_visible)
    answers = {
        probe.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        ).remote(): f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for node_id, node in nodes.items()
        if node["Resources"].get("CPU")  # a head without CPUs runs no stage
    }
    if not answers:
        return
    done, silent = ray.wait([*answers], num_returns=len(answers), timeout=NODES_ANSWER_WITHIN_S)
    for reference in silent:
        logger.warning("node %s did not say whether it sees %s", answers[reference], path)
    blind: list[str] = []
    for reference in done:
        try:
            blind += [] if ray.get(reference) else [answers[reference]]
        except RayError as error:
            logger.warning("node %s could not look for %s: %s", answers[reference], path, error)
    refuse_blind(store.uri, key, blind)


def refuse_blind(folder: str, key: str, blind: Sequence[str]) -> None:
    """`ValueError` that names the nodes which do not see `key`, if there are any."""
    if not blind:
        return
    named = ", ".join(sorted(blind)[:10]) + (", ..." if len(blind) > 10 else "")
    raise ValueError(
        f"output {folder!r} is a local folder, and {len(blind)} nodes of the cluster do not see "
        f"the {key} that was written there: {named}. Use object storage (s3://, gs://, az://) or "
        "a folder that is mounted on every node at the same path"
    )
