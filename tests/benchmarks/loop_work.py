"""What every arm of the loop benchmark has to do, and how its log is read.

The work: `num_units` x 64 chains through `num_rounds` rounds, in batches of 8, with the simulated
engines behind the very tasks that a real run uses. An engine holds a logical GPU and sleeps a
service time that is drawn from the rng_seeds of its batch, so that all arms get the same times.

Limits: pictures are noise of 64 x 64 px; a GPU that two models share is not slower for it.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.backends.simulated import SimulatedConfig
from actors.image_to_text import ImageToTextConfig, build_image_to_text
from actors.records import derive_chain_ids, derive_rng_seed
from actors.text_to_image import TextToImageConfig, build_text_to_image

UNIT_SIZE, BATCH_SIZE = 64, 8
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One scenario."""

    title: str
    num_units: int = 20
    num_rounds: int = 2
    num_generators: int = 8
    num_captioners: int = 2
    draw_s: float = 1.0
    describe_s: float = 0.25
    load_s: float = 0.0
    cv: float = 0.0
    slow_gpu: int = -1
    extra: tuple[str, ...] = field(default=())

    @property
    def num_gpus(self) -> int:
        return self.num_generators + self.num_captioners

    @property
    def num_batches(self) -> int:
        """Of one model."""
        return self.num_units * self.num_rounds * UNIT_SIZE // BATCH_SIZE

    def simulated(self, verb: str, folder: Path) -> SimulatedConfig:
        return SimulatedConfig(
            load_s=self.load_s,
            call_s=self.draw_s if verb == "draw" else self.describe_s,
            cv=self.cv,
            slow_gpu=self.slow_gpu,
            log_path=str(folder / f"{verb}.log"),
        )


def make_seeds(work: Work) -> list[str]:
    return [f"scene number {n}" for n in range(work.num_units * UNIT_SIZE)]


def make_rows(work: Work) -> list[Row]:
    """The chains as the other arms begin with them."""
    seeds = make_seeds(work)
    return [
        {"chain_id": chain_id, "prompt": seed}
        for chain_id, seed in zip(derive_chain_ids(0, seeds), seeds, strict=True)
    ]


class Drawer:
    """Loads the generator and draws batches; rows in, rows with pictures out."""

    def __init__(self, work: Work, folder: Path, round_index: int = -1) -> None:
        config = TextToImageConfig(backend="simulated", simulated=work.simulated("draw", folder))
        self._task = build_text_to_image(config)
        self._round = round_index

    def __call__(self, rows: Sequence[Row], round_index: int | None = None) -> list[Row]:
        r = self._round if round_index is None else round_index
        for row in rows:
            row["rng_seed_draw"] = derive_rng_seed(0, row["chain_id"], r, "draw")
        return self._task(rows)


class Describer:
    """Loads the captioner, describes batches, and writes them: the last that is done to a pair."""

    def __init__(self, work: Work, folder: Path, round_index: int = -1) -> None:
        config = ImageToTextConfig(
            backend="simulated", simulated=work.simulated("describe", folder)
        )
        self._task = build_image_to_text(config)
        self._round = round_index
        self._folder = folder / "pairs"
        self._folder.mkdir(exist_ok=True)

    def __call__(self, rows: Sequence[Row], round_index: int | None = None) -> list[Row]:
        """The next round's rows: the description is the prompt."""
        r = self._round if round_index is None else round_index
        for row in rows:
            row["rng_seed_describe"] = derive_rng_seed(0, row["chain_id"], r, "describe")
        done = self._task(rows)
        pq.write_table(
            pa.Table.from_pylist(done), self._folder / f"{done[0]['chain_id']}-{r}.parquet"
        )
        return [{"chain_id": row["chain_id"], "prompt": row["description"]} for row in done]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one arm did in one repeat; seconds on the wall clock."""

    arm: str
    total_s: float
    """From the call to the last durable row."""
    steady_s: float
    """The same, from the begin of the first call of a model on."""
    ideal_s: float
    """The busier pool at work without a gap, on this arm's own calls."""
    busy: dict[str, float]
    """Share of GPU-seconds at work, by model, from the first call to the last row."""
    num_loads: int
    driver_cpu_s: float
    load_average: float
    gap_s: float
    """The longest time without any draw call at work, before the last one began."""
    ramp_s: float
    """From the first draw call until every process that draws has begun one."""
    busy_when_up: float
    """Share of the drawing GPUs' seconds at work from then on, to the last row."""

    @property
    def efficiency(self) -> float:
        return self.ideal_s / self.steady_s


def read_result(
    arm: str,
    work: Work,
    folder: Path,
    began: float,
    ended: float,
    cpu_s: float,
    load: float,
    *,
    is_shared: bool,
) -> Result:
    """What the engines logged, against the clock; `is_shared`: any GPU may hold either model."""
    logs = {verb: _read(folder / f"{verb}.log") for verb in ("draw", "describe")}
    calls = {
        verb: [(one["started_at"], one["time"]) for one in log if one["event"] == "call"]
        for verb, log in logs.items()
    }
    for verb, spans in calls.items():
        assert len(spans) == work.num_batches, f"{arm}: {len(spans)} calls to {verb}"
    first = min(start for spans in calls.values() for start, _ in spans)
    up = _all_began(logs["draw"])
    work_s = {verb: sum(end - start for start, end in spans) for verb, spans in calls.items()}
    replicas = {"draw": work.num_generators, "describe": work.num_captioners}
    if is_shared:
        replicas = dict.fromkeys(replicas, work.num_gpus)
        ideal_s = sum(work_s.values()) / work.num_gpus + work.describe_s
    elif work.slow_gpu >= 0:
        ideal_s = _ideal_with_slow(work) + work.describe_s
    else:
        # Nobody can avoid that the last picture is described after it is drawn, and that the first
        # has to be there before a captioner has anything to do.
        ideal_s = max(
            work_s["draw"] / work.num_generators + work.describe_s,
            work_s["describe"] / work.num_captioners + work.draw_s,
        )
    return Result(
        arm=arm,
        total_s=ended - began,
        steady_s=ended - first,
        ideal_s=ideal_s,
        busy={verb: work_s[verb] / replicas[verb] / (ended - first) for verb in calls},
        num_loads=sum(one["event"] == "load" for log in logs.values() for one in log),
        driver_cpu_s=cpu_s,
        load_average=load,
        gap_s=_longest_gap(calls["draw"]),
        ramp_s=up - first,
        busy_when_up=sum(max(0.0, end - max(start, up)) for start, end in calls["draw"])
        / replicas["draw"]
        / (ended - up),
    )


def _ideal_with_slow(work: Work) -> float:
    """What the slow GPU drew took it three times as long: not its log, but the means are asked."""
    generators = work.num_generators - 1 + 1 / 3
    total = {"draw": work.num_batches * work.draw_s, "describe": work.num_batches * work.describe_s}
    return max(total["draw"] / generators, total["describe"] / work.num_captioners)


def _all_began(log: list[dict[str, Any]]) -> float:
    """When the last of the processes began its first call."""
    began: dict[int, float] = {}
    for one in log:
        if one["event"] == "call":
            began[one["pid"]] = min(began.get(one["pid"], math.inf), one["started_at"])
    return max(began.values())


def _longest_gap(spans: list[tuple[float, float]]) -> float:
    """Seconds in which no call was at work, between two that were."""
    longest, busy_until = 0.0, min(start for start, _ in spans)
    for start, end in sorted(spans):
        longest = max(longest, start - busy_until)
        busy_until = max(busy_until, end)
    return longest


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_quiet(limit: float, patience_s: float = 60.0) -> None:
    """Lets what the arm before left behind end, so that it is not this one's load."""
    import os

    deadline = time.monotonic() + patience_s
    while os.getloadavg()[0] > limit and time.monotonic() < deadline:
        time.sleep(1.0)
