"""The seconds that an engine spent on a call, where it works on several at a time.

A second in which n calls are under way counts 1/n for each of them. So the seconds of all calls add
up to the time in which the engine worked at all, and what they cost to what it was held for; the
plain length of each would count that second n times.

Limits: equal shares, whatever a call holds. Calls of several replicas on one GPU are not told apart
from those of one: each replica has a clock of its own.
"""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Span:
    """One call, once it has ended."""

    seconds: float = 0.0
    """From its begin to its end."""
    share_s: float = 0.0
    """Its share of that, beside the calls that went on meanwhile."""


class SharedClock:
    """Of one engine; calls come from any thread."""

    def __init__(self, now_s: Callable[[], float] = time.perf_counter) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._num_calls = 0
        self._seen_s = 0.0
        self._each_s = 0.0  # what a call that had been there from the first on would have by now

    @contextmanager
    def call(self) -> Generator[Span]:
        """Fills the span in at its end, however it ends."""
        span = Span()
        began_s, began_each_s = self._step(1)
        try:
            yield span
        finally:
            ended_s, ended_each_s = self._step(-1)
            span.seconds = ended_s - began_s
            span.share_s = ended_each_s - began_each_s

    def _step(self, change: int) -> tuple[float, float]:
        with self._lock:
            now_s = self._now_s()
            if self._num_calls:
                self._each_s += (now_s - self._seen_s) / self._num_calls
            self._seen_s = now_s
            self._num_calls += change
            return now_s, self._each_s
