"""Time and cost of a run, as far as its records tell: what models did for pairs, and the rest.

A pair's row says how many seconds of a replica it took to draw and to describe. A failed row says
nothing of the kind, nor does a model that is being loaded, or a replica that waits: together they
are what is left of the time for which the replicas were held.

Limits: replicas and GPUs a replica are those of the config that the run was begun with, held from
its begin to its last commit: GPUs that moved between the pools and pauses between two attempts are
not in the records, and a pause counts as held. A run on CPUs has replica-seconds and no cost.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipelines.gallery.summary import Overview

POOLS = (("generator", "draw"), ("captioner", "describe"))


@dataclass(frozen=True, kw_only=True)
class PoolEffort:
    """One pool: seconds of all its replicas together."""

    name: str
    num_replicas: int | None  # None where the run record has none
    num_gpus: float  # of one replica
    busy_s: float  # spent on pairs that were committed
    held_s: float | None

    @property
    def rest_s(self) -> float | None:
        """Failed rows, loading, waiting."""
        return None if self.held_s is None else max(0.0, self.held_s - self.busy_s)

    @property
    def busy_share(self) -> float | None:
        """Of the time it was held."""
        return self.busy_s / self.held_s if self.held_s else None


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a run took until its last commit."""

    span_s: float | None  # None before the first commit
    pools: list[PoolEffort]
    gpu_hour_price: float | None

    @property
    def busy_gpu_h(self) -> float:
        """GPU-hours that went into pairs."""
        return sum(one.busy_s * one.num_gpus for one in self.pools) / 3600

    @property
    def held_gpu_h(self) -> float | None:
        """GPU-hours that the pools were held for."""
        held = [one.held_s for one in self.pools]
        if any(one is None for one in held):
            return None
        return sum((one.held_s or 0.0) * one.num_gpus for one in self.pools) / 3600


def reckon(overview: Overview) -> Effort:
    """Adds up what the sums and the run record say."""
    record = overview.record
    pools: dict[str, Any] = record.get("pools") or {}
    span_s = _span_s(overview)
    seconds: dict[str, float] = overview.sums.get("seconds", {})
    price = overview.config.gpu_hour_price
    if price is None:
        price = (record.get("plan") or {}).get("gpu_hour_price")
    found: list[PoolEffort] = []
    for name, verb in POOLS:
        pool: dict[str, Any] = pools.get(name) or {}
        num = pool.get("num_replicas")
        num_replicas = num if isinstance(num, int) else None
        known = span_s is not None and num_replicas is not None
        found.append(
            PoolEffort(
                name=name,
                num_replicas=num_replicas,
                num_gpus=float(pool.get("num_gpus") or 0.0),
                busy_s=float(seconds.get(verb, 0.0)),
                held_s=span_s * num_replicas if known and span_s and num_replicas else None,
            )
        )
    return Effort(span_s=span_s, pools=found, gpu_hour_price=price)


def commit_times(overview: Overview) -> list[tuple[float, int]]:
    """Seconds after the begin of the run and pairs of each commit, in the order of time."""
    start = datetime.fromisoformat(overview.run["started_at"]).timestamp()
    times = [
        (datetime.fromisoformat(one["at"]).timestamp() - start, int(one["pairs"]))
        for one in overview.sums["commits"]
    ]
    return sorted((max(0.0, at), pairs) for at, pairs in times)


def _span_s(overview: Overview) -> float | None:
    times = commit_times(overview)
    return times[-1][0] if times else None
