"""How many replicas a pool should have, from what it was seen to do: decided purely.

It grows, by as many replicas as would hold what waits, for one of two reasons: what waits would
keep those at work for longer than a replica loads, so that help comes in time; or batches have
waited for `idle_s` without a moment in which none did. It shrinks when fewer would have done for
`idle_s`, with some of their time to spare, so that their queue will empty again and again: that is
the hysteresis. Once a replica more is asked for, or at work, the looks of before do not count: one
that was asked for stays for `idle_s` at least.

Limits: sees one pool, not what GPUs there are: two pools that together want more than the cluster
may have share it as Ray places them, and each gives back what it does not use.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

# As many replicas are kept as were at work on the average, if each works this share of its time.
BUSY_SHARE = 0.7
# How long more must wait than those at work can do in the time of a load: a unit's batches come
# all at once.
GROW_AFTER_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Look:
    """One pool at one moment."""

    at_s: float
    queue_length: int
    """Batches that no replica has taken."""
    queue_s: float
    """What they would take with the replicas that are ready; infinite where none is."""
    num_busy: int
    """Replicas that have a batch."""
    num_ready: int
    num_replicas: int
    """As many as there are to be: ready, loading, or waiting for a node."""


def num_wanted(
    looks: Sequence[Look], *, least: int, most: int, room: int, idle_s: float, load_s: float
) -> int:
    """As many replicas as there should be now.

    Args:
        looks: oldest first, all since replicas, or ready ones, last became more.
        least: replicas that stay without work.
        most: replicas that there may be.
        room: batches that one replica holds.
        idle_s: for so long fewer must have done before any go.
        load_s: what a replica takes to load.
    """
    now = looks[-1]
    kept = min(max(now.num_replicas, least), most)
    if now.queue_length and not kept:
        return min(1, most)
    left = _num_waiting(looks, idle_s, load_s) - (now.num_replicas - now.num_ready) * room
    if left > 0:
        return min(most, kept + math.ceil(left / room))
    rested = _last(looks, idle_s)
    if not rested or now.queue_length:
        return kept
    mean_busy = sum(look.num_busy for look in rested) / len(rested)
    return min(kept, max(least, math.ceil(mean_busy / BUSY_SHARE)))


def _num_waiting(looks: Sequence[Look], idle_s: float, load_s: float) -> int:
    """Batches that are more than a burst."""
    soon = _last(looks, GROW_AFTER_S)
    if not any(look.queue_s <= load_s for look in soon):
        return min((look.queue_length for look in soon), default=0)
    return min((look.queue_length for look in _last(looks, idle_s)), default=0)


def _last(looks: Sequence[Look], seconds: float) -> Sequence[Look]:
    """The looks of the last so many seconds, or none if they do not go back so far."""
    since_s = looks[-1].at_s - seconds
    if looks[0].at_s > since_s:
        return ()
    return [look for look in looks if look.at_s >= since_s]


class DemandWindow:
    """Remembers the looks at one pool that still count; the arguments are those of `num_wanted`."""

    def __init__(self, *, least: int, room: int, idle_s: float) -> None:
        self._least, self._room, self._idle_s = least, room, idle_s
        self._looks: deque[Look] = deque()

    def see(self, look: Look, *, most: int, load_s: float) -> int:
        """As many replicas as there should be now; `load_s` is what the latest load took."""
        before = self._looks[-1] if self._looks else look
        if look.num_replicas > before.num_replicas or look.num_ready > before.num_ready:
            self._looks.clear()
        self._looks.append(look)
        kept_s = max(self._idle_s, GROW_AFTER_S)
        while len(self._looks) > 1 and self._looks[1].at_s <= look.at_s - kept_s:
            self._looks.popleft()
        return num_wanted(
            self._looks,
            least=self._least,
            most=most,
            room=self._room,
            idle_s=self._idle_s,
            load_s=load_s,
        )
