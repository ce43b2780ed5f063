"""What a replica of a pool does, seen from the outside: differences of `PoolStats`, over a window.

The first call of a model is slow (compilation, caches, warm-up) and says nothing of the rest. So
counting begins when as many calls have ended as there are loads; and because that first call may
take minutes in which other replicas go on, intervals whose seconds a call are more than twice, or
less than half, the median of the window are left out. After a real shift they are the majority, and
the old ones are left out instead. The error is what the intervals tell of each other: while a shift
passes through the window it is large.

Limits: `busy_s` must be time alone on a GPU: where replicas share one, a call seems longer than it
keeps it busy.
"""

from collections import deque
from dataclasses import dataclass
from math import sqrt
from statistics import median
from typing import Protocol

from cluster.split import PoolRate

MIN_INTERVALS = 4
OUTLIER = 2.0
# Standard errors: the true mean of calls that vary at random is outside in one case of some 20 with
# eight intervals, and a decision to move needs two pools and a gain besides.
NUM_ERRORS = 2.5


class Counts(Protocol):
    """What is read of a `PoolStats`."""

    @property
    def num_loads(self) -> int: ...
    @property
    def num_calls(self) -> int: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def busy_s(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What one busy replica does."""

    calls_per_s: float
    rows_per_call: float
    error: float
    """Of `calls_per_s`, relative."""

    def of(self, name: str, *, num_gpus: int, num_cpus: float = 0.0) -> PoolRate:
        """As the solver wants it; every pair is one row of each pool."""
        return PoolRate(
            name=name,
            calls_per_s=self.calls_per_s,
            calls_per_pair=1 / self.rows_per_call,
            num_gpus=num_gpus,
            num_cpus=num_cpus,
            error=self.error,
        )


@dataclass(frozen=True)
class _Interval:
    num_calls: int
    num_rows: int
    busy_s: float

    @property
    def seconds_per_call(self) -> float:
        return self.busy_s / self.num_calls


class RateWindow:
    """The last `num_intervals` intervals of at least `calls_per_interval` calls each."""

    def __init__(self, *, num_intervals: int = 8, calls_per_interval: int = 4) -> None:
        self._intervals: deque[_Interval] = deque(maxlen=num_intervals)
        self._calls_per_interval = calls_per_interval
        self._before: Counts | None = None

    def see(self, stats: Counts) -> None:
        """Takes what the pool says now; calls between two looks are an interval if they suffice."""
        before = self._before
        if before is None:
            # Of a pool that is still warming up nothing is counted.
            self._before = stats if stats.num_calls >= stats.num_loads > 0 else None
            return
        interval = _Interval(
            stats.num_calls - before.num_calls,
            stats.num_rows - before.num_rows,
            stats.busy_s - before.busy_s,
        )
        if interval.num_calls >= self._calls_per_interval:
            self._before = stats
            if interval.busy_s > 0 and interval.num_rows > 0:
                self._intervals.append(interval)

    def rate(self) -> Rate | None:
        """What the window says, or None while it says too little."""
        if len(self._intervals) < MIN_INTERVALS:
            return None
        middle = median(one.seconds_per_call for one in self._intervals)
        kept = [
            one
            for one in self._intervals
            if middle / OUTLIER <= one.seconds_per_call <= middle * OUTLIER
        ]
        if len(kept) < MIN_INTERVALS:
            return None
        num_calls, busy_s = sum(one.num_calls for one in kept), sum(one.busy_s for one in kept)
        mean_s = busy_s / num_calls
        # Of a ratio of sums, because intervals hold different numbers of calls.
        squares = sum((one.busy_s - mean_s * one.num_calls) ** 2 for one in kept)
        error = sqrt(squares / (len(kept) - 1) * len(kept)) / busy_s
        return Rate(
            calls_per_s=1 / mean_s,
            rows_per_call=sum(one.num_rows for one in kept) / num_calls,
            error=NUM_ERRORS * error,
        )
