"""What a run will come to: pairs a second, bottleneck, time, cost, and the best split of its GPUs.

Pure: from rates that somebody measured (`pairloom plan --measure`, or an earlier run) and wrote
into `plan.rates`.

Limits: what a replica does alone is what it is taken to do in the run: CPUs that many replicas
share, stores and networks are not reckoned with, nor rows that fail. A scorer is taken never to be
the bottleneck; the GPUs that it holds cost what others do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cluster.packing import Node
from cluster.plan import Plan
from cluster.pool import PoolConfig
from cluster.split import SHARED_EFFICIENCY, Forecast, PoolRate, Split, forecast, solve
from cluster.telemetry import duration

# A split that promises less more than this is as good.
MIN_BETTER = 1.01


@dataclass(frozen=True, kw_only=True)
class RateConfig:
    """What one replica of a pool does alone; `pairloom plan --measure` prints these."""

    call_s: float | None = None
    """Seconds of one call with a full batch of the pool's `batch_size`; where a replica works on
    several at a time (`calls_per_replica`), that by their number."""
    load_s: float | None = None
    """Seconds until a replica answers: process and model."""
    memory_share: float | None = None
    """Of one GPU's memory, at most, that a replica takes; where both models know theirs and fit
    together, splits in which they share GPUs are considered. Default: `num_gpus` below 1."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("call_s", 1e-6, 1e6), ("load_s", 0.0, 1e6), ("memory_share", 1e-3, 1.0)
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(
                    f"field {name!r} is {value}: must be from {least:g} to {most:g}, or null"
                )


@dataclass(frozen=True, kw_only=True)
class RatesConfig:
    """The rates of both pools."""

    generator: RateConfig = field(default_factory=RateConfig)
    captioner: RateConfig = field(default_factory=RateConfig)


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What a plan needs to know besides the config of the run; none of it changes the pairs."""

    rates: RatesConfig = field(default_factory=RatesConfig)
    # Let whole GPUs go from one pool to the other during a run, where the rates that it sees pay
    # for the loading (cluster/moves.py)
    can_move: bool = True
    gpu_hour_price: float | None = None  # in any currency: the cost is told in the same
    # GiB of one GPU, to see whether the models fit; null: what nvidia-smi says on this machine
    gpu_gib: float | None = None
    # What two models that share a GPU get out of it, together, of what one alone does
    shared_gpu_efficiency: float = SHARED_EFFICIENCY

    def __post_init__(self) -> None:
        if self.gpu_hour_price is not None and not 0 <= self.gpu_hour_price < math.inf:
            raise ValueError(
                f"field 'gpu_hour_price' is {self.gpu_hour_price}: must be 0 or more, or null"
            )
        if self.gpu_gib is not None and not 0 < self.gpu_gib < math.inf:
            raise ValueError(f"field 'gpu_gib' is {self.gpu_gib}: must be above 0, or null")
        if not 0 < self.shared_gpu_efficiency <= 1:
            raise ValueError(
                f"field 'shared_gpu_efficiency' is {self.shared_gpu_efficiency}: must be above 0, "
                "at most 1"
            )


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What the pools as configured are expected to do, and what the best split of them would."""

    expected: Forecast
    num_gpus_held: int  # of all pools; those that are shared count once
    num_pairs: int  # that are left
    load_s: float  # 0 where it is not known
    gpu_hour_price: float | None
    names: tuple[str, ...]
    best: Forecast | None = None  # None: no GPU is asked for, or nothing fits
    num_gpus: int = 0  # that `best` is for
    why_no_best: str = ""

    @property
    def eta_s(self) -> float:
        """From the start of the pools to the last pair."""
        return self.load_s + self.num_pairs / self.expected.pairs_per_s

    @property
    def gpu_hours(self) -> float:
        """That all pools hold; one that is held in part counts whole."""
        return self.num_gpus_held * self.eta_s / 3600

    @property
    def cost(self) -> float | None:
        """In the currency of the price; None without a price."""
        return None if self.gpu_hour_price is None else self.gpu_hours * self.gpu_hour_price

    @property
    def is_best(self) -> bool:
        """Whether no other split of the GPUs promises noticeably more."""
        best = self.best
        return best is None or best.pairs_per_s <= self.expected.pairs_per_s * MIN_BETTER


def look_ahead(
    plan: Plan,
    pools: Sequence[PoolConfig],
    rates: Sequence[RateConfig],
    config: PlanConfig,
    nodes: Sequence[Node],
    num_pairs: int,
) -> Outlook | None:
    """The outlook, or None while a rate is not known; `pools` and `rates` in the plan's order.

    Where the nodes at hand have fewer GPUs than are asked for, those that are asked for are split.
    """
    if any(rate.call_s is None for rate in rates) or not plan.num_pairs:
        return None
    known = [
        PoolRate(
            name=one.name,
            calls_per_s=1 / (rate.call_s or 1.0),
            calls_per_pair=one.num_calls / plan.num_pairs,
            num_gpus=math.ceil(pool.num_gpus),
            num_cpus=pool.num_cpus,
            memory_share=rate.memory_share or (pool.num_gpus if pool.num_gpus < 1 else None),
        )
        for one, pool, rate in zip(plan.pools, pools, rates, strict=True)
    ]
    split = Split(
        num_replicas=tuple(pool.num_replicas for pool in pools),
        num_gpus=tuple(pool.num_gpus for pool in pools),
    )
    expected = forecast(known, split, shared_efficiency=config.shared_gpu_efficiency)
    num_asked = replace(plan, others=()).num_gpus
    nodes = _without(nodes, plan.num_gpus - num_asked)
    num_here = sum(int(one.num_gpus) for one in nodes)
    if num_here < num_asked:
        nodes = [Node(num_cpus=math.inf, num_gpus=num_asked)]
    num_gpus = max(num_here, num_asked)
    best, problem = None, ""
    if num_asked:
        try:
            best = solve(known, nodes, shared_efficiency=config.shared_gpu_efficiency)
        except ValueError as error:
            problem = str(error)
    return Outlook(
        expected=expected,
        num_gpus_held=plan.num_gpus,
        num_pairs=num_pairs,
        load_s=max(rate.load_s or 0.0 for rate in rates),
        gpu_hour_price=config.gpu_hour_price,
        names=tuple(rate.name for rate in known),
        best=best,
        num_gpus=num_gpus,
        why_no_best=problem,
    )


def _without(nodes: Sequence[Node], num_gpus: int) -> list[Node]:
    """The nodes without so many whole GPUs."""
    left: list[Node] = []
    for node in nodes:
        taken = min(num_gpus, int(node.num_gpus))
        num_gpus -= taken
        left.append(replace(node, num_gpus=node.num_gpus - taken))
    return left


def describe_expected(outlook: Outlook) -> str:
    """The rate, and who waits for whom."""
    one = outlook.expected
    idle = ", ".join(
        f"{name} {share:.0%}" for name, share in zip(outlook.names, one.idle_shares, strict=True)
    )
    return f"{one.pairs_per_s:.3g} pairs/s, bottleneck {one.bottleneck}; idle: {idle}"


def describe_time(outlook: Outlook) -> str:
    """How long, and of it how long before anything is done."""
    load_s = outlook.load_s
    loading = f", of it {duration(load_s)}" if load_s else ", and however long it takes"
    return (
        f"about {duration(outlook.eta_s)} for {outlook.num_pairs} pairs{loading} to load the models"
    )


def describe_cost(outlook: Outlook) -> str:
    """GPU-hours, and what they cost where a price is known."""
    gpus = outlook.num_gpus_held
    if not gpus:
        return "no GPUs"
    hours = f"{gpus} GPUs x {outlook.eta_s / 3600:.3g} h = {outlook.gpu_hours:.3g} GPU-hours"
    if outlook.cost is None:
        return f"{hours}; set plan.gpu_hour_price to see their price"
    return f"{hours}, {outlook.cost:.3g} at {outlook.gpu_hour_price:g} a GPU-hour"


def describe_best(outlook: Outlook) -> str:
    """The better split with the words that ask for it, or that there is none; empty on CPUs."""
    best = outlook.best
    if best is None:
        return outlook.why_no_best
    if outlook.is_best:
        return f"no split of {outlook.num_gpus} GPUs is better"
    gain = best.pairs_per_s / outlook.expected.pairs_per_s - 1
    split, names = best.split, outlook.names
    words = [
        f"pools.{name}.num_replicas={n} pools.{name}.num_gpus={share:g}"
        for name, n, share in zip(names, split.num_replicas, split.num_gpus, strict=True)
    ]
    return (
        f"of {outlook.num_gpus} GPUs the best split gives {best.pairs_per_s:.3g} pairs/s, "
        f"{gain:.0%} more: {' '.join(words)}"
    )
