"""A replica as a plain object: what it answers when its model misbehaves."""

import asyncio
import os
import pickle
from collections.abc import Callable
from typing import Any

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


def test_factory_that_fails_says_why() -> None:
    replica = Replica("generator/0", lambda: "n0")
    error = asyncio.run(replica.load(pickle.dumps(broken_factory)))
    assert error == "OSError: no file model.safetensors"


def test_start_tells_process_and_node() -> None:
    replica = Replica("generator/0", lambda: "n0")
    assert asyncio.run(replica.start()) == (os.getpid(), "n0")


def test_label_is_what_logs_and_dashboard_show() -> None:
    assert repr(Replica("generator/0", lambda: "n0")) == "generator/0"
