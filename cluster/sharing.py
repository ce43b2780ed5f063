"""Keeps the replicas that share a GPU together: a placement group for each GPU that is shared.

Left to itself Ray puts the next fraction onto the fullest GPU that has room: of 2 x .3 GPU and then
3 x .7, on three GPUs, both .3 were on one, and the last .7 waited for ever. In a group, which is as
large as what is to be in it and in whatever order that comes, every replica finds its place, also
in its next life. Groups are asked for one by one, not as a gang, so that a run begins with the
first GPU that a cluster brings.

Limits: pools of a fixed size. A group stays on its node until that is gone, so a replica that
leaves a draining node waits for that before it works elsewhere (`tests/faults/test_nodes.py`).
"""

from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cluster.packing import Demand, Node, shared_gpus

Places = Mapping[str, Sequence[Mapping[str, Any]]]


@contextmanager
def shared_places(demands: Sequence[Demand], nodes: Sequence[Node]) -> Generator[Places]:
    """For each pool whose replicas take a fraction of a GPU: actor options, replica by replica.

    Args:
        demands: all that a run asks for; whose replicas are whole GPUs, or none, is not bound.
        nodes: as they are now.
    """
    import ray
    from ray.util import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as InGroup

    by_name = {one.name: one for one in demands}
    places: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    started: list[Any] = []
    try:
        for holders in shared_gpus(demands, nodes):
            inside = [by_name[name] for name in holders.elements()]
            bundle = {
                "GPU": round(sum(one.num_gpus for one in inside), 4),
                "CPU": round(sum(one.num_cpus for one in inside), 4),
            }
            group = placement_group([{k: v for k, v in bundle.items() if v}])
            started.append(group)
            for one in inside:
                places[one.name].append({"scheduling_strategy": InGroup(group, 0)})
        yield places
    finally:
        for group in started if ray.is_initialized() else ():
            remove_placement_group(group)
