"""pipelines/leaving.py: who is heard, and what signals do; real runs: tests/faults."""

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cluster.errors import PairloomError, StoppedError
from pipelines.leaving import Stop, stop_on_signals

CODES = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]


def _end_of(body: Callable[[Stop], None], *, is_watched: bool = True) -> PairloomError:
    """What a verb with this body ends with."""

    def verb() -> None:
        with stop_on_signals() as stop:
            if not is_watched:
                return body(stop)
            with stop.watched():
                body(stop)

    with pytest.raises(PairloomError) as told:
        verb()
    return told.value


def test_the_first_one_to_ask_is_heard() -> None:
    stop = Stop()
    first, second = PairloomError("first"), PairloomError("second")
    stop.ask(first)
    stop.ask(second)
    assert stop.error is first


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_ends_the_body_and_afterwards_means_what_it_did(
    number: signal.Signals, code: int
) -> None:
    def body(_: Stop) -> None:
        signal.raise_signal(number)
        raise AssertionError("not reached")

    before = signal.getsignal(number)
    error = _end_of(body, is_watched=False)
    assert isinstance(error, StoppedError)
    assert error.exit_code == code
    assert number.name in str(error)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_only_asks_where_somebody_watches(number: signal.Signals, code: int) -> None:
    done: list[str] = []

    def body(_: Stop) -> None:
        signal.raise_signal(number)
        done.append("what was under way")

    error = _end_of(body)
    assert isinstance(error, StoppedError)
    assert error.exit_code == code
    assert done


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_at_once_where_a_signal_has_asked_before(first: signal.Signals) -> None:
    def body(_: Stop) -> None:
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise KeyboardInterrupt

    assert first.name in str(_end_of(body))


def test_ctrl_c_leaves_at_once_where_the_run_ends_for_another_reason() -> None:
    """Five of them were swallowed, and only SIGKILL helped."""
    verdict = PairloomError("too many rows fail")

    def body(stop: Stop) -> None:
        stop.ask(verdict)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    assert _end_of(body) is verdict


def test_a_second_sigterm_asks_no_more_than_the_first() -> None:
    """Schedulers repeat it; the grace time is what bounds the rest."""
    done: list[str] = []

    def body(_: Stop) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        done.append("what was under way")

    assert isinstance(_end_of(body), StoppedError)
    assert done


def test_what_is_asked_in_the_last_moment_counts() -> None:
    verdict = PairloomError("too many rows fail")
    assert _end_of(lambda stop: stop.ask(verdict)) is verdict


def test_an_error_of_the_body_stands() -> None:
    own, other = PairloomError("own"), PairloomError("asked meanwhile")

    def body(stop: Stop) -> None:
        stop.ask(other)
        raise own

    assert _end_of(body) is own


def test_a_verb_within_a_verb_hears_for_itself() -> None:
    def body(outer: Stop) -> None:
        inner = _end_of(lambda _: signal.raise_signal(signal.SIGINT), is_watched=False)
        assert "SIGINT" in str(inner)
        assert outer.error is None
        signal.raise_signal(signal.SIGTERM)

    assert "SIGTERM" in str(_end_of(body))


def test_a_run_in_another_thread_hears_no_signals() -> None:
    before = signal.getsignal(signal.SIGTERM)
    heard: list[Any] = []

    def body() -> None:
        with stop_on_signals():
            heard.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert heard == [before]
