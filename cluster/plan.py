"""What a run would do, computed from its numbers alone: units, stages, calls, GPUs, bytes.

Pure: nothing is measured, loaded or started, so that it answers at once on any machine.

Limits: time and cost need rates that only a running model gives: see `split.py`. Whether the
replicas have a place is for `packing.py`.
"""

import math
from dataclasses import dataclass

from cluster.packing import Demand, shared_gpus


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
    def num_gpus(self) -> int:
        """GPUs that have a replica; those that are shared count once."""
        pools = (*self.pools, *self.others)
        demands = [
            Demand(
                name=one.name,
                num_replicas=one.num_replicas,
                num_cpus=0.0,
                num_gpus=one.gpus_per_replica,
            )
            for one in pools
        ]
        whole = sum(one.gpus for one in pools if one.gpus_per_replica >= 1)
        return round(whole) + len(shared_gpus(demands, ()))

    @property
    def total_bytes(self) -> int:
        """What the finished dataset takes, about."""
        return self.num_pairs * self.row_bytes

    @property
    def bytes_in_flight(self) -> int:
        """Bytes in memory at a time, about: an image is dropped once it is committed."""
        return min(self.num_units, self.num_units_in_flight) * self.unit_size * self.row_bytes


def count_calls(num_chains: int, num_rounds: int, unit_size: int, batch_size: int) -> int:
    """Batches one model is called with: batches are cut inside a unit, never across two."""
    full, rest = divmod(num_chains, unit_size)
    a_round = full * math.ceil(unit_size / batch_size) + math.ceil(rest / batch_size)
    return num_rounds * a_round
