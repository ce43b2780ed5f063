"""pipelines/pull.py: what counts as under way; pulling and leaving: tests/faults."""

import asyncio
from typing import Any

import pytest
import ray
from whole_runs import wait_for

from cluster.pool import Pool, PoolConfig
from cluster.telemetry import Board, start_board
from pipelines.pull import is_under_way, stats_of


@pytest.mark.usefixtures("local_ray")
def test_a_unit_is_under_way_until_it_got_through_or_was_turned_away() -> None:
    board = start_board()
    try:
        wait_for(lambda: not is_under_way((), board))  # its process may take its time
        for unit_id in ("u0", "u1"):
            assert asyncio.run(_begin(board, unit_id)) == 1
        assert is_under_way((), board)
        board.add("score[r0]", 4, unit_id="u0")
        board.leave("score[r0]", "u1")
        wait_for(lambda: not is_under_way((), board))
    finally:
        board.close()


async def _begin(board: Board, unit_id: str) -> int:
    return await board.begin("score[r0]", unit_id)


@pytest.mark.usefixtures("local_ray")
def test_a_board_that_does_not_answer_ends_no_grace_time() -> None:
    board = start_board()
    wait_for(lambda: not is_under_way((), board))
    board.close()  # Ray kills in its own time: a call on its way may still be answered
    wait_for(lambda: is_under_way((), board))


@pytest.mark.usefixtures("local_ray")
def test_a_pool_that_does_not_answer_in_time_ends_no_run_and_may_be_at_work() -> None:
    """Whoever watches pools asks them every few seconds; one late answer ended the run."""

    class Busy:  # nested, so that it travels by value
        async def stats(self) -> None:
            await asyncio.sleep(600)

        async def is_there(self) -> bool:
            return True

    board = start_board()
    actor: Any = ray.remote(Busy).options(num_cpus=0).remote()
    assert ray.get(actor.is_there.remote(), timeout=60)
    pool = Pool(name="generator", config=PoolConfig(), _dispatcher=actor)
    try:
        assert stats_of(pool, 0.2) is None
        assert is_under_way((pool,), board)
        ray.kill(actor)
        wait_for(lambda: not is_under_way((pool,), board))
    finally:
        board.close()
