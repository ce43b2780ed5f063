"""cluster/packing.py: what has a place, and who shares a GPU with whom."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.packing import Demand, Node, check_fits, shared_gpus


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


@settings(deadline=None)  # a loaded machine is no failure
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


def _shares(*demands: Demand, num_gpus: int = 8) -> list[str]:
    """`g g c` for a GPU with two replicas of g and one of c."""
    found = shared_gpus(demands, [_node(64, num_gpus)])
    return [" ".join(sorted(gpu.elements())) for gpu in found]


def test_replicas_of_two_models_share_gpus_rather_than_two_of_one() -> None:
    assert _shares(_pool(2, 0.5), _pool(2, 0.5, name="c")) == ["c g", "c g"]
    assert _shares(_pool(4, 0.25), _pool(2, 0.5, name="c")) == ["c g g", "c g g"]
    assert _shares(_pool(3, 0.7), _pool(2, 0.3, name="c")) == ["c g", "c g", "g"]
    three = _shares(_pool(2, 0.4), _pool(2, 0.3, name="c"), _pool(2, 0.2, name="s"))
    assert three == ["c g s", "c g s"]


def test_no_more_gpus_are_opened_than_the_fractions_need() -> None:
    assert _shares(_pool(4, 0.25)) == ["g g g g"]
    assert _shares(_pool(2, 0.5), _pool(3, 0.3, name="c"), num_gpus=2) == ["g g", "c c c"]


def test_what_no_gpu_of_now_can_take_is_on_one_that_is_to_come() -> None:
    assert _shares(_pool(3, 0.6), _pool(2, 0.4, name="c"), num_gpus=1) == ["c g", "c g", "g"]
    crowded = shared_gpus([_pool(2, 0.5, num_cpus=6), _pool(2, 0.5, 6, "c")], [_node(12, 2)] * 2)
    assert [gpu.total() for gpu in crowded] == [2, 2]


def test_whole_gpus_and_cpus_are_nobody_s_to_share() -> None:
    assert _shares(_pool(2, 1), _pool(1, 2, name="c"), _pool(4, 0, name="stages")) == []


@settings(deadline=None)  # a loaded machine is no failure
@given(
    demands=st.lists(
        st.builds(
            lambda n, share, name: _pool(n, share, 0.1, name),
            st.integers(1, 6),
            st.sampled_from([0.1, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9, 1]),
            st.sampled_from("abcdef"),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda one: one.name,
    ),
)
def test_every_fraction_is_on_one_gpu_and_no_more_of_these_than_first_fit_takes(
    demands: list[Demand],
) -> None:
    shares = {one.name: one.num_gpus for one in demands if one.is_fraction}
    found = shared_gpus(demands, [_node(64, 4)])
    placed = sum(found, Counter[str]())
    assert placed == {one.name: one.num_replicas for one in demands if one.is_fraction}
    assert all(sum(shares[name] for name in gpu.elements()) < 1 + 1e-6 for gpu in found)
    bins: list[float] = []
    for share in sorted((shares[name] for name in placed.elements()), reverse=True):
        fitting = [i for i, level in enumerate(bins) if level + share < 1 + 1e-6]
        if fitting:
            bins[fitting[0]] += share
        else:
            bins.append(share)
    assert len(found) == len(bins)
