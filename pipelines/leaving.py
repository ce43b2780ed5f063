"""How an attempt ends early: who asked for it, said once, and the signals that ask.

The first Ctrl-C or a SIGTERM (a preempted pod, a cancelled Ray job) only asks: what is under way is
committed within the grace time. A second Ctrl-C leaves at once.

Limits: Python runs handlers in the main thread only; a run in another thread hears no signals.
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
        self.is_quiet = threading.Event()
        """Set once nothing is under way any more: whoever waits for the rest may go."""

    def ask(self, error: PairloomError) -> None:
        """The first one to ask is the one who is heard."""
        self.error = self.error or error


@contextmanager
def stop_on_signals(stop: Stop) -> Generator[None]:
    """Ctrl-C and SIGTERM ask `stop` while the body runs; afterwards they do what they did."""

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and isinstance(stop.error, StoppedError):
            raise KeyboardInterrupt
        stop.ask(StoppedError(signal.Signals(number)))

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
