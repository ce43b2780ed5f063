"""Rates, ETAs and what is printed, by string; the board on a real Ray."""

import asyncio
import io
import logging
import threading
import time

import pytest
import ray
from rich.console import Console

from cluster.session import SessionInfo
from cluster.telemetry import (
    Board,
    Growth,
    Progress,
    StageCount,
    StageLine,
    Tracker,
    _BoardActor,
    duration,
    eta_s,
    log_line,
    start_board,
    table,
)

TOTALS = {"draw[r0]": 64, "record[r0]": 64, "draw[r1]": 64, "record[r1]": 64}
PAIRS = ("record[r0]", "record[r1]")


def grown(*moments: tuple[float, int]) -> Growth:
    growth = Growth()
    for now_s, count in moments:
        growth.see(now_s, count)
    return growth


def test_no_rate_before_three_growths() -> None:
    assert grown().rate(5.0) is None
    assert grown((0, 0), (1, 8), (2, 8), (3, 16)).rate(3.0) is None
    assert grown((1, 8), (3, 16), (5, 24)).rate(5.0) == pytest.approx(4.0)


def test_polling_often_between_bursts_does_not_change_the_rate() -> None:
    growth = grown(*((t / 10, 64 * (t // 100)) for t in range(1000)))
    assert growth.rate(99.9) == pytest.approx(6.4)
    assert growth.rate(95.0) == pytest.approx(6.4)


def test_silence_past_the_next_burst_lowers_the_rate() -> None:
    growth = grown((0, 10), (10, 20), (20, 30))
    assert growth.rate(30.0) == pytest.approx(1.0)
    assert growth.rate(60.0) == pytest.approx(0.5)


def test_old_speed_is_forgotten_but_slow_work_keeps_a_rate() -> None:
    fast_then_slow = grown(
        *((t, 100 * t) for t in range(1, 61)), *((t, 6000 + t) for t in range(61, 400))
    )
    assert fast_then_slow.rate(399.0) == pytest.approx(1.0)
    assert grown((1000, 64), (2000, 128), (3000, 192)).rate(3000.0) == pytest.approx(0.064)


def test_growths_at_one_instant_divide_nothing_by_zero() -> None:
    assert grown((1, 8), (1, 16), (1, 24)).rate(1.0) is None


def test_eta_is_none_until_known_and_zero_when_done() -> None:
    assert eta_s(10, 100, None) is None
    assert eta_s(10, 100, 0.0) is None
    assert eta_s(10, 100, 2.0) == 45.0
    assert eta_s(100, 100, None) == 0.0


def test_tracker_has_a_line_for_each_stage_and_sums_the_pairs() -> None:
    tracker = Tracker(TOTALS, PAIRS)
    counts = {
        "draw[r0]": StageCount(64, 1),
        "record[r0]": StageCount(32, 1),
        "record[r1]": StageCount(8),
    }
    lines = tracker.lines(counts, 1.0)
    assert [line.stage for line in lines] == [*TOTALS, "pairs"]
    assert lines[2] == StageLine(stage="draw[r1]", num_done=0, num_total=64)
    assert (lines[-1].num_done, lines[-1].num_total, lines[-1].num_errors) == (40, 128, 1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0 s"),
        (59.6, "1 min"),
        (45.2, "45 s"),
        (3540, "59 min"),
        (11100, "3 h 05 min"),
    ],
)
def test_duration_is_short(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def lines_after(seconds: int) -> list[StageLine]:
    tracker = Tracker(TOTALS, PAIRS)
    lines: list[StageLine] = []
    for now_s in range(seconds):
        counts = {"draw[r0]": StageCount(64), "record[r0]": StageCount(now_s * 2, 3)}
        lines = tracker.lines(counts, float(now_s))
    return lines


def test_log_line_shows_pairs_and_the_stages_under_way() -> None:
    assert log_line(lines_after(2)) == "pairs 2/128 | 3 error rows | record[r0] 2/64"
    assert log_line(lines_after(11)) == (
        "pairs 20/128 | 2 pairs/s, 54 s left | 3 error rows | record[r0] 20/64"
    )


def test_table_shows_every_stage() -> None:
    out = io.StringIO()
    Console(file=out, width=100, color_system=None).print(table(lines_after(11)))
    rows = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert rows[0] == "stage rows rows/s left errors"
    assert [row.split()[0] for row in rows[1:]] == [*TOTALS, "pairs"]
    assert rows[1].endswith("64/64 - 0 s")
    assert rows[2].endswith("20/64 2 22 s 3")
    assert rows[3].endswith("0/64 - -")


def test_progress_off_a_terminal_logs_lines_and_survives_a_dead_board(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers = [{"record[r0]": StageCount(16)}, None, {"record[r0]": StageCount(64)}]
    is_seen = threading.Event()

    def snapshot() -> dict[str, StageCount]:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:
            is_seen.set()
            raise ConnectionError("the board is gone")
        return answer

    caplog.set_level(logging.INFO, "cluster.telemetry")
    console = Console(file=io.StringIO())
    with Progress(snapshot, TOTALS, PAIRS, console=console, log_interval_s=0.02):
        assert is_seen.wait(30)
    assert caplog.messages[0] == "pairs 16/128 | record[r0] 16/64"
    assert caplog.messages[-1] == "pairs 64/128"


def test_progress_on_a_terminal_draws_bars_to_the_end() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    with Progress(lambda: {"record[r1]": StageCount(64)}, TOTALS, PAIRS, console=console):
        pass
    assert "64/128" in out.getvalue()


def test_board_keeps_stages_apart() -> None:
    async def add() -> dict[str, StageCount]:
        board = _BoardActor()
        await board.add("draw[r0]", 8, 0, "")
        await board.add("draw[r1]", 8, 2, "")
        await board.add("draw[r1]", 8, 1, "")
        return await board.snapshot()

    counts = asyncio.run(add())
    assert counts == {"draw[r0]": StageCount(8, 0), "draw[r1]": StageCount(16, 3)}


def test_board_sums_what_tasks_add(local_ray: SessionInfo) -> None:
    board = start_board()

    @ray.remote(num_cpus=0)
    def stage(board: Board, index: int) -> None:
        board.add("draw[r0]", 8, num_errors=index)

    ray.get([stage.remote(board, index) for index in range(3)])
    deadline_s = time.monotonic() + 10
    while board.snapshot().get("draw[r0]") != StageCount(24, 3):
        assert time.monotonic() < deadline_s, board.snapshot()
        time.sleep(0.02)
    board.close()
    board.close()
