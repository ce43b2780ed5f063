"""What a run would do, computed from its numbers alone: units, stages, calls, GPUs, bytes.

Pure: nothing is measured, loaded or started, so that it answers at once on any machine.

Limits: time and cost need rates that only a running model gives, and are not guessed here.
"""

import math
from dataclasses import dataclass

# Two units wait or run at each stage when the pools keep up.
UNITS_IN_FLIGHT_A_STAGE = 2


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """What one model's pool asks for and will be asked."""

    name: str
    num_replicas: int
    gpus_per_replica: float
    batch_size: int
    num_calls: int

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
        return sum(pool.gpus for pool in self.pools)

    @property
    def total_bytes(self) -> int:
        """What the finished dataset takes, about."""
        return self.num_pairs * self.row_bytes

    @property
    def bytes_in_flight(self) -> int:
        """Bytes in the object store at a time, about; they are dropped once committed, so that
        rounds only add to them while several are being worked on at once."""
        units = min(self.num_units, UNITS_IN_FLIGHT_A_STAGE * self.num_stages)
        return units * self.unit_size * self.row_bytes


def count_calls(num_chains: int, num_rounds: int, unit_size: int, batch_size: int) -> int:
    """Batches one model is called with: batches are cut inside a unit, never across two."""
    full, rest = divmod(num_chains, unit_size)
    a_round = full * math.ceil(unit_size / batch_size) + math.ceil(rest / batch_size)
    return num_rounds * a_round
