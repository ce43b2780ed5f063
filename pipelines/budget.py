"""What a run may spend on GPUs, over all its attempts, and what it has spent.

    spent/<attempt>.json    GPU-seconds of one attempt by pool, put again every `SAVE_INTERVAL_S`

A GPU counts from the moment that a replica is placed on it until it is let go: loading and idling
cost what work costs. The attempt ends as for SIGTERM while what is under way still fits into the
budget: all GPUs that are held, for the grace time and one more look.

Limits: counted by looks every `watch.EXPORT_INTERVAL_S`, to one interval a replica. An attempt that
was killed is charged one `SAVE_INTERVAL_S` of the GPUs that it last held, which is the most that it
can have spent unseen unless the store was away. Of two drivers at once each knows what the other
had spent when it began. An author that the budget ends leaves no seeds. What attempts of an earlier
version spent is nowhere on record.
"""

import json
import logging
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

from cluster.errors import BudgetSpentError, CommitError, StoreError
from cluster.receipts import parse_object
from cluster.storage import Store, open_store

logger = logging.getLogger(__name__)

FOLDER = "spent"
FORMAT = 1
SAVE_INTERVAL_S = 30.0
LOOK_S = 2.0  # of `charged`
# A record that cannot be put is put at the next interval. With a commit's patience of 300 s nobody
# had looked at the budget, nor at the run, for as long as the store was away.
PUT_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """What the whole run may cost; null: as much as it takes. The smaller of the two holds."""

    gpu_hours: float | None = None
    cost: float | None = None  # at plan.gpu_hour_price

    def __post_init__(self) -> None:
        for name in ("gpu_hours", "cost"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):  # nor nan
                raise ValueError(f"field {name!r} is {value}: must be more than 0, or null")

    def gpu_s(self, gpu_hour_price: float | None) -> float | None:
        """The budget in GPU-seconds; None where there is none.

        Raises:
            ValueError: it is a cost, and nothing says what a GPU-hour costs.
        """
        if self.cost is not None and not gpu_hour_price:
            raise ValueError(
                f"field 'limits.budget.cost' is {self.cost:g}, and 'plan.gpu_hour_price' is "
                f"{gpu_hour_price}: say what a GPU-hour costs, or give limits.budget.gpu_hours"
            )
        hours = [] if self.gpu_hours is None else [self.gpu_hours]
        if self.cost is not None and gpu_hour_price:
            hours.append(self.cost / gpu_hour_price)
        return min(hours) * 3600 if hours else None


@dataclass(frozen=True, kw_only=True)
class Spent:
    """One attempt, as its file has it; `num_gpus` are those that it held when that was written."""

    gpu_s: dict[str, float]
    num_gpus: float
    is_over: bool

    @property
    def most_gpu_s(self) -> float:
        """The most that it can have spent."""
        return sum(self.gpu_s.values()) + (0.0 if self.is_over else self.num_gpus * SAVE_INTERVAL_S)


def read_spent(store: Store) -> list[Spent]:
    """What all attempts on this output have on record.

    Raises:
        CommitError: a record is damaged.
    """
    return [_parse(key, store) for key in store.list(FOLDER)]


def add_spent(attempts: Iterable[Spent]) -> dict[str, float]:
    """GPU-seconds by pool of all attempts, as far as they are on record."""
    total: defaultdict[str, float] = defaultdict(float)
    for one in attempts:
        for pool, gpu_s in one.gpu_s.items():
            total[pool] += gpu_s
    return dict(total)


def _parse(key: str, store: Store) -> Spent:
    try:
        record = parse_object(store.read(key))
        if record.pop("format", None) != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        spent = Spent(**record)
        if not all(value >= 0 for value in (*spent.gpu_s.values(), spent.num_gpus)):
            raise ValueError("it has negative numbers")
    except (ValueError, TypeError, AttributeError) as error:
        raise CommitError(
            f"{key} in {store.uri} is no record of what an attempt spent ({error}): remove it, and "
            "take what it held off limits.budget"
        ) from error
    return spent


class Meter:
    """Counts the GPU-seconds of one attempt; of one thread at a time."""

    def __init__(
        self, store: Store, gpu_s: float | None, grace_s: float, now_s: float | None = None
    ) -> None:
        self._store = open_store(store.uri, retry_timeout_s=PUT_TIMEOUT_S)
        self._budget_gpu_s = gpu_s
        self._grace_s = grace_s
        self._key = f"{FOLDER}/{uuid.uuid4().hex}.json"
        self._earlier = [] if gpu_s is None else read_spent(store)
        self._began_s = self._saved_s = monotonic() if now_s is None else now_s
        self._gpu_s: dict[str, float] = {}
        self._held: dict[str, tuple[float, float]] = {}  # pool -> GPUs, when

    @property
    def spent_gpu_s(self) -> float:
        """Of the whole run so far, earlier attempts included."""
        return sum(self._gpu_s.values()) + self._earlier_gpu_s

    @property
    def _earlier_gpu_s(self) -> float:
        return sum(one.most_gpu_s for one in self._earlier)

    @property
    def _num_gpus(self) -> float:
        return sum(number for number, _ in self._held.values())

    def see(self, pool: str, num_gpus: float, now_s: float) -> None:
        """Counts a pool that holds so many GPUs now.

        Between two looks the larger number counts; before the first, all of the attempt.
        """
        before, since_s = self._held.get(pool, (num_gpus, self._began_s))
        spent = max(before, num_gpus) * (now_s - since_s)
        self._held[pool] = num_gpus, now_s
        self._gpu_s[pool] = self._gpu_s.get(pool, 0.0) + spent

    def check(self, interval_s: float = 0.0, num_gpus: float | None = None) -> None:
        """To be asked every `interval_s`; and at the start, with the GPUs that are to be held.

        Raises:
            BudgetSpentError: no more work may be begun.
        """
        if self._budget_gpu_s is None:
            return
        held = self._num_gpus if num_gpus is None else num_gpus
        reserve = held * (self._grace_s + interval_s)
        if self.spent_gpu_s + reserve >= self._budget_gpu_s:
            raise BudgetSpentError(
                self.spent_gpu_s / 3600,
                self._budget_gpu_s / 3600,
                earlier=(len(self._earlier), self._earlier_gpu_s / 3600),
                reserve=reserve / 3600,
            )

    def save(self, now_s: float, *, is_over: bool = False) -> None:
        """Puts the record where it is due, or the attempt over; nothing where no GPU was held."""
        if not any(self._gpu_s.values()) and not self._num_gpus:
            return
        if is_over or now_s - self._saved_s >= SAVE_INTERVAL_S or self._saved_s == self._began_s:
            self._saved_s = now_s
            spent = Spent(gpu_s=self._gpu_s, num_gpus=self._num_gpus, is_over=is_over)
            _put(self._store, self._key, spent)


@contextmanager
def charged(
    store: Store, pool: str, num_gpus: float, gpu_s: float | None = None
) -> Generator[Callable[[], None]]:
    """Puts on record that the body holds so many GPUs: while it does, and however it ends.

    Yields what the body asks before it begins more work.

    Raises:
        BudgetSpentError: `gpu_s` are spent; also of what is yielded.
    """
    meter, lock, is_over = Meter(store, gpu_s, 0.0), threading.Lock(), threading.Event()
    meter.check()

    def look() -> None:
        with lock:
            meter.see(pool, num_gpus, monotonic())
            meter.save(monotonic())

    def check() -> None:
        look()
        meter.check()

    def count() -> None:
        while not is_over.wait(LOOK_S):
            look()

    thread = threading.Thread(target=count, name="meter", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        is_over.set()
        thread.join()
        meter.see(pool, num_gpus, monotonic())
        meter.save(monotonic(), is_over=True)


def _put(store: Store, key: str, spent: Spent) -> None:
    record: dict[str, Any] = {"format": FORMAT, **asdict(spent)}
    try:
        store.put(key, json.dumps(record).encode() + b"\n")
    except StoreError as error:
        logger.warning("what this attempt spent is not on record for now: %s", error)
