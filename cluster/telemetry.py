"""What a run has done so far: stages count on a board, the driver shows rates and an honest ETA.

A `Board` is a handle on a tiny actor: stages add to it and do not wait, the driver polls it.
`Progress` draws live bars on a terminal and logs one line every 30 s elsewhere. Rates come from the
moments at which counts grew, so that bursts (a unit at a time) do not distort them; there is no ETA
before three such moments, and a stall lengthens it.

Limits: the board is for people, the ledger is the truth: an `add` lost with its sender stays lost,
and one repeated by a retried stage is counted twice.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.placement import on_node

logger = logging.getLogger(__name__)

WINDOW_S = 120.0
MIN_GROWTHS = 3
TERMINAL_INTERVAL_S = 0.5
LOG_INTERVAL_S = 30.0


@dataclass(frozen=True)
class StageCount:
    """Sums of what one stage has reported."""

    num_rows: int = 0
    num_errors: int = 0


@dataclass(frozen=True)
class Board:
    """A handle that pickles into stages."""

    _actor: Any = field(repr=False)

    async def begin(self, stage: str, unit_id: str) -> int:
        """Counts the tries of a unit at a stage, this one included, since it last got through.

        0 when the board cannot be reached, or is gone: it is for people, and ends no run.
        """
        from ray.exceptions import RayActorError

        try:
            return await self._actor.begin.remote(stage, unit_id)
        except RayActorError as error:
            logger.warning("%s: the board does not answer: %s", stage, error)
            return 0

    def add(self, stage: str, num_rows: int, num_errors: int = 0, unit_id: str = "") -> None:
        """Counts what got through, and returns before the board has heard of it."""
        self._actor.add.remote(stage, num_rows, num_errors, unit_id)

    def leave(self, stage: str, unit_id: str) -> None:
        """Forgets that a unit was begun: it was turned away."""
        self._actor.leave.remote(stage, unit_id)

    def num_begun(self, timeout_s: float) -> int:
        """Stages that a unit has begun and not got through, over all units."""
        import ray

        return ray.get(self._actor.num_begun.remote(), timeout=timeout_s)

    def snapshot(self, timeout_s: float = 10.0) -> dict[str, StageCount]:
        import ray

        return ray.get(self._actor.snapshot.remote(), timeout=timeout_s)

    def close(self) -> None:
        import ray

        if ray.is_initialized():
            ray.kill(self._actor, no_restart=True)


def start_board() -> Board:
    """A board beside the driver; it ends with the driver or by `close`."""
    import ray

    beside_driver = on_node(ray.get_runtime_context().get_node_id())
    board_class: Any = ray.remote(_BoardActor)
    return Board(board_class.options(num_cpus=0, **beside_driver).remote())


class _BoardActor:
    def __init__(self) -> None:
        self._counts: dict[str, StageCount] = {}
        self._tries: Counter[tuple[str, str]] = Counter()

    def __repr__(self) -> str:
        return "board"

    async def begin(self, stage: str, unit_id: str) -> int:
        self._tries[stage, unit_id] += 1
        return self._tries[stage, unit_id]

    async def add(self, stage: str, num_rows: int, num_errors: int, unit_id: str) -> None:
        self._tries.pop((stage, unit_id), None)
        before = self._counts.get(stage, StageCount())
        self._counts[stage] = StageCount(before.num_rows + num_rows, before.num_errors + num_errors)

    async def leave(self, stage: str, unit_id: str) -> None:
        self._tries.pop((stage, unit_id), None)

    async def num_begun(self) -> int:
        return len(self._tries)

    async def snapshot(self) -> dict[str, StageCount]:
        return dict(self._counts)


class Growth:
    """The moments at which one count grew, over the last `WINDOW_S` seconds or four moments."""

    def __init__(self) -> None:
        self._moments: deque[tuple[float, int]] = deque()
        self.count = 0

    def see(self, now_s: float, count: int) -> None:
        if count > self.count:
            self._moments.append((now_s, count))
            self.count = count
        while len(self._moments) > MIN_GROWTHS + 1 and self._moments[0][0] < now_s - WINDOW_S:
            self._moments.popleft()

    def rate(self, now_s: float) -> float | None:
        """Rows a second, or None while it cannot be known.

        From the first to the last growth, while the next is not overdue; then silence counts too.
        """
        num = len(self._moments)
        if num < MIN_GROWTHS:
            return None
        (start_s, start_count), (end_s, end_count) = self._moments[0], self._moments[-1]
        elapsed_s = max(end_s - start_s, (now_s - start_s) * (num - 1) / num)
        return (end_count - start_count) / elapsed_s if elapsed_s > 0 else None


def eta_s(num_done: int, num_total: int, rate: float | None) -> float | None:
    """Seconds left, or None while nobody can know."""
    if num_done >= num_total:
        return 0.0
    return (num_total - num_done) / rate if rate else None


@dataclass(frozen=True, kw_only=True)
class StageLine:
    """One line of the display."""

    stage: str
    num_done: int
    num_total: int
    num_errors: int = 0
    rate: float | None = None
    eta_s: float | None = None


class Tracker:
    """Turns snapshots into lines, one a stage and one for the pairs; the clock is the caller's."""

    def __init__(self, totals: Mapping[str, int], pair_stages: Collection[str]) -> None:
        self._totals = dict(totals)
        self._pair_stages = set(pair_stages)
        self._growths = {stage: Growth() for stage in (*self._totals, "pairs")}

    def lines(self, counts: Mapping[str, StageCount], now_s: float) -> list[StageLine]:
        """A line for each stage in the order of the totals, then the pairs."""
        lines = [
            self._line(stage, counts.get(stage, StageCount()), total, now_s)
            for stage, total in self._totals.items()
        ]
        pairs = [line for line in lines if line.stage in self._pair_stages]
        done = StageCount(
            sum(line.num_done for line in pairs), sum(line.num_errors for line in pairs)
        )
        total = sum(line.num_total for line in pairs)
        return [*lines, self._line("pairs", done, total, now_s)]

    def _line(self, stage: str, count: StageCount, total: int, now_s: float) -> StageLine:
        growth = self._growths[stage]
        growth.see(now_s, count.num_rows)
        rate = growth.rate(now_s)
        return StageLine(
            stage=stage,
            num_done=count.num_rows,
            num_total=total,
            num_errors=count.num_errors,
            rate=rate,
            eta_s=eta_s(count.num_rows, total, rate),
        )


def duration(seconds: float | None) -> str:
    """`40 s`, `12 min`, `3 h 05 min`; a dash for what is not known."""
    if seconds is None:
        return "-"
    minutes, whole_s = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{whole_s} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def log_line(lines: Iterable[StageLine]) -> str:
    """One line: the pairs, then only the stages that are under way."""
    *stages, pairs = lines
    parts = [f"pairs {pairs.num_done}/{pairs.num_total}"]
    if pairs.rate is not None:
        parts.append(f"{pairs.rate:.3g} pairs/s, {duration(pairs.eta_s)} left")
    if pairs.num_errors:
        parts.append(f"{pairs.num_errors} error rows")
    parts += [
        f"{line.stage} {line.num_done}/{line.num_total}"
        for line in stages
        if 0 < line.num_done < line.num_total
    ]
    return " | ".join(parts)


def table(lines: Iterable[StageLine]) -> Table:
    """Bars for a terminal."""
    grid = Table.grid(padding=(0, 2))
    for justify in ("left", "left", "right", "right", "right", "right"):
        grid.add_column(justify=justify, no_wrap=True)
    grid.add_row("stage", "", "rows", "rows/s", "left", "errors", style="dim")
    for line in lines:
        grid.add_row(
            Text(line.stage),  # as markup, "[r0]" would be a style
            ProgressBar(total=max(line.num_total, 1), completed=line.num_done, width=24),
            f"{line.num_done}/{line.num_total}",
            "-" if line.rate is None else f"{line.rate:.3g}",
            duration(line.eta_s),
            str(line.num_errors or ""),
            style="bold" if line.stage == "pairs" else "",
        )
    return grid


class Progress:
    """Shows a run while the `with` block works. `totals`: rows each stage will see, in order.

    `snapshot` is polled from a thread; one that fails shows nothing new and ends nothing.
    """

    def __init__(
        self,
        snapshot: Callable[[], Mapping[str, StageCount]],
        totals: Mapping[str, int],
        pair_stages: Collection[str],
        *,
        console: Console | None = None,
        log_interval_s: float = LOG_INTERVAL_S,
    ) -> None:
        self._snapshot = snapshot
        self._tracker = Tracker(totals, pair_stages)
        self._console = console or Console(stderr=True)  # stdout belongs to the result
        self._interval_s = TERMINAL_INTERVAL_S if self._console.is_terminal else log_interval_s
        self._live: Live | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()
        self._show()
        if self._live is not None:
            self._live.stop()

    def _poll(self) -> None:
        while not self._is_over.wait(self._interval_s):
            self._show()

    def _show(self) -> None:
        try:
            counts = self._snapshot()
        except Exception as error:  # a display must not end the run it shows
            logger.debug("no counts this time: %s", error)
            return
        lines = self._tracker.lines(counts, time.monotonic())
        if self._live is not None:
            self._live.update(table(lines), refresh=True)
        else:
            logger.info("%s", log_line(lines))
