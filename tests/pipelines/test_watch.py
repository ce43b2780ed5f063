"""pipelines/watch.py and leaving.py: what they say and decide; their thread: tests/faults."""

import signal
import threading
from typing import Any

import pytest

from cluster.errors import PairloomError, StoppedError
from cluster.pool import PoolStats
from cluster.telemetry import StageCount
from pipelines.leaving import Stop, stop_on_signals
from pipelines.watch import describe, num_unrecorded


def _stats(**more: Any) -> PoolStats:
    counts: dict[str, Any] = dict.fromkeys(
        ("num_loads", "num_restarts", "num_calls", "num_rows", "num_retries"), 0
    )
    counts |= {"num_replicas_ready": 2, "queue_length": 5, "in_flight": 3, "busy_s": 0.0}
    return PoolStats(**counts | more)


def test_rows_between_their_description_and_their_commit_are_unrecorded() -> None:
    counts = {
        "draw[r0]": StageCount(12),
        "describe[r0]": StageCount(8),
        "record[r0]": StageCount(4),
        "describe[r1]": StageCount(3),
    }
    assert num_unrecorded(counts) == 4 + 3
    assert num_unrecorded({}) == 0
    assert num_unrecorded({"draw[r0]": StageCount(12)}) == 0
    assert num_unrecorded({"describe[r10]": StageCount(2), "record[r1]": StageCount(2)}) == 2


def test_a_pool_is_told_about_in_one_line() -> None:
    assert describe(_stats()) == "2 replicas ready; 3 batches at work; 5 waiting"
    told = describe(_stats(waiting="of 2 replicas 1 load", last_failure="replica 0 ended: killed"))
    assert told.endswith("; of 2 replicas 1 load; last failure: replica 0 ended: killed")


def test_the_first_one_to_ask_is_heard() -> None:
    stop = Stop()
    first, second = PairloomError("first"), PairloomError("second")
    stop.ask(first)
    stop.ask(second)
    assert stop.error is first


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_asks_and_afterwards_means_what_it_did(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    stop = Stop()
    with stop_on_signals(stop):
        signal.raise_signal(number)
    assert isinstance(stop.error, StoppedError)
    assert stop.error.exit_code == code
    assert number.name in str(stop.error)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_at_once_where_a_signal_has_asked_before(first: signal.Signals) -> None:
    with stop_on_signals(Stop()):
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_second_sigterm_asks_no_more_than_the_first() -> None:
    """Schedulers repeat it; the grace time is what bounds the rest."""
    stop = Stop()
    with stop_on_signals(stop):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert stop.error is not None


def test_a_run_in_another_thread_hears_no_signals() -> None:
    before = signal.getsignal(signal.SIGTERM)
    heard: list[Any] = []

    def body() -> None:
        with stop_on_signals(Stop()):
            heard.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert heard == [before]
