import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engines import EngineDeadError
from actors.isolation import run_isolated, run_rows
from actors.reasons import MAX_MESSAGE_CHARS, Reason, RowError

FAULTS = st.sampled_from(["good", "good", "raise", "drop", "double"])


def _engine(calls: list[int]):  # noqa: ANN202
    """Doubles "good" items; anything else spoils the whole call in its own way."""

    def call(items: list[tuple[int, str]]) -> list[int]:
        calls.append(len(items))
        if any(fault == "raise" for _, fault in items):
            raise ValueError("bad row inside")
        results: list[int] = []
        for index, fault in items:
            results += [index] * {"good": 1, "drop": 0, "double": 2}[fault]
        return results

    return call


@given(st.lists(FAULTS, max_size=40).filter(lambda faults: _is_countable(faults)))
def test_every_good_row_survives_every_bad_row_is_flagged_and_calls_are_bounded(
    faults: list[str],
) -> None:
    calls: list[int] = []
    outcomes = run_isolated(list(enumerate(faults)), _engine(calls))
    assert len(outcomes) == len(faults)
    for index, (fault, outcome) in enumerate(zip(faults, outcomes, strict=True)):
        if fault == "good":
            assert outcome == index
        else:
            assert isinstance(outcome, RowError)
            is_count = fault in ("drop", "double")
            assert outcome.reason == (Reason.WRONG_ROW_COUNT if is_count else Reason.ENGINE_ERROR)
    num_rows, num_bad = len(faults), sum(fault != "good" for fault in faults)
    depth = math.ceil(math.log2(max(num_rows, 2)))
    assert len(calls) <= min(max(2 * num_rows - 1, 0), 1 + 2 * num_bad * depth)


def _is_countable(faults: list[str]) -> bool:
    """A call that drops as many as it doubles has the right number: nobody could tell."""
    return "drop" not in faults or "double" not in faults


@given(st.lists(st.integers(), max_size=20))
def test_a_good_batch_is_one_call(items: list[int]) -> None:
    calls: list[list[int]] = []

    def call(batch: list[int]) -> list[int]:
        calls.append(batch)
        return batch

    assert run_isolated(items, call) == items
    assert calls == ([items] if items else [])


def test_a_dead_engine_ends_the_batch_at_once() -> None:
    calls: list[int] = []

    def call(items: list[int]) -> list[int]:
        calls.append(len(items))
        raise EngineDeadError("gone")

    with pytest.raises(EngineDeadError):
        run_isolated([1, 2, 3], call)
    assert calls == [3]


def test_a_batch_that_only_fits_in_halves_goes_through() -> None:
    def call(items: list[int]) -> list[int]:
        if len(items) > 2:
            raise MemoryError("too much")
        return items

    assert run_isolated(list(range(8)), call) == list(range(8))


def test_rows_with_an_error_or_stopped_pass_untouched() -> None:
    rows = [
        {"x": 1, "error": "old: reason"},
        {"x": 2, "error": None, "is_stopped": True},
        {"x": 3, "error": None, "is_stopped": False},
    ]
    seen: list[list[int]] = []

    def call(items: list[int]) -> list[int]:
        seen.append(items)
        return items

    done = run_rows(
        rows,
        prepare=lambda row: row["x"],
        call=call,
        finish=lambda result: {"y": result * 10},
        seconds_column="call_s",
    )
    assert seen == [[3]]
    assert done[:2] == rows[:2]
    assert done[2]["y"] == 30
    assert done[2]["call_s"] >= 0.0
    assert rows[2] == {"x": 3, "error": None, "is_stopped": False}


def test_a_row_that_fails_before_or_after_the_call_fails_alone() -> None:
    def prepare(row: dict[str, int]) -> int:
        if row["x"] == 1:
            raise RowError(Reason.PROMPT_EMPTY, "nothing")
        return row["x"]

    def finish(result: int) -> dict[str, int]:
        if result == 2:
            raise RowError(Reason.IMAGE_BLANK, "flat")
        return {"y": result}

    rows = [{"x": x} for x in range(4)]
    done = run_rows(
        rows, prepare=prepare, call=lambda items: items, finish=finish, seconds_column="s"
    )
    assert [row.get("error") for row in done] == [
        None,
        "prompt_empty: nothing",
        "image_blank: flat",
        None,
    ]
    assert [row.get("y") for row in done] == [0, None, None, 3]


@pytest.mark.parametrize("step", ["prepare", "finish"])
def test_an_unforeseen_error_beside_the_engine_fails_its_row_alone(step: str) -> None:
    def spoil(here: str, value: int, error: Exception) -> int:
        if here == step and value == 1:
            raise error
        return value

    def run(error: Exception) -> list[dict[str, object]]:
        return run_rows(
            [{"x": x} for x in range(3)],
            prepare=lambda row: spoil("prepare", row["x"], error),
            call=lambda items: items,
            finish=lambda result: {"y": spoil("finish", result, error)},
            seconds_column="s",
        )

    done = run(OSError("encoder error -2"))
    assert [row.get("error") for row in done] == [
        None,
        "task_error: OSError: encoder error -2",
        None,
    ]
    assert [row.get("y") for row in done] == [0, None, 2]
    with pytest.raises(EngineDeadError):
        run(EngineDeadError("gone"))


def test_an_error_text_is_one_bounded_line() -> None:
    error = RowError(Reason.ENGINE_ERROR, "first\n  second " + "x" * 1000).to_error()
    assert error.startswith("engine_error: first second x")
    assert len(error) == MAX_MESSAGE_CHARS


def test_an_error_text_that_quotes_a_lone_surrogate_can_be_stored() -> None:
    error = RowError(Reason.SEED_UNREADABLE, "a \ud800 b").to_error()
    assert error == "seed_unreadable: a \\ud800 b"
