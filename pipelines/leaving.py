"""How an attempt ends early: who asked for it, said once, and the signals that ask.

Ctrl-C or SIGTERM (a preempted pod, a cancelled Ray job) ends a verb with a word and 130 or 143,
wherever it is. While the loop runs it only asks: what is under way is committed within the grace
time (`pull.py`). Ctrl-C while an attempt is ending, whoever asked, leaves at once.

Limits: Python runs handlers in the main thread only; a run in another thread hears no signals. Who
sends SIGKILL sooner than the grace time cuts it short: `ray job stop` after
RAY_JOB_STOP_WAIT_TIME_S, 3 s by default.
"""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from cluster.errors import PairloomError, StoppedError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """A request to end the attempt, with the error that it will end with."""

    def __init__(self) -> None:
        self.error: PairloomError | None = None
        self.is_watched = False

    def ask(self, error: PairloomError) -> None:
        """The first one to ask is the one who is heard."""
        self.error = self.error or error

    @contextmanager
    def watched(self) -> Generator[None]:
        """The body looks at `error` by itself, so a signal does not break it off.

        Raises:
            PairloomError: what was asked in the meantime, be it in the last moment.
        """
        self.is_watched = True
        try:
            yield
        finally:
            self.is_watched = False
        if self.error is not None:
            raise self.error


@contextmanager
def stop_on_signals() -> Generator[Stop]:
    """Ctrl-C and SIGTERM end the body with a StoppedError; afterwards they do what they did."""
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        is_ending = stop.error is not None
        stop.ask(StoppedError(signal.Signals(number)))
        if not stop.is_watched or (is_ending and number == signal.SIGINT):
            raise KeyboardInterrupt  # no Exception: Ray's start swallows those

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield stop
    except KeyboardInterrupt as interrupt:
        raise (stop.error or interrupt) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
