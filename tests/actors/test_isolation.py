import hashlib
import logging
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engines import EngineDeadError
from actors.isolation import (
    Experience,
    Outcome,
    format_traceback,
    is_out_of_memory,
    run_isolated,
    run_rows,
)
from actors.reasons import MAX_MESSAGE_CHARS, Reason, RowError

FAULTS = st.sampled_from(["good", "good", "raise", "drop", "double"])


def _engine(calls: list[int]) -> Callable[[list[tuple[int, str]]], list[int]]:
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
    outcomes = [each.value for each in run_isolated(list(enumerate(faults)), _engine(calls))]
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
    halvings = min(max(2 * num_rows - 1, 0), 1 + 2 * num_bad * depth)
    # The whole batch is tried twice, and so is each bad row once it is alone.
    assert len(calls) <= halvings + (num_bad > 0) + num_bad
    assert len(calls) <= 3 * num_rows


def _is_countable(faults: list[str]) -> bool:
    """A call that drops as many as it doubles has the right number: nobody could tell."""
    return "drop" not in faults or "double" not in faults


@given(st.lists(st.integers(), max_size=20))
def test_a_good_batch_is_one_call(items: list[int]) -> None:
    calls: list[list[int]] = []

    def call(batch: list[int]) -> list[int]:
        calls.append(batch)
        return batch

    assert run_isolated(items, call) == [Outcome(value=item, num_calls=1) for item in items]
    assert calls == ([items] if items else [])


def test_a_dead_engine_ends_the_batch_at_once() -> None:
    calls: list[int] = []

    def call(items: list[int]) -> list[int]:
        calls.append(len(items))
        raise EngineDeadError("gone")

    with pytest.raises(EngineDeadError):
        run_isolated([1, 2, 3], call)
    assert calls == [3]


def test_a_fault_that_passes_costs_one_call() -> None:
    calls: list[int] = []

    def call(items: list[int]) -> list[int]:
        calls.append(len(items))
        if len(calls) == 1:
            raise ConnectionResetError("once")
        return items

    outcomes = run_isolated([1, 2, 3, 4], call)
    assert calls == [4, 4]
    assert outcomes == [Outcome(value=item, num_calls=2) for item in (1, 2, 3, 4)]


def test_a_lone_row_gets_a_second_try_and_every_call_is_counted() -> None:
    calls: list[list[str]] = []

    def call(items: list[str]) -> list[str]:
        calls.append(items)
        if "bad" in items or ("shy" in items and calls.count(["shy"]) < 2):
            raise ValueError("no")
        return items

    outcomes = run_isolated(["a", "bad", "shy", "b"], call)
    assert [each.num_calls for each in outcomes] == [4, 5, 5, 4]
    assert [isinstance(each.value, RowError) for each in outcomes] == [False, True, False, False]


@pytest.mark.parametrize("answer", ["abc", {"a": 1, "b": 2, "c": 3}, None, 7, b"abc", iter("abc")])
def test_an_answer_that_is_no_list_is_an_error_of_its_rows(answer: object) -> None:
    outcomes = run_isolated([1, 2, 3], lambda _: answer)
    errors = [each.value for each in outcomes if isinstance(each.value, RowError)]
    assert [error.reason for error in errors] == [Reason.ENGINE_ERROR] * 3
    assert "no list" in errors[0].message


def _memory_of(num_rows: int, calls: list[int]) -> Callable[[list[int]], list[int]]:
    def call(items: list[int]) -> list[int]:
        calls.append(len(items))
        if len(items) > num_rows or -1 in items:
            raise MemoryError("too much")
        return items

    return call


def test_out_of_memory_halves_at_once_and_later_batches_are_cut_to_what_fits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[int] = []
    experience = Experience()
    for _ in range(3):
        outcomes = run_isolated(list(range(8)), _memory_of(3, calls), experience)
        assert [each.value for each in outcomes] == list(range(8))
    assert calls == [8, 4, 2, 2, 4, 2, 2] + [2] * 8
    told = [each.getMessage() for each in caplog.records if "are cut to" in each.getMessage()]
    assert told == ["out of memory: batches of this task are cut to 2 rows from now on"]


def test_one_giant_row_does_not_cut_the_batches_that_have_fitted_before() -> None:
    calls: list[int] = []
    experience = Experience()
    run_isolated(list(range(8)), _memory_of(8, calls), experience)
    outcomes = run_isolated([0, 1, -1, 3, 4, 5, 6, 7], _memory_of(8, calls), experience)
    assert [i for i, each in enumerate(outcomes) if isinstance(each.value, RowError)] == [2]
    assert isinstance(outcomes[2].value, RowError)
    assert outcomes[2].value.reason == Reason.OUT_OF_MEMORY
    calls.clear()
    run_isolated(list(range(8)), _memory_of(8, calls), experience)
    assert calls == [8]


def test_nothing_fits_is_an_error_of_every_row_and_not_a_loop() -> None:
    calls: list[int] = []
    experience = Experience()
    for _ in range(2):
        outcomes = run_isolated([1, 2, 3], _memory_of(0, calls), experience)
        assert all(isinstance(each.value, RowError) for each in outcomes)
    assert len(calls) <= 2 * 3 * 3


def _named(name: str, base: type[Exception], text: str) -> Exception:
    return type(name, (base,), {})(text)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (_named("OutOfMemoryError", RuntimeError, "Tried to allocate 2.00 GiB"), True),
        (_named("_ArrayMemoryError", MemoryError, ""), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), True),
        (RuntimeError("the size of tensor a (3) must match"), False),
        (ValueError("memory"), False),
    ],
)
def test_out_of_memory_is_told_without_torch(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory


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


class _Thing:
    """Its text holds an address, which is another one each time."""


def _fail(items: list[object]) -> list[object]:
    raise ValueError(f"cannot read {_Thing()} beside {object()}")


def _run(experience: Experience, num_rows: int = 2) -> list[dict[str, object]]:
    return run_rows(
        [{"x": x} for x in range(num_rows)],
        prepare=lambda row: row["x"],
        call=_fail,
        finish=lambda result: {"y": result},
        seconds_column="s",
        experience=experience,
    )


def test_a_dead_letter_leads_to_its_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    experience = Experience()
    rows = [row for _ in range(3) for row in _run(experience)]
    (digest,) = {row["error_traceback_sha256"] for row in rows}
    told = [each.getMessage() for each in caplog.records if each.getMessage()[:9] == "traceback"]
    assert len(told) == 1, "once, however often it happens"
    head, _, text = told[0].partition(":\n")
    assert head == f"traceback {digest}"
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest
    assert "in _fail" in text
    assert "cannot read <" in text
    assert [row["error_attempts"] for row in rows[:2]] == [4, 4]


def test_other_faults_have_other_digests() -> None:
    def text(error: Exception) -> str:
        try:
            raise error
        except Exception as caught:
            return format_traceback(caught)

    assert text(ValueError(object())) == text(ValueError(object()))
    assert text(ValueError("a")) != text(ValueError("b"))


def test_a_row_that_failed_before_any_call_was_in_none_and_a_known_fault_has_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(value: object) -> dict[str, object]:
        raise RowError(Reason.DESCRIPTION_EMPTY, "nothing")

    def run(**steps: object) -> dict[str, object]:
        given: dict[str, object] = {
            "prepare": lambda row: row["x"],
            "call": list,
            "finish": lambda result: {"y": result},
        }
        (row,) = run_rows([{"x": 1}], seconds_column="s", **(given | steps))
        return row

    with caplog.at_level(logging.DEBUG):
        assert run(prepare=refuse)["error_attempts"] == 0
        assert run(finish=refuse)["error_attempts"] == 1
        assert run(finish=refuse)["error_traceback_sha256"] is None
    assert not caplog.records
    assert "error_attempts" not in run()


def test_a_traceback_that_quotes_half_a_character_is_logged_and_hashed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def call(items: list[int]) -> list[int]:
        raise ValueError("bad \ud800 text")

    (outcome,) = run_isolated([1], call)
    assert isinstance(outcome.value, RowError)
    assert outcome.value.traceback_sha256
    caplog.text.encode()
