"""What a run tells Prometheus: the one list of its metrics, and who counts them.

From `METRICS` come the exporter here, the Grafana dashboard (`grafana.py`), the check of the alert
rules and the table of `profiling.md`. Ray's agent on every node serves them, `ray_` before the name
and a series for every process (`WorkerId`): a query sums. The driver counts what it sees of
receipts and pools (`Exporter`); what is measured elsewhere is observed there (`Observer`).

Limits: counters begin at 0 with each attempt and count what it sees, while the ledger is the truth:
what a process had not reported when it was killed (up to 10 s by Ray's default) is lost, and the
last seconds of a run that started Ray itself are served by nobody. The sum of a histogram is
reckoned by Ray's agent from the middles of the buckets. Two runs on one cluster are one in a sum.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from cluster.dispatch import PoisonKind, PoolStats, ReplicaState

PREFIX: Final = "ray_"
HOLDING: Final[tuple[ReplicaState, ...]] = ("ready", "loading", "leaving")  # a GPU
RETRY_KINDS: Final[tuple[str, ...]] = (*get_args(PoisonKind), "node_lost", "moved")
OTHER: Final = "other"  # for a reason in no list: no text from outside becomes a series


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric; the values of its `tags` come from closed lists, or are as many as a pool has
    replicas, so that its series are few."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    unit: str
    tags: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """Its names in a scrape."""
        ends = ("_bucket", "_sum", "_count") if self.kind == "histogram" else ("",)
        return tuple(f"{PREFIX}{self.name}{end}" for end in ends)


METRICS: Final = (
    Metric(
        name="pairloom_pairs_committed_total",
        kind="counter",
        help="Pairs whose receipts this attempt wrote.",
        unit="pairs",
    ),
    Metric(
        name="pairloom_error_rows_total",
        kind="counter",
        help="Error rows that this attempt committed, by reason code.",
        unit="rows",
        tags=("reason",),
    ),
    Metric(
        name="pairloom_stopped_rows_total",
        kind="counter",
        help="Rows not grown because their chain failed, or a rule stopped it, in a round before.",
        unit="rows",
    ),
    Metric(
        name="pairloom_pool_queue_rows",
        kind="gauge",
        help="Rows that wait for a replica of the pool.",
        unit="rows",
        tags=("pool",),
    ),
    Metric(
        name="pairloom_pool_replicas",
        kind="gauge",
        help="Replicas by state: ready, loading, pending (no node has room), leaving, over (ended, "
        "to be started again).",
        unit="replicas",
        tags=("pool", "state"),
    ),
    Metric(
        name="pairloom_replica_busy_seconds_total",
        kind="counter",
        help="Seconds that replicas spent inside their model, of calls that have ended.",
        unit="seconds",
        tags=("pool", "replica"),
    ),
    Metric(
        name="pairloom_batch_fill_ratio",
        kind="histogram",
        help="Rows of a call as a share of the pool's batch_size.",
        unit="ratio",
        tags=("pool",),
        # Shares of 8 are the middles of these, because the agent reckons sums from middles: with
        # a bound at 1.0 full batches alone would average .94.
        buckets=(0.0625, 0.1875, 0.3125, 0.4375, 0.5625, 0.6875, 0.8125, 0.9375, 1.0625),
    ),
    Metric(
        name="pairloom_commit_seconds",
        kind="histogram",
        help="Seconds of one commit of a unit's round: encode, hash, put shards and receipt.",
        unit="seconds",
        buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
    ),
    Metric(
        name="pairloom_retries_total",
        kind="counter",
        help="Batches, or single rows of one, that were queued again, by how the call had ended.",
        unit="batches",
        tags=("pool", "kind"),
    ),
    Metric(
        name="pairloom_replica_restarts_total",
        kind="counter",
        help="Replicas that ended and were started again, lost nodes included.",
        unit="restarts",
        tags=("pool",),
    ),
    Metric(
        name="pairloom_gpu_seconds_total",
        kind="counter",
        help="GPU-seconds that replicas held, from placement on: loading and idling count.",
        unit="seconds",
        tags=("pool",),
    ),
    Metric(
        name="pairloom_cost_total",
        kind="counter",
        help="Price of those GPU-seconds at plan.gpu_hour_price; absent without a price.",
        unit="price",
    ),
)


def find_metric(name: str) -> Metric:
    """The metric of that name; `StopIteration` is a mistake in the code."""
    return next(one for one in METRICS if one.name == name)


def _make(name: str) -> Any:
    """The metric as Ray's, in this process: Ray sees to it that equal names are one."""
    from ray.util import metrics as ray_metrics

    metric = find_metric(name)
    if metric.kind == "histogram":
        return ray_metrics.Histogram(name, metric.help, list(metric.buckets), metric.tags)
    kind = ray_metrics.Counter if metric.kind == "counter" else ray_metrics.Gauge
    return kind(name, metric.help, metric.tags)


@dataclass
class Observer:
    """One histogram, in whatever process this lands in; Ray's half is made there at first use."""

    name: str
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    scale: float = 1.0
    """What a value is divided by before it is observed."""
    _histogram: Any = field(default=None, repr=False, compare=False)

    def __call__(self, value: float) -> None:
        if self._histogram is None:
            self._histogram = _make(self.name)
        self._histogram.observe(value / self.scale, dict(self.tags))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_histogram": None}


def fill_observer(pool: str, batch_size: int) -> Observer:
    """What a replica tells the number of rows of each call."""
    return Observer("pairloom_batch_fill_ratio", {"pool": pool}, batch_size)


class Exporter:
    """What the driver counts in one attempt; `reasons` are all the codes that error rows can have.

    Every series of a counter is there from the start, at 0: one that appeared with its first count
    would hide that from `increase()`. Of one thread.
    """

    def __init__(
        self, pools: Collection[str], reasons: Collection[str], gpu_hour_price: float | None = None
    ) -> None:
        self._reasons = frozenset(reasons)
        self._gpu_hour_price = gpu_hour_price
        self._metrics = {one.name: _make(one.name) for one in METRICS if one.kind != "histogram"}
        self._before: dict[str, tuple[PoolStats, float]] = {}
        self.count_commit(0, 0, dict.fromkeys((*reasons, OTHER), 0))
        for pool in pools:
            self._add("pairloom_replica_busy_seconds_total", 0.0, pool=pool, replica="0")
            self._count_pool(pool, 0, dict.fromkeys(RETRY_KINDS, 0))
            self._count_gpus(pool, 0.0)

    def count_commit(self, num_pairs: int, num_stopped: int, reasons: Mapping[str, int]) -> None:
        """Counts a receipt of this attempt."""
        self._add("pairloom_pairs_committed_total", num_pairs)
        self._add("pairloom_stopped_rows_total", num_stopped)
        for reason, number in reasons.items():
            code = reason if reason in self._reasons else OTHER
            self._add("pairloom_error_rows_total", number, reason=code)

    def see_pool(self, pool: str, stats: PoolStats, num_gpus: float, now_s: float) -> None:
        """Shows what a pool has now and counts what it did since the last look.

        To be called more often than every 20 s: Ray forgets a gauge that is not set again.

        Args:
            num_gpus: those of one replica.
            now_s: of a monotonic clock.
        """
        self._set("pairloom_pool_queue_rows", stats.queue_rows, pool=pool)
        for state in get_args(ReplicaState):
            number = stats.replica_states.get(state, 0)
            self._set("pairloom_pool_replicas", number, pool=pool, state=state)
        before, before_s = self._before.get(pool, (None, now_s))
        self._before[pool] = stats, now_s
        retries = {
            kind: number - (before.retries.get(kind, 0) if before else 0)
            for kind, number in stats.retries.items()
        }
        for replica, busy_s in stats.busy_s_of.items():
            new_s = busy_s - (before.busy_s_of.get(replica, 0.0) if before else 0.0)
            name = "pairloom_replica_busy_seconds_total"
            self._add(name, new_s, pool=pool, replica=str(replica))
        self._count_pool(
            pool,
            stats.num_restarts - (before.num_restarts if before else 0),
            retries,
        )
        num_held = sum(stats.replica_states.get(state, 0) for state in HOLDING)
        self._count_gpus(pool, num_held * num_gpus * (now_s - before_s))

    def _count_pool(self, pool: str, num_restarts: int, retries: Mapping[str, int]) -> None:
        self._add("pairloom_replica_restarts_total", num_restarts, pool=pool)
        for kind, number in retries.items():
            self._add("pairloom_retries_total", number, pool=pool, kind=kind)

    def _count_gpus(self, pool: str, gpu_s: float) -> None:
        self._add("pairloom_gpu_seconds_total", gpu_s, pool=pool)
        if self._gpu_hour_price is not None:
            self._add("pairloom_cost_total", gpu_s / 3600 * self._gpu_hour_price)

    def _add(self, name: str, value: float, **tags: str) -> None:
        self._metrics[name]._record(value, tags)  # `inc` does the same, but refuses a 0 (2.60)

    def _set(self, name: str, value: float, **tags: str) -> None:
        self._metrics[name].set(value, tags)
