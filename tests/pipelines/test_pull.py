"""pipelines/pull.py: what counts as under way; pulling and leaving: tests/faults."""

import pytest
from whole_runs import wait_for

from cluster.telemetry import StageCount, start_board
from pipelines.pull import is_under_way, num_unrecorded


def test_rows_between_their_drawing_and_their_commit_are_unrecorded() -> None:
    counts = {
        "draw[r0]": StageCount(8),
        "describe[r0]": StageCount(8),
        "record[r0]": StageCount(4),
        "draw[r1]": StageCount(3),
    }
    assert num_unrecorded(counts) == 4 + 3
    assert num_unrecorded({}) == 0
    assert num_unrecorded({"draw[r10]": StageCount(2), "record[r1]": StageCount(2)}) == 2


@pytest.mark.usefixtures("local_ray")
def test_a_unit_between_two_stages_is_under_way_until_it_is_recorded() -> None:
    board = start_board()
    try:
        assert not is_under_way((), board)
        board.add("draw[r0]", 4)
        wait_for(lambda: is_under_way((), board))
        board.add("describe[r0]", 4)
        board.add("record[r0]", 4)
        wait_for(lambda: not is_under_way((), board))
    finally:
        board.close()


@pytest.mark.usefixtures("local_ray")
def test_a_board_that_does_not_answer_ends_no_grace_time() -> None:
    board = start_board()
    assert not is_under_way((), board)
    board.close()
    assert is_under_way((), board)
