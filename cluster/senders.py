"""Who waits for which answer, and how the parts of a broken up batch become one answer again.

Limits: asyncio futures of one event loop; knows nothing of replicas, and never opens an answer.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from cluster.dispatch import Batch


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a sender gets: the parts of its answer, or why there is none."""

    parts: tuple[Any, ...] = ()
    """In the order of the rows: references to answered rows, and a `Poison` for each given up."""
    error: str = ""
    is_load_error: bool = False
    is_draining: bool = False
    """The pool takes no more work; what was refused is to be done by the next attempt."""
    is_lost: bool = False
    """The rows never reached a replica: whoever still has them may send them again."""


@dataclass
class _Waiting:
    future: asyncio.Future[Outcome]
    num_missing: int
    parts: dict[int, Any] = field(default_factory=dict[int, Any])
    """By the index of their first row."""


class Senders:
    """The senders that have not had their one answer yet, by the arrival of what they sent."""

    def __init__(self) -> None:
        self._waiting: dict[int, _Waiting] = {}

    def add(self, batch: Batch) -> asyncio.Future[Outcome]:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[batch.arrival] = _Waiting(future, batch.num_rows)
        return future

    def is_waiting(self, batch: Batch) -> bool:
        """Whether an answer to `batch` would still reach somebody."""
        return batch.arrival in self._waiting

    def answer(self, batch: Batch, part: Any) -> None:
        """Keeps one part; the last missing one sends the answer."""
        waiting = self._waiting.get(batch.arrival)
        if waiting is None:
            return
        waiting.parts[batch.first] = part
        waiting.num_missing -= batch.num_rows
        if not waiting.num_missing:
            parts = tuple(waiting.parts[first] for first in sorted(waiting.parts))
            self.end(batch.arrival, Outcome(parts=parts))

    def end(self, arrival: int, outcome: Outcome) -> None:
        """Ends the wait with `outcome`, whatever parts there are."""
        waiting = self._waiting.pop(arrival, None)
        if waiting is not None and not waiting.future.done():
            waiting.future.set_result(outcome)

    def end_all(self, outcome: Outcome) -> None:
        for arrival in list(self._waiting):
            self.end(arrival, outcome)
