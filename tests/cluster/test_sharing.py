"""cluster/sharing.py on a real Ray: fractions of GPUs, in the order that once stood still."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import ray

from cluster.packing import Demand, shared_gpus
from cluster.pool import Pool, PoolConfig, Row, start_pool
from cluster.session import SessionInfo, nodes_at_hand
from cluster.sharing import shared_places

START_S = 120.0


@pytest.fixture
def leave_gpus(local_ray: SessionInfo) -> Iterator[Callable[[int], None]]:
    """Takes all GPUs of the Ray at hand but so many."""
    group = None

    def leave(num_gpus: int) -> None:
        nonlocal group
        group = ray.util.placement_group([{"GPU": 1}] * (int(local_ray.num_gpus) - num_gpus))
        assert group.wait(30)

    yield leave
    ray.util.remove_placement_group(group)


def _where(name: str) -> Callable[[], Callable[[list[Row]], list[Row]]]:
    def answer(rows: list[Row]) -> list[Row]:
        time.sleep(0.2)  # so that every replica gets some
        (gpu,) = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        return [{"pool": name, "pid": os.getpid(), "gpu": gpu} for _ in rows]

    return lambda: answer


def _layout(pools: list[Pool]) -> Counter[tuple[str, ...]]:
    """How many GPUs there are with such replicas."""
    deadline = time.monotonic() + START_S
    found: dict[int, Row] = {}
    wanted = sum(pool.config.num_replicas for pool in pools)
    while len(found) < wanted and time.monotonic() < deadline:
        for pool in pools:
            rows = pool.run_blocking([{}] * 4 * pool.config.num_replicas)
            living = pool.stats().replica_pids
            found = {
                pid: row for pid, row in found.items() if row["pool"] != pool.name or pid in living
            }
            found |= {row["pid"]: row for row in rows if row["pid"] in living}
    on_gpu: dict[str, list[str]] = {}
    for row in found.values():
        on_gpu.setdefault(row["gpu"], []).append(row["pool"])
    return Counter(tuple(sorted(names)) for names in on_gpu.values())


def _start(stack: ExitStack, *asked: tuple[str, int, float]) -> list[Pool]:
    """The pools, one after the other: each is all there before the next one starts."""
    configs = {
        name: PoolConfig(num_replicas=n, num_gpus=share, num_cpus=0.05, batch_size=1)
        for name, n, share in asked
    }
    demands = [
        Demand(name=name, num_replicas=n, num_cpus=0.05, num_gpus=share) for name, n, share in asked
    ]
    places = stack.enter_context(shared_places(demands, nodes_at_hand()))
    pools: list[Pool] = []
    for name, config in configs.items():
        pools.append(start_pool(name, _where(name), config, places=places[name]))
        stack.callback(pools[-1].close)
        pools[-1].wait_ready(START_S, num_replicas=config.num_replicas)
    planned = Counter(tuple(sorted(gpu.elements())) for gpu in shared_gpus(demands, ()))
    assert _layout(pools) == planned
    return pools


@pytest.mark.parametrize(
    ("num_gpus", "asked"),
    [
        (3, [("captioner", 3, 0.3), ("generator", 3, 0.7)]),
        *(
            pytest.param(num_gpus, asked, marks=pytest.mark.slow)
            for num_gpus, asked in (
                (3, [("captioner", 2, 0.4), ("generator", 3, 0.6)]),
                (2, [("generator", 1, 0.4), ("captioner", 2, 0.6)]),
                (2, [("generator", 4, 0.25), ("captioner", 2, 0.5)]),
            )
        ),
    ],
)
def test_the_smaller_share_comes_first_and_the_larger_one_still_has_its_places(
    leave_gpus: Callable[[int], None], num_gpus: int, asked: list[tuple[str, int, float]]
) -> None:
    leave_gpus(num_gpus)
    with ExitStack() as stack:
        _start(stack, *asked)


def test_whoever_dies_comes_back_to_the_same_gpu_and_all_is_given_back_in_the_end(
    leave_gpus: Callable[[int], None],
) -> None:
    leave_gpus(2)
    with ExitStack() as stack:
        pools = _start(stack, ("captioner", 2, 0.4), ("generator", 2, 0.6))
        for pool in pools:  # the smaller shares first, as above
            for pid in pool.stats().replica_pids:
                os.kill(pid, signal.SIGKILL)
            while pool.stats().num_loads < 4:
                time.sleep(0.1)
        assert _layout(pools) == {("captioner", "generator"): 2}
    deadline = time.monotonic() + 30
    while (free := _free_gpus()) != 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert free == 2


def _free_gpus() -> Any:
    return ray.available_resources().get("GPU", 0)


def test_pools_that_do_not_share_are_bound_to_nothing(local_ray: SessionInfo) -> None:
    whole = Demand(name="generator", num_replicas=2, num_cpus=0.05, num_gpus=1)
    on_cpu = Demand(name="captioner", num_replicas=2, num_cpus=0.05, num_gpus=0)
    with shared_places([whole, on_cpu], nodes_at_hand()) as places:
        assert not places
