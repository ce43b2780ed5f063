"""pipelines/balance.py without Ray: which pools can take each other's places, and when they do."""

import logging
import threading
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError

from cluster.pool import PoolConfig, PoolStats
from cluster.telemetry import StageCount
from pipelines import balance
from pipelines.balance import Balancer, can_swap


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


NUM_LOOKS = 12


class StandIn:
    """A pool of whole GPUs that does eight full batches of a second each from look to look."""

    def __init__(self, name: str, num_replicas: int) -> None:
        self.name = name
        self.config = PoolConfig(num_replicas=num_replicas, num_gpus=1)
        self.sizes: list[int] = []
        self.num_calls = 0

    def stats(self) -> PoolStats:
        self.num_calls += 8
        size = self.config.num_replicas
        return PoolStats(
            num_replicas=size, num_replicas_ready=size, num_loads=size, num_restarts=0,
            num_calls=self.num_calls, num_rows=8 * self.num_calls, num_retries=0,
            queue_length=0, in_flight=0, busy_s=float(self.num_calls), load_s=60.0,
        )  # fmt: skip

    def resize(self, num_replicas: int) -> None:
        self.sizes.append(num_replicas)


class StandInBoard:
    """Says how many rows have passed the stage that draws: what a pool has answered is a share of
    those since `num_earlier`."""

    def __init__(self, pool: StandIn, share_live: float, num_earlier: int = 0) -> None:
        self._pool, self._share_live, self._num_earlier = pool, share_live, num_earlier

    def snapshot(self) -> dict[str, StageCount]:
        return {"draw[r0]": StageCount(num_rows=self._num_earlier + self.num_passed())}

    def num_passed(self) -> int:
        return round(8 * self._pool.num_calls / self._share_live)


@pytest.mark.parametrize("num_earlier", [0, 50_000])
@pytest.mark.parametrize(("share_live", "is_moved"), [(1.0, True), (0.2, False)])
def test_rows_of_chains_that_ended_are_not_left_to_be_drawn(
    share_live: float, is_moved: bool, num_earlier: int
) -> None:
    """700 rows take one captioner 87 s, which is worth a load of 60 s; a fifth of them is not.
    What an earlier attempt has drawn changes nothing."""
    pools: Any = [StandIn("generator", 3), StandIn("captioner", 1)]
    board: Any = StandInBoard(pools[0], share_live, num_earlier)
    num_passed = round(8 * 8 * NUM_LOOKS / share_live)
    balancer = Balancer(pools, board, num_earlier + num_passed + 700)
    for _ in range(NUM_LOOKS):
        pools[1].sizes.clear()  # what matters is the last look, when 700 are left
        balancer._look()
    assert bool(pools[1].sizes) is is_moved


def test_that_the_board_is_silent_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(balance, "LOOK_S", 0.001)
    asked = threading.Semaphore(0)

    class Silent(StandInBoard):
        def snapshot(self) -> dict[str, StageCount]:
            asked.release()
            raise GetTimeoutError("no answer")

    pools: Any = [StandIn("generator", 3), StandIn("captioner", 1)]
    board: Any = Silent(pools[0], 1.0)
    with caplog.at_level(logging.WARNING), Balancer(pools, board, 100):
        for _ in range(3):
            assert asked.acquire(timeout=5)
    told = [one for one in caplog.records if "the board is silent" in one.message]
    assert len(told) == 1
