"""Time and cost of a run, as far as its records tell: pairs, rows that failed, and the rest.

A pair's row says how many seconds of a replica it took to draw, to describe and to score. A row
that failed says how many calls it was in, but not how long: each is reckoned as long as one of a
pair of the run. What GPUs were held for stands in `spent/` (`pipelines/budget.py`); where nothing
does, on CPUs, a pool's replicas are taken to be held from the begin of the run to its last commit.
What is left of that was loading and waiting.

Limits: a call that hung is reckoned as one that did not. On CPUs replicas that moved, came or went,
and pauses between two attempts, are not in the records: a pause counts as held. What attempts of
an earlier version held is in none.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from actors.records import is_replay
from cluster.telemetry import Growth, eta_s
from pipelines.gallery.pages import VERBS
from pipelines.gallery.summary import Overview

_POOLS = dict(zip(("generator", "captioner", "scorer"), VERBS, strict=True))
AUTHOR = "author"


@dataclass(frozen=True, kw_only=True)
class PoolEffort:
    """One pool: seconds of all its replicas together."""

    name: str
    verb: str
    num_replicas: int | None  # None where the run record has none
    num_gpus: float  # of one replica
    pair_s: float  # spent on pairs that were committed
    failed_s: float  # on rows that failed, reckoned
    held_s: float | None
    is_measured: bool  # whether `held_s` stands in `spent/`

    @property
    def idle_s(self) -> float | None:
        """Loading and waiting."""
        return None if self.held_s is None else max(0.0, self.held_s - self.pair_s - self.failed_s)

    @property
    def busy_share(self) -> float | None:
        """Of the time it was held."""
        return (self.pair_s + self.failed_s) / self.held_s if self.held_s else None


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a run took until its last commit."""

    span_s: float | None  # None before the first commit
    pools: list[PoolEffort]
    author_gpu_s: float  # for seeds that a model wrote
    gpu_hour_price: float | None

    @property
    def has_gpus(self) -> bool:
        """Whether there is anything to price."""
        return any(one.num_gpus for one in self.pools)


@dataclass(frozen=True, kw_only=True)
class Split:
    """What everything went into, in GPU-seconds, or in seconds of replicas where there is no GPU.

    `idle` and `whole` are None where it is not known for how long the pools were held.
    """

    kept: float
    dropped: float
    failed: float
    seeds: float
    idle: float | None

    @property
    def whole(self) -> float | None:
        """All of it."""
        known = self.kept + self.dropped + self.failed + self.seeds
        return None if self.idle is None else known + self.idle


def reckon(overview: Overview) -> Effort:
    """Adds up what the sums, the run record and `spent/` say."""
    record = overview.record
    price = overview.config.gpu_hour_price
    if price is None:
        price = (record.get("plan") or {}).get("gpu_hour_price")
    span_s = _span_s(overview)
    is_scored = (record.get("scorer") or {}).get("backend", "none") != "none"
    return Effort(
        span_s=span_s,
        pools=[
            _pool(overview, name, verb, span_s)
            for name, verb in _POOLS.items()
            if name != "scorer" or is_scored
        ],
        author_gpu_s=overview.spent_s.get(AUTHOR, 0.0),
        gpu_hour_price=price,
    )


def _pool(overview: Overview, name: str, verb: str, span_s: float | None) -> PoolEffort:
    pool: dict[str, Any] = (overview.record.get("pools") or {}).get(name) or {}
    num = pool.get("num_replicas")
    num_replicas = num if isinstance(num, int) else None
    num_gpus = float(pool.get("num_gpus") or 0.0)
    is_measured = bool(num_gpus) and name in overview.spent_s
    if is_measured:
        held_s: float | None = overview.spent_s[name] / num_gpus
    else:
        held_s = span_s * num_replicas if span_s and num_replicas else None
    pair_s = float(overview.sums.get("seconds", {}).get(verb, 0.0))
    return PoolEffort(
        name=name,
        verb=verb,
        num_replicas=num_replicas,
        num_gpus=num_gpus,
        pair_s=pair_s,
        failed_s=_failed_calls(overview, verb) * pair_s / max(1, overview.sums.get("num_pairs", 0)),
        held_s=held_s,
        is_measured=is_measured,
    )


def _failed_calls(overview: Overview, verb: str) -> int:
    """Calls of a pool for rows that failed there, and one for each that failed at a later stage."""
    tries: dict[str, dict[str, int]] = overview.sums.get("tries", {})
    later = VERBS[VERBS.index(verb) + 1 :]
    return tries.get(verb, {}).get("calls", 0) + sum(tries.get(v, {}).get("rows", 0) for v in later)


def split(effort: Effort, kept_s: dict[str, float] | None = None) -> Split:
    """Splits all that was spent; `kept_s` are seconds by verb of the pairs that a filter keeps,
    without it all are kept."""
    weights = {one.verb: one.num_gpus if effort.has_gpus else 1.0 for one in effort.pools}
    pairs = sum(weights[one.verb] * one.pair_s for one in effort.pools)
    kept = sum(weights[v] * s for v, s in kept_s.items() if v in weights) if kept_s else pairs
    idle = [weights[one.verb] * (one.idle_s or 0.0) for one in effort.pools]
    is_known = all(one.idle_s is not None for one in effort.pools if weights[one.verb])
    return Split(
        kept=kept,
        dropped=max(0.0, pairs - kept),
        failed=sum(weights[one.verb] * one.failed_s for one in effort.pools),
        seeds=effort.author_gpu_s,
        idle=sum(idle) if is_known else None,
    )


@dataclass(frozen=True, kw_only=True)
class Spared:
    """What rules that stopped chains have saved, at what a pair took on the average."""

    chains: dict[str, int]  # by rule
    num_rows: int  # that were not grown
    model_s: float
    gpu_s: float


def reckon_spared(overview: Overview, effort: Effort) -> Spared:
    """Nothing where no rule stopped a chain."""
    chains = Counter[str]()
    num_rows = 0
    for one in overview.sums["commits"]:
        chains.update(one["stops"])
        num_left = overview.record["num_rounds"] - 1 - one["round"]
        num_rows += num_left * sum(one["stops"].values())
    share = num_rows / max(1, overview.sums.get("num_pairs", 0))
    return Spared(
        chains=dict(chains.most_common()),
        num_rows=num_rows,
        model_s=share * sum(one.pair_s for one in effort.pools),
        gpu_s=share * sum(one.pair_s * one.num_gpus for one in effort.pools),
    )


def foresee(overview: Overview) -> list[tuple[float, float]]:
    """(seconds since the begin, seconds that were left) of each commit, as the display of a run
    reckons what is left: from the rows of the last minutes. Without what replays did."""
    if overview.num_seeds is None:
        return []
    total = overview.num_seeds * overview.record["num_rounds"]
    growth, found = Growth(), list[tuple[float, float]]()
    num_rows = 0
    for at_s, commit in _by_time(overview):
        if is_replay(commit["unit"]):
            continue
        num_rows += commit["pairs"] + commit["errors"] + commit["stopped"]
        growth.see(at_s, num_rows)
        left_s = eta_s(num_rows, total, growth.rate(at_s))
        if left_s is not None:
            found.append((at_s, left_s))
    return found


def commit_times(overview: Overview) -> list[tuple[float, int]]:
    """Seconds after the begin of the run and pairs of each commit, in the order of time."""
    return [(at_s, int(one["pairs"])) for at_s, one in _by_time(overview)]


def _by_time(overview: Overview) -> list[tuple[float, dict[str, Any]]]:
    start = datetime.fromisoformat(overview.run["started_at"]).timestamp()
    times = [
        (max(0.0, datetime.fromisoformat(one["at"]).timestamp() - start), one)
        for one in overview.sums["commits"]
    ]
    return sorted(times, key=lambda one: one[0])


def _span_s(overview: Overview) -> float | None:
    times = _by_time(overview)
    return times[-1][0] if times else None
