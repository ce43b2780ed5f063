"""What a run would do, computed from its numbers alone: units, stages, calls, GPUs, bytes.

Pure: nothing is measured, loaded or started, so that it answers at once on any machine.

Limits: time and cost need rates that only a running model gives: see `split.py`.
`check_fits` packs greedily and takes every node as empty: what other jobs hold for now is not
known, and a packing that only a cleverer order finds is refused.
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


@dataclass(frozen=True, kw_only=True)
class Node:
    """What one machine has."""

    num_cpus: float
    num_gpus: float


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """What one model's pool asks for and will be asked."""

    name: str
    num_replicas: int
    gpus_per_replica: float
    batch_size: int
    num_calls: int
    min_replicas: int | None = None
    """Of a pool that grows and shrinks with its work."""

    @property
    def gpus(self) -> float:
        """GPUs of all replicas together; a fraction where replicas share one."""
        return self.num_replicas * self.gpus_per_replica


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The size of a run before it starts."""

    num_chains: int
    num_rounds: int
    unit_size: int
    pools: tuple[PoolPlan, ...]
    num_stages: int  # of all rounds together
    row_bytes: int  # what one pair weighs, estimated
    num_units_in_flight: int  # that stages hold at once, at most
    others: tuple[PoolPlan, ...] = ()  # pools whose rates are not reckoned with

    @property
    def num_units(self) -> int:
        """Commits a round."""
        return math.ceil(self.num_chains / self.unit_size)

    @property
    def num_pairs(self) -> int:
        """If no chain fails."""
        return self.num_chains * self.num_rounds

    @property
    def gpus(self) -> float:
        """GPUs that all pools ask for."""
        return sum(pool.gpus for pool in (*self.pools, *self.others))

    @property
    def total_bytes(self) -> int:
        """What the finished dataset takes, about."""
        return self.num_pairs * self.row_bytes

    @property
    def bytes_in_flight(self) -> int:
        """Bytes in memory at a time, about: an image is dropped once it is committed."""
        return min(self.num_units, self.num_units_in_flight) * self.unit_size * self.row_bytes


def check_fits(demands: Sequence[Demand], nodes: Sequence[Node], *, can_autoscale: bool) -> None:
    """Refuses pools that would wait for ever: largest replica first, first node with room.

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
    rooms = [_Room(num_cpus=n.num_cpus, gpus=[1.0] * int(n.num_gpus)) for n in nodes]
    for demand in sorted(demands, key=lambda one: (one.num_gpus, one.num_cpus), reverse=True):
        num_placed = 0
        while num_placed < demand.num_replicas and any(room.take(demand) for room in rooms):
            num_placed += 1
        if num_placed < demand.num_replicas:
            return (
                f"{demand.name} finds room for {num_placed} of {demand.num_replicas} "
                "(each on one node, a fraction of a GPU on one GPU)"
            )
    return ""


@dataclass(kw_only=True)
class _Room:
    """What is left of one node while replicas are placed on it."""

    num_cpus: float
    gpus: list[float] = field(default_factory=list[float])

    def take(self, demand: Demand) -> bool:
        """Places one replica, unless it does not fit."""
        share, num_gpus = min(demand.num_gpus, 1.0), math.ceil(demand.num_gpus)
        fitting = [i for i, left in enumerate(self.gpus) if left + _ROUNDING >= share][:num_gpus]
        if len(fitting) < num_gpus or self.num_cpus + _ROUNDING < demand.num_cpus:
            return False
        self.num_cpus -= demand.num_cpus
        for index in fitting:
            self.gpus[index] -= share
        return True


def _describe_nodes(nodes: Sequence[Node]) -> str:
    kinds = Counter(_amounts(node) for node in nodes)
    if len(nodes) == 1:
        return f"the machine has {next(iter(kinds))}"
    listed = ", ".join(f"{count} x ({kind})" for kind, count in kinds.items())
    return f"the cluster has {len(nodes)} nodes: {listed}" if nodes else "the cluster has no nodes"


def _amounts(one: Demand | Node) -> str:
    return f"{one.num_gpus:g} GPUs, {one.num_cpus:g} CPUs"


def count_calls(num_chains: int, num_rounds: int, unit_size: int, batch_size: int) -> int:
    """Batches one model is called with: batches are cut inside a unit, never across two."""
    full, rest = divmod(num_chains, unit_size)
    a_round = full * math.ceil(unit_size / batch_size) + math.ceil(rest / batch_size)
    return num_rounds * a_round
