"""The best split of GPUs between the pools of a run, from what one replica of each does alone.

A pair costs each pool `calls_per_pair / calls_per_s` seconds of a GPU. Replicas that share a GPU
take turns on it, so the seconds that a set of pools needs must fit into those of the GPUs which it
reaches: P pairs/s can be had if, for every set of pools, P x (their seconds a pair) <= (GPUs that
hold one of them), and only then (max-flow min-cut). The smallest such ratio names the bottleneck.

Two kinds of split are searched. *Whole*: a GPU belongs to one replica; the pool that is behind gets
the next GPU until none is left, which is exact, because it passes through the fewest replicas for
every P that can be had. *Shared*, for two pools: one has a replica on every GPU, the other on n of
them. Ray packs fractions as tightly as it can, and only then it has no choice (two shares over a
half never meet on one GPU), if the larger shares are placed first: see `Split.first_replicas`. With
G GPUs that is O(G) splits: 64 take a few milliseconds.

Limits: all GPUs are taken as equally fast, and batches as full. More than two pools share none.
Shares are what Ray counts: nothing on the GPU enforces them. Where sharing costs something, a split
with some GPUs of each kind could be better still by less than that cost, but cannot be placed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from cluster.plan import Demand, Node, find_misfit

# What two processes get out of one GPU, together, of what one alone does: switching between them
# costs something. Not measured by us yet: .95 is what colocation is asked to reach.
SHARED_EFFICIENCY = 0.95
# Of one GPU. Over a half, so that no two of the first kind meet; and one only of the second fits
# into what is left.
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

    @property
    def first_replicas(self) -> tuple[int, ...]:
        """With how many replicas each pool may begin; the rest once all of these are placed.

        Two small shares on one GPU leave no room for a large one: of 3 x .4 GPU and then 4 x .6, on
        four GPUs, one was never placed (Ray 2.60); in the other order each got its own GPU.
        """
        largest = max(self.num_gpus)
        return tuple(
            1 if 0 < share < largest < 1 else n
            for n, share in zip(self.num_replicas, self.num_gpus, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What can be expected of a split."""

    split: Split
    pairs_per_s: float
    bottleneck: str
    """The pool that all wait for, or `a and b` where they wait for the GPUs that they share."""
    idle_shares: tuple[float, ...]
    """Of each pool: the share of its replicas' time in which they compute nothing."""


def forecast(
    rates: Sequence[PoolRate],
    split: Split,
    num_gpus: float,
    *,
    shared_efficiency: float = SHARED_EFFICIENCY,
) -> Forecast:
    """What a split gives on `num_gpus` GPUs, if its replicas are spread as far as they go.

    Exact for two pools; for more that share GPUs, an upper bound.
    """
    wanted = [n * max(1, g) for n, g in zip(split.num_replicas, split.num_gpus, strict=True)]
    on_gpus = [i for i, share in enumerate(split.num_gpus) if share > 0]
    num_shared = min(num_gpus, max(0, sum(wanted[i] for i in on_gpus) - num_gpus))
    lost = (1 - shared_efficiency) * num_shared
    found: list[tuple[float, tuple[int, ...]]] = [
        (n / rate.seconds_per_pair, (i,))
        for i, (n, rate) in enumerate(zip(split.num_replicas, rates, strict=True))
    ]
    for size in range(1, len(on_gpus) + 1) if num_shared else ():
        for pools in combinations(on_gpus, size):
            reached = min(sum(wanted[i] for i in pools), num_gpus) - lost
            work = sum(rates[i].seconds_per_pair * max(1, split.num_gpus[i]) for i in pools)
            found.append((max(0.0, reached) / work, pools))
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
    splits = list(_whole_splits(rates, num_gpus))
    if can_share and len(rates) == 2:
        splits += _shared_splits(rates, num_gpus)
    found = [forecast(rates, one, num_gpus, shared_efficiency=shared_efficiency) for one in splits]
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


def _shared_splits(rates: Sequence[PoolRate], num_gpus: int) -> Iterator[Split]:
    shares = [rate.memory_share for rate in rates if rate.num_gpus == 1]
    known = [share for share in shares if share is not None]
    if len(known) < 2 or sum(known) > 1 + 1e-9:
        return
    for n in range(1, num_gpus + 1):
        yield Split(num_replicas=(num_gpus, n), num_gpus=(FIRST_SHARE, SECOND_SHARE))
        yield Split(num_replicas=(n, num_gpus), num_gpus=(SECOND_SHARE, FIRST_SHARE))
