"""How a run starts its pools."""

import pytest

from cluster.pool import PoolConfig
from pipelines.run import REST_AFTER_S, rest_after_s

POOLS = [PoolConfig(num_replicas=8, num_gpus=1), PoolConfig(num_replicas=2, num_gpus=1)]


@pytest.mark.parametrize(
    ("num_cpus", "can_autoscale", "expected"),
    [(9, False, REST_AFTER_S), (10, False, 0.0), (0, True, 0.0), (9, True, 0.0)],
)
def test_stages_go_first_only_where_replicas_outnumber_cores_that_there_are(
    num_cpus: float, can_autoscale: bool, expected: float
) -> None:
    assert rest_after_s(POOLS, num_cpus, can_autoscale) == expected


def test_an_elastic_pool_counts_with_what_it_starts_with() -> None:
    elastic = PoolConfig(num_replicas=8, min_replicas=1, num_gpus=1)
    assert rest_after_s([elastic, POOLS[1]], 3, False) == 0.0
