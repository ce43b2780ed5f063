"""cluster/plan.py: the numbers of a run, from its numbers."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cluster.plan import Plan, PoolPlan, count_calls


def test_a_plan_adds_up() -> None:
    generator = PoolPlan(
        name="generator", num_replicas=3, gpus_per_replica=0.5, batch_size=8, num_calls=0
    )
    plan = Plan(
        num_chains=100,
        num_rounds=4,
        unit_size=64,
        pools=(generator,),
        num_stages=12,
        row_bytes=1000,
        num_units_in_flight=8,
    )
    assert (plan.num_units, plan.num_stages, plan.num_pairs) == (2, 12, 400)
    assert (plan.gpus, plan.num_gpus) == (1.5, 2)
    assert plan.total_bytes == 400_000
    assert plan.bytes_in_flight == 2 * 64 * 1000
    assert replace(plan, num_chains=6400).bytes_in_flight == 8 * 64 * 1000


@given(
    num_chains=st.integers(1, 300),
    num_rounds=st.integers(1, 5),
    unit_size=st.integers(1, 70),
    batch_size=st.integers(1, 20),
)
def test_calls_are_counted_as_units_are_cut(
    num_chains: int, num_rounds: int, unit_size: int, batch_size: int
) -> None:
    calls = 0
    for start in range(0, num_chains, unit_size):
        unit = min(unit_size, num_chains - start)
        calls += len(range(0, unit, batch_size))
    assert count_calls(num_chains, num_rounds, unit_size, batch_size) == num_rounds * calls
