"""cluster/plan.py: the numbers of a run, from its numbers."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.plan import Demand, Node, Plan, PoolPlan, check_fits, count_calls


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
    assert plan.gpus == 1.5
    assert plan.total_bytes == 400_000
    assert plan.bytes_in_flight <= 100 * 1000 + 64 * 1000
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


def _pool(num_replicas: int, num_gpus: float, num_cpus: float = 0.5, name: str = "g") -> Demand:
    return Demand(name=name, num_replicas=num_replicas, num_cpus=num_cpus, num_gpus=num_gpus)


def _node(num_cpus: float, num_gpus: float) -> Node:
    return Node(num_cpus=num_cpus, num_gpus=num_gpus)


@pytest.mark.parametrize(
    ("demands", "nodes"),
    [
        ([], []),
        ([_pool(10, 0.1, 0.1)], [_node(2, 1)]),
        ([_pool(3, 0.6), _pool(3, 0.4)], [_node(8, 3)]),
        ([_pool(2, 0.5), _pool(1, 1)], [_node(8, 2)]),
        ([_pool(1, 2), _pool(2, 1)], [_node(4, 2), _node(4, 2)]),
        ([_pool(4, 0, 1), _pool(1, 1, 4)], [_node(4, 1), _node(4.2, 0)]),
        ([_pool(2, 0, 0.9), _pool(19, 0, 0.01, name="stages")], [_node(2, 0)]),
    ],
)
def test_pools_that_fit_are_let_through(demands: list[Demand], nodes: list[Node]) -> None:
    check_fits(demands, nodes, can_autoscale=False)


@pytest.mark.parametrize(
    ("demands", "nodes", "message"),
    [
        (
            [_pool(3, 0.6, name="captioner")],
            [_node(8, 2)],
            r"asks for 1.8 GPUs, 1.5 CPUs \(captioner 3 x \(0.6 GPUs, 0.5 CPUs\)\), and "
            r"the machine has 2 GPUs, 8 CPUs: captioner finds "
            r"room for 2 of 3 .* Lower num_replicas",
        ),
        ([_pool(1, 2)], [_node(4, 1), _node(4, 1)], r"has 2 nodes: 2 x \(1 GPUs, 4 CPUs\): g"),
        ([_pool(2, 0, 3)], [_node(4, 0)], "room for 1 of 2"),
        ([_pool(1, 1, 8)], [_node(2, 1), _node(16, 0)], "room for 0 of 1"),
        ([_pool(1, 0.5), _pool(1, 1)], [_node(4, 1)], "g finds room for 0 of 1"),
        (
            [_pool(2, 0, 0.9), _pool(31, 0, 0.01, name="stages")],
            [_node(2, 0)],
            "stages finds room for 20 of 31",
        ),
        ([_pool(1, 0)], [], "the cluster has no nodes"),
    ],
)
def test_pools_that_would_wait_for_ever_are_refused(
    demands: list[Demand], nodes: list[Node], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_fits(demands, nodes, can_autoscale=False)
    check_fits(demands, nodes, can_autoscale=True)


@given(
    demands=st.lists(
        st.builds(
            _pool,
            st.integers(1, 4),
            st.sampled_from([0, 0.25, 0.5, 0.6, 1, 2]),
            st.sampled_from([0.1, 0.5, 1, 2]),
        ),
        min_size=1,
        max_size=4,
    ),
    nodes=st.lists(st.builds(_node, st.integers(0, 8), st.integers(0, 4)), max_size=4),
)
def test_nothing_beyond_the_sum_is_let_through_and_more_machines_never_hurt(
    demands: list[Demand], nodes: list[Node]
) -> None:
    try:
        check_fits(demands, nodes, can_autoscale=False)
    except ValueError:
        return
    assert sum(d.num_replicas * d.num_gpus for d in demands) <= sum(n.num_gpus for n in nodes)
    cpus = sum(d.num_replicas * d.num_cpus for d in demands)
    assert cpus <= sum(n.num_cpus for n in nodes) + 1e-3
    check_fits(demands, [*nodes, _node(4, 1)], can_autoscale=False)
