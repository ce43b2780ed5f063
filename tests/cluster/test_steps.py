"""Batches in three steps: who answers for a death when a replica has several of them in hand."""

import asyncio
from typing import Any

import pytest
from replicas import FakePool, FakeReplica, flat, run_jumping

from cluster.dispatch import Poison
from cluster.replica import CallStatus

WORK_S = 1.0


async def _work(replica: FakeReplica, rows: Any) -> tuple[CallStatus, Any]:
    if "abort" in rows:
        replica.kill()
    await asyncio.sleep(WORK_S)
    return CallStatus(seconds=WORK_S, busy_s=WORK_S), rows


class SteppedReplica(FakeReplica):
    """Finishes a batch, in the time that it takes to work on one, while it works on the next."""

    async def call(self, rows: Any, first: int, last: int) -> tuple[CallStatus, Any]:
        async def steps() -> tuple[CallStatus, Any]:
            answer = await self._one(rows[first:last])
            await asyncio.sleep(WORK_S)
            return answer

        return await self.until_dead(steps())


class SteppedPool(FakePool):
    def _launch(self, index: int) -> FakeReplica:
        self.replicas.append(SteppedReplica(index, self._answer, "", 10.0, 0.0, 1))
        return self.replicas[-1]


@pytest.mark.parametrize("num_replicas", [1, 4])
@pytest.mark.parametrize("place", [0, 1, 7, 30])
def test_a_poison_row_cannot_hide_behind_a_batch_that_is_being_finished(
    num_replicas: int, place: int
) -> None:
    async def run() -> None:
        pool = SteppedPool(_work, num_replicas=num_replicas)
        batches = [["a", "abort" if i == place else f"b{i}", "c"] for i in range(40)]
        for i, outcome in enumerate(await pool.run(batches)):
            rows = flat(outcome)
            poison = [row for row in rows if isinstance(row, Poison)]
            assert len(poison) == (i == place)
            assert [row for row in rows if row not in poison] == [
                row for row in batches[i] if row != "abort"
            ]
        # Its batch twice and its row once; one life more where the first death was charged to the
        # batch in front.
        assert pool.dispatcher.stats().num_restarts <= 4
        pool.dispatcher.close()

    run_jumping(run())
