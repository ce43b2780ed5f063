"""Where replicas have a place: on which node, on which GPU, and with whom they share it.

Pure. Whole GPUs are given out before fractions, the largest replica first, to the first node with
room. Fractions take as few GPUs as that takes, and on those each goes where the fewest of its own
pool are: two halves of one model on one GPU and two of the other beside it leave a GPU idle.

Limits: every node is taken as empty: what other jobs hold for now is not known. A packing that only
a cleverer order finds is refused.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

# Ray counts resources in ten-thousandths.
_ROUNDING = 1e-5


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What one pool asks for: so many replicas, each with its share of one node.

    The stages are one more: a run whose replicas filled the machine to the last CPU waited for
    ever, its models loaded, because no stage could be placed.
    """

    name: str
    num_replicas: int
    num_cpus: float
    num_gpus: float

    @property
    def is_fraction(self) -> bool:
        """Whether its replicas leave some of their GPU to others."""
        return 0 < self.num_gpus < 1


@dataclass(frozen=True, kw_only=True)
class Node:
    """What one machine has."""

    num_cpus: float
    num_gpus: float


def check_fits(demands: Sequence[Demand], nodes: Sequence[Node], *, can_autoscale: bool) -> None:
    """Refuses pools that would wait for ever.

    Raises:
        ValueError: a replica has no place, and nothing will bring more.
    """
    if can_autoscale or not demands:
        return
    problem = find_misfit(demands, nodes)
    if problem:
        num_cpus = sum(one.num_replicas * one.num_cpus for one in demands)
        num_gpus = sum(one.num_replicas * one.num_gpus for one in demands)
        each = ", ".join(f"{one.name} {one.num_replicas} x ({_amounts(one)})" for one in demands)
        raise ValueError(
            f"the run asks for {num_gpus:g} GPUs, {num_cpus:g} CPUs ({each}), and "
            f"{_describe_nodes(nodes)}: {problem}. Lower num_replicas, num_gpus or num_cpus of "
            "a pool (fractions let replicas share a GPU or a CPU), or set "
            "cluster.can_autoscale=true if a cluster brings nodes on demand"
        )


def find_misfit(demands: Sequence[Demand], nodes: Sequence[Node]) -> str:
    """The first pool that has no place for all its replicas, as text; empty when all have one."""
    return _pack(demands, nodes)[1]


def shared_gpus(demands: Sequence[Demand], nodes: Sequence[Node]) -> list[Counter[str]]:
    """How many replicas of which pool are on each GPU that is given out in fractions.

    Where the nodes do not suffice, others are to come, with CPUs enough for all on their GPUs.
    """
    if find_misfit(demands, nodes):
        num_gpus = sum(one.num_replicas * math.ceil(one.num_gpus) for one in demands)
        nodes = [*nodes, Node(num_cpus=math.inf, num_gpus=num_gpus)]
    tight, _ = _pack(demands, nodes)
    spread, problem = _pack(demands, nodes, most_shared=len(tight))
    return tight if problem else spread


def _pack(
    demands: Sequence[Demand], nodes: Sequence[Node], most_shared: int | None = None
) -> tuple[list[Counter[str]], str]:
    """The GPUs that are given out in fractions, and what has no place, as for `find_misfit`.

    With `most_shared` fractions are spread over up to so many GPUs; else they fill up the first.
    """
    rooms = [_Room(num_cpus=one.num_cpus, num_gpus=int(one.num_gpus)) for one in nodes]
    shared: list[_Gpu] = []
    for demand in sorted(demands, key=lambda one: (one.num_gpus, one.num_cpus), reverse=True):
        for num_placed in range(demand.num_replicas):
            place = _find(demand, rooms, shared, most_shared)
            if place is None:
                problem = (
                    f"{demand.name} finds room for {num_placed} of {demand.num_replicas} "
                    "(each on one node, a fraction of a GPU on one GPU)"
                )
                return [gpu.holders for gpu in shared], problem
            room, gpus = place
            room.num_cpus -= demand.num_cpus
            for gpu in gpus:
                gpu.left -= min(demand.num_gpus, 1.0)
                gpu.holders[demand.name] += 1
                if demand.is_fraction and gpu not in shared:
                    shared.append(gpu)
    return [gpu.holders for gpu in shared], ""


@dataclass(eq=False)
class _Gpu:
    """What is left of one GPU while replicas are placed, and who has the rest."""

    left: float = 1.0
    holders: Counter[str] = field(default_factory=Counter[str])


class _Room:
    """What is left of one node."""

    def __init__(self, num_cpus: float, num_gpus: int) -> None:
        self.num_cpus = num_cpus
        self.gpus = [_Gpu() for _ in range(num_gpus)]


def _find(
    demand: Demand, rooms: Sequence[_Room], shared: Sequence[_Gpu], most_shared: int | None
) -> tuple[_Room, list[_Gpu]] | None:
    share, num_gpus = min(demand.num_gpus, 1.0), math.ceil(demand.num_gpus)
    fitting = [
        (room, [gpu for gpu in room.gpus if gpu.left + _ROUNDING >= share])
        for room in rooms
        if room.num_cpus + _ROUNDING >= demand.num_cpus
    ]
    places = [(room, gpus) for room, gpus in fitting if len(gpus) >= num_gpus]
    if not demand.is_fraction or most_shared is None:
        return next(((room, gpus[:num_gpus]) for room, gpus in places), None)
    is_full = len(shared) >= most_shared
    one_each = [
        (room, [gpu]) for room, gpus in places for gpu in gpus if gpu.holders or not is_full
    ]
    return min(one_each, key=lambda p: (p[1][0].holders[demand.name], -p[1][0].left), default=None)


def _describe_nodes(nodes: Sequence[Node]) -> str:
    kinds = Counter(_amounts(node) for node in nodes)
    if len(nodes) == 1:
        return f"the machine has {next(iter(kinds))}"
    listed = ", ".join(f"{count} x ({kind})" for kind, count in kinds.items())
    return f"the cluster has {len(nodes)} nodes: {listed}" if nodes else "the cluster has no nodes"


def _amounts(one: Demand | Node) -> str:
    return f"{one.num_gpus:g} GPUs, {one.num_cpus:g} CPUs"
