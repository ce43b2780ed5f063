"""pipelines/pull.py: what counts as under way; pulling and leaving: tests/faults."""

import asyncio

import pytest
from whole_runs import wait_for

from cluster.telemetry import Board, start_board
from pipelines.pull import is_under_way


@pytest.mark.usefixtures("local_ray")
def test_a_unit_is_under_way_until_it_got_through_or_was_turned_away() -> None:
    board = start_board()
    try:
        assert not is_under_way((), board)
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
    assert not is_under_way((), board)
    board.close()
    assert is_under_way((), board)
