"""A replica as a plain object: what it answers when its model misbehaves."""

import asyncio
import os
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from cluster.dispatch import Row
from cluster.replica import CallStatus, Replica


def echo(rows: list[Row]) -> list[Row]:
    return rows


def raises(rows: list[Row]) -> list[Row]:
    raise RuntimeError("CUDA error: illegal memory access")


def stops(rows: list[Row]) -> list[Row]:
    raise StopIteration


def exits(rows: list[Row]) -> list[Row]:
    raise SystemExit(3)


def drops_one(rows: list[Row]) -> list[Row]:
    return rows[1:]


def forgets(rows: list[Row]) -> Any:
    return None


class Factory:
    """Pickles where a closure would not."""

    def __init__(self, function: Callable[[list[Row]], Any]) -> None:
        self.function = function

    def __call__(self) -> Callable[[list[Row]], Any]:
        return self.function


def broken_factory() -> Any:
    raise OSError("no file model.safetensors")


def answer(function: Callable[[list[Row]], Any]) -> tuple[CallStatus, list[Row] | None]:
    async def run() -> tuple[CallStatus, list[Row] | None]:
        replica = Replica("generator/0", lambda: "n0")
        assert await replica.load(pickle.dumps(Factory(function))) == ""
        return await asyncio.wait_for(replica.call([{"i": i} for i in range(4)], 1, 3), 5)

    return asyncio.run(run())


def test_answer_has_a_small_status_and_the_rows_of_the_part_that_was_asked_for() -> None:
    status, rows = answer(echo)
    assert rows == [{"i": 1}, {"i": 2}]
    assert status.error == ""
    assert status.seconds >= 0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raises, "RuntimeError: CUDA error: illegal memory access"),
        (stops, "StopIteration: "),
        (exits, "SystemExit: 3"),
    ],
)
def test_exception_means_a_dead_engine(function: Callable[..., Any], message: str) -> None:
    status, rows = answer(function)
    assert (status.error, status.is_engine_dead, rows) == (message, True, None)


@pytest.mark.parametrize(
    ("function", "message"),
    [(drops_one, "returned 1 rows for 2 rows"), (forgets, "returned NoneType for 2 rows")],
)
def test_wrong_row_count_is_an_error_of_a_living_engine(
    function: Callable[..., Any], message: str
) -> None:
    status, rows = answer(function)
    assert (status.error, status.is_engine_dead, rows) == (message, False, None)


class Steps:
    """Three steps that note what they were given, in order."""

    seen: ClassVar[list[tuple[str, Any]]] = []

    def prepare(self, rows: list[Row]) -> list[int]:
        self.seen.append(("prepare", [row["i"] for row in rows]))
        return [row["i"] for row in rows]

    def work(self, prepared: list[int]) -> list[int]:
        self.seen.append(("work", prepared))
        return [10 * i for i in prepared]

    def finish(self, worked: list[int]) -> list[Row]:
        self.seen.append(("finish", worked))
        return [{"i": i} for i in worked]


class Together(Steps):
    """Works on three batches at a time, or breaks."""

    meeting: ClassVar[threading.Barrier] = threading.Barrier(3)

    def work(self, prepared: list[int]) -> list[int]:
        self.meeting.wait(10)
        time.sleep(0.05)
        return super().work(prepared)


def test_an_engine_that_batches_by_itself_gets_several_calls_at_a_time() -> None:
    async def run() -> list[Any]:
        replica = Replica("captioner/0", lambda: "n0", num_calls=3)
        assert await replica.load(pickle.dumps(Together)) == ""
        return await asyncio.gather(*(replica.call([{"i": i}], 0, 1) for i in range(6)))

    began_s = time.perf_counter()
    answers = asyncio.run(run())
    took_s = time.perf_counter() - began_s
    assert [rows for _, rows in answers] == [[{"i": 10 * i}] for i in range(6)]
    # Twice three calls went on together for .05 s at least, which is counted once.
    seconds = sum(one.seconds for one, _ in answers)
    busy_s = sum(one.busy_s for one, _ in answers)
    assert busy_s <= took_s
    assert seconds - busy_s >= 2 * 2 * 0.04


class Rendezvous(Steps):
    """Each `work` meets the `finish` before it and the `prepare` after it, or breaks."""

    num_batches = 10
    meetings: ClassVar[dict[tuple[str, int], threading.Barrier]] = {}

    def meet(self, *meeting: Any) -> None:
        try:
            if meeting[1] < self.num_batches:
                self.meetings[meeting].wait(10)
        except threading.BrokenBarrierError:
            for other in self.meetings.values():
                other.abort()  # nobody else needs to wait
            raise

    def prepare(self, rows: list[Row]) -> list[int]:
        if rows[0]["i"]:
            self.meet("prepare", rows[0]["i"])
        return super().prepare(rows)

    def work(self, prepared: list[int]) -> list[int]:
        i = prepared[0]
        if i:
            self.meet("finish", i - 1)
        self.meet("prepare", i + 1)
        return super().work(prepared)

    def finish(self, worked: list[int]) -> list[Row]:
        i = worked[0] // 10
        if i < self.num_batches - 1:
            self.meet("finish", i)
        return super().finish(worked)


class Slow(Steps):
    def prepare(self, rows: list[Row]) -> list[int]:
        time.sleep(0.2)
        return super().prepare(rows)

    def finish(self, worked: list[int]) -> list[Row]:
        time.sleep(0.2)
        return super().finish(worked)


class Falling(Steps):
    """Fails at `row` in the step that is called so."""

    def __init__(self, step: str, row: int = 0) -> None:
        self.step, self.row = step, row

    def fail(self, step: str, i: int) -> None:
        if step == self.step and i == self.row:
            raise RuntimeError(f"{step} fell")

    def prepare(self, rows: list[Row]) -> list[int]:
        self.fail("prepare", rows[0]["i"])
        return super().prepare(rows)

    def work(self, prepared: list[int]) -> list[int]:
        self.fail("work", prepared[0])
        return super().work(prepared)

    def finish(self, worked: list[int]) -> list[Row]:
        time.sleep(0.1)
        self.fail("finish", worked[0] // 10)
        return super().finish(worked)


class StepsFactory:
    def __init__(self, kind: type[Steps], *args: Any) -> None:
        self.kind, self.args = kind, args

    def __call__(self) -> Steps:
        return self.kind(*self.args)


def answer_all(
    factory: StepsFactory, num_batches: int
) -> list[tuple[int, CallStatus, list[Row] | None]]:
    """Batches of one row, at most two of them in flight; answers in the order they came."""
    Steps.seen.clear()
    answers: list[tuple[int, CallStatus, list[Row] | None]] = []

    async def run() -> None:
        replica = Replica("generator/0", lambda: "n0")
        assert await replica.load(pickle.dumps(factory)) == ""
        room = asyncio.Semaphore(2)

        async def one(i: int) -> None:
            async with room:
                answers.append((i, *await replica.call([{"i": i}], 0, 1)))

        await asyncio.wait_for(asyncio.gather(*(one(i) for i in range(num_batches))), 60)

    asyncio.run(run())
    return answers


def test_the_next_batch_is_prepared_and_the_last_one_finished_while_the_model_works() -> None:
    num_batches = Rendezvous.num_batches
    Rendezvous.meetings.update(
        ((step, i), threading.Barrier(2)) for step in ("prepare", "finish") for i in range(10)
    )
    answers = answer_all(StepsFactory(Rendezvous), num_batches)
    assert [(status.error, rows) for _, status, rows in answers] == [
        ("", [{"i": 10 * i}]) for i in range(num_batches)
    ]
    for name, factor in (("prepare", 1), ("work", 1), ("finish", 10)):
        assert [seen for step, seen in Steps.seen if step == name] == [
            [factor * i] for i in range(num_batches)
        ]


def test_seconds_are_those_of_the_model_alone() -> None:
    ((_, status, rows),) = answer_all(StepsFactory(Slow), 1)
    assert rows == [{"i": 0}]
    assert status.seconds < 0.2


@pytest.mark.parametrize("step", ["prepare", "work", "finish"])
def test_exception_in_any_step_means_a_dead_engine_and_is_told_after_the_answer_before(
    step: str,
) -> None:
    answers = answer_all(StepsFactory(Falling, step, 1), 2)
    assert [(i, status.error, status.is_engine_dead, rows) for i, status, rows in answers] == [
        (0, "", False, [{"i": 0}]),
        (1, f"RuntimeError: {step} fell", True, None),
    ]


def test_factory_that_fails_says_why() -> None:
    replica = Replica("generator/0", lambda: "n0")
    error = asyncio.run(replica.load(pickle.dumps(broken_factory)))
    assert error == "OSError: no file model.safetensors"


def test_start_tells_process_and_node() -> None:
    replica = Replica("generator/0", lambda: "n0")
    assert asyncio.run(replica.start()) == (os.getpid(), "n0")


def test_label_is_what_logs_and_dashboard_show() -> None:
    assert repr(Replica("generator/0", lambda: "n0")) == "generator/0"
