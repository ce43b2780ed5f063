"""The best split of GPUs between the pools of a run, from what one replica of each does alone.

A pair costs each pool `calls_per_pair / calls_per_s` seconds of a GPU. Replicas that share a GPU
take turns on it, so the seconds that a set of pools needs must fit into those of the GPUs which it
reaches: P pairs/s can be had if, for every set of pools, P x (their seconds a pair) <= (GPUs that
hold one of them), and only then (max-flow min-cut). The smallest such ratio names the bottleneck.

Two kinds of split are searched. *Whole*: a GPU belongs to one replica; the pool that is behind gets
the next GPU until none is left, which is exact, because it passes through the fewest replicas for
every P that can be had. *Shared*, for two pools: one has a replica on every GPU, the other on n of
them. With G GPUs that is O(G) splits: 64 take a few milliseconds. No other counts and fractions
promise more (`test_split.py` tries all of them).

Limits: all GPUs are taken as equally fast, and batches as full. More than two pools share none.
Shares are what Ray counts: nothing on the GPU enforces them. A pool has one fraction for all of its
replicas, so that no split has GPUs of all three kinds: with the one model, the other, and both.
Where sharing costs 5 %, the best of those would give up to 2.4 % more.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from cluster.packing import Demand, Node, find_misfit, shared_gpus

# What two processes get out of one GPU, together, of what one alone does: switching between them
# costs something. Not measured by us yet: .95 is what colocation is asked to reach.
SHARED_EFFICIENCY = 0.95
# Of one GPU. Over a half, so that no two of the first kind meet.
FIRST_SHARE, SECOND_SHARE = 0.6, 0.4


@dataclass(frozen=True, kw_only=True)
class PoolRate:
    """What one replica of a pool does alone, and how much of it a pair needs."""

    name: str
    calls_per_s: float
    """Batches a second of one replica that has its GPUs, or CPUs, to itself."""
    calls_per_pair: float
    """Batches; 1 / batch_size where batches are full."""
    num_gpus: int = 1
    """Whole GPUs that one replica needs when it shares none; 0: it runs on CPUs."""
    num_cpus: float = 0.0
    memory_share: float | None = None
    """Of one GPU's memory, at most, that a replica takes; unknown: it shares with nobody."""
    error: float = 0.0
    """The true rate is within this share of `calls_per_s`."""

    def __post_init__(self) -> None:
        for name in ("calls_per_s", "calls_per_pair"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"field {name!r} of {self.name} is {value!r}: must be above 0")

    @property
    def seconds_per_pair(self) -> float:
        """Of one replica."""
        return self.calls_per_pair / self.calls_per_s


@dataclass(frozen=True, kw_only=True)
class Split:
    """How many replicas each pool has, in the order of the rates, and GPUs of one replica."""

    num_replicas: tuple[int, ...]
    num_gpus: tuple[float, ...]

    @property
    def gpus(self) -> float:
        """GPUs of all replicas together."""
        return sum(n * g for n, g in zip(self.num_replicas, self.num_gpus, strict=True))

    @property
    def is_whole(self) -> bool:
        """Whether no GPU can have two replicas."""
        return all(share >= 1 for share in self.num_gpus)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What can be expected of a split."""

    split: Split
    pairs_per_s: float
    bottleneck: str
    """The pool that all wait for, or `a and b` where they wait for the GPUs that they share."""
    idle_shares: tuple[float, ...]
    """Of each pool: the share of its replicas' time in which they compute nothing."""


# How many GPUs there are with a replica of just these pools, by their indices, one a replica.
Layout = Counter[tuple[int, ...]]


def forecast(
    rates: Sequence[PoolRate], split: Split, *, shared_efficiency: float = SHARED_EFFICIENCY
) -> Forecast:
    """What a split gives where its replicas are placed as `packing.py` does it, CPUs permitting."""
    return _forecast(rates, split, _layout(split), shared_efficiency)


def _layout(split: Split) -> Layout:
    counts = list(zip(split.num_replicas, split.num_gpus, strict=True))
    found = Layout({(i,): int(n * share) for i, (n, share) in enumerate(counts) if share >= 1})
    demands = [
        Demand(name=str(i), num_replicas=n, num_cpus=0.0, num_gpus=share)
        for i, (n, share) in enumerate(counts)
        if 0 < share < 1
    ]
    found.update(tuple(sorted(map(int, gpu.elements()))) for gpu in shared_gpus(demands, ()))
    return found


def _forecast(
    rates: Sequence[PoolRate], split: Split, layout: Layout, shared_efficiency: float
) -> Forecast:
    """Exact for any number of pools."""
    found: list[tuple[float, tuple[int, ...]]] = [
        (n / rate.seconds_per_pair, (i,))
        for i, (n, rate) in enumerate(zip(split.num_replicas, rates, strict=True))
    ]
    work = [r.seconds_per_pair * max(1, g) for r, g in zip(rates, split.num_gpus, strict=True)]
    on_gpus = sorted({i for pools in layout for i in pools})
    for pools in (c for size in range(1, len(on_gpus) + 1) for c in combinations(on_gpus, size)):
        reached = [(gpu, n) for gpu, n in layout.items() if not set(pools).isdisjoint(gpu)]
        if any(len(gpu) > 1 for gpu, _ in reached):
            gpus = sum(n * (shared_efficiency if len(gpu) > 1 else 1) for gpu, n in reached)
            found.append((gpus / sum(work[i] for i in pools), pools))
    pairs_per_s, pools = min(found)
    idle = [
        max(0.0, 1 - pairs_per_s * rate.seconds_per_pair / n)
        for rate, n in zip(rates, split.num_replicas, strict=True)
    ]
    return Forecast(
        split=split,
        pairs_per_s=pairs_per_s,
        bottleneck=" and ".join(rates[i].name for i in pools),
        idle_shares=tuple(idle),
    )


def solve(
    rates: Sequence[PoolRate],
    nodes: Sequence[Node],
    *,
    can_share: bool = True,
    shared_efficiency: float = SHARED_EFFICIENCY,
) -> Forecast:
    """The split with the most pairs a second that fits on the nodes; of equals the fewest replicas.

    Raises:
        ValueError: not even one replica of each fits.
    """
    num_gpus = int(sum(int(node.num_gpus) for node in nodes))
    splits = [(split, _layout(split)) for split in _whole_splits(rates, num_gpus)]
    if can_share and len(rates) == 2:
        splits += _shared_splits(rates, num_gpus)
    found = [_forecast(rates, *one, shared_efficiency) for one in splits]
    for best in sorted(found, key=_worth, reverse=True):
        if fits(rates, best.split, nodes):
            return best
    asked = ", ".join(f"{rate.name} {rate.num_gpus} GPUs, {rate.num_cpus:g} CPUs" for rate in rates)
    raise ValueError(
        f"one replica of each pool ({asked}) does not fit on {len(nodes)} nodes with {num_gpus} "
        "GPUs: add GPUs, or say what share of a GPU's memory each takes (plan.rates.<pool>."
        "memory_share), so that they may share one"
    )


def fits(rates: Sequence[PoolRate], split: Split, nodes: Sequence[Node]) -> bool:
    """Whether every replica has a place on some node, as `check_fits` packs them."""
    demands = [
        Demand(name=rate.name, num_replicas=n, num_cpus=rate.num_cpus, num_gpus=share)
        for rate, n, share in zip(rates, split.num_replicas, split.num_gpus, strict=True)
    ]
    return not find_misfit(demands, nodes)


def _worth(one: Forecast) -> tuple[float, int]:
    # Nine digits: splits that differ by rounding only are equal.
    return float(f"{one.pairs_per_s:.9g}"), -sum(one.split.num_replicas)


def _whole_splits(rates: Sequence[PoolRate], num_gpus: int) -> Iterator[Split]:
    """The fewest replicas for every rate that can be had, from one of each upwards."""
    split = Split(
        num_replicas=(1,) * len(rates), num_gpus=tuple(float(rate.num_gpus) for rate in rates)
    )
    while split.gpus <= num_gpus:
        yield split
        behind = min(
            range(len(rates)), key=lambda i: split.num_replicas[i] / rates[i].seconds_per_pair
        )
        if rates[behind].num_gpus == 0:
            return  # more GPUs do not help
        split = replace(split, num_replicas=one_more(split.num_replicas, behind))


def one_more(num_replicas: tuple[int, ...], pool: int) -> tuple[int, ...]:
    """The same counts with one more replica of a pool."""
    return tuple(n + (i == pool) for i, n in enumerate(num_replicas))


def _shared_splits(rates: Sequence[PoolRate], num_gpus: int) -> Iterator[tuple[Split, Layout]]:
    """With their layouts, which a test compares: to pack each takes 40 times as long."""
    shares = [rate.memory_share for rate in rates if rate.num_gpus == 1]
    known = [share for share in shares if share is not None]
    if len(known) < 2 or sum(known) > 1 + 1e-9:
        return
    for n in range(1, num_gpus + 1):
        for first, counts, fractions in (
            (0, (num_gpus, n), (FIRST_SHARE, SECOND_SHARE)),
            (1, (n, num_gpus), (SECOND_SHARE, FIRST_SHARE)),
        ):
            layout = Layout({(0, 1): n, (first,): num_gpus - n})
            yield Split(num_replicas=counts, num_gpus=fractions), layout
