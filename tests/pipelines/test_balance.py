"""pipelines/balance.py without Ray: which pools can take each other's places."""

import pytest

from cluster.pool import PoolConfig
from pipelines.balance import can_swap


@pytest.mark.parametrize(
    ("generator", "captioner", "can"),
    [
        ((1, 4), (1, 4), True),
        ((1, 4), (1, 1), False),  # what the captioner leaves has too few CPUs
        ((2, 4), (1, 4), False),  # two GPUs on two nodes are no place for it
        ((2, 4), (2, 4), False),
        ((0.5, 1), (0.5, 1), False),  # what either does alone is not seen
        ((0.6, 1), (0.4, 1), False),
        ((0, 1), (0, 1), False),
    ],
)
def test_only_replicas_that_fit_into_each_others_places_are_swapped(
    generator: tuple[float, float], captioner: tuple[float, float], can: bool
) -> None:
    configs = [PoolConfig(num_gpus=gpus, num_cpus=cpus) for gpus, cpus in (generator, captioner)]
    assert can_swap(configs) is can
