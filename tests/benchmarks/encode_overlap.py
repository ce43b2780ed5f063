"""How busy an engine stays while its pictures are encoded: beside it, and on its own thread.

    python tests/benchmarks/encode_overlap.py [repeats]

A real replica (no Ray), two batches in flight, draws batches of 4 pictures of 1024 px; the engine
sleeps a second for each, as a GPU would, and returns pictures with grain. Arms in turn: the task in
steps, and as one function, which is what a replica does with a plain callable; with the default PNG
and with the effort that Pillow would take unasked. Busy is the engine's time as a share of the time
from the first call's start to the last one's end.

Limits: a sleeping engine needs no CPU of its own, so a machine whose cores are all taken shows more
loss here than the steps are to blame for: the load is printed.
"""

import asyncio
import os
import pickle
import statistics
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from image_formats import make_pictures
from PIL import Image

from actors.engines import Drawn
from actors.records import Row
from actors.text_to_image import TextToImage, TextToImageConfig
from cluster.replica import Replica

CALL_S, BATCH_SIZE, NUM_BATCHES, IN_FLIGHT = 1.0, 4, 10, 2
ARMS = {
    "steps, png effort 0": (True, 0),
    "one function, png effort 0": (False, 0),
    "steps, png effort 6": (True, 6),
    "one function, png effort 6": (False, 6),
}


@dataclass
class SleepingEngine:
    """Takes a second a call, whatever the batch, and notes when."""

    picture: Image.Image
    calls: list[tuple[float, float]] = field(default_factory=list)

    def draw(self, prompts: list[str], rng_seeds: list[int]) -> list[Drawn]:
        started = time.perf_counter()
        time.sleep(CALL_S)
        self.calls.append((started, time.perf_counter()))
        return [Drawn(image=self.picture) for _ in prompts]


ENGINES: list[SleepingEngine] = []


def build(is_in_steps: bool, effort: int) -> Any:
    config = TextToImageConfig(width_px=1024, height_px=1024, image_effort=effort)
    task = TextToImage(ENGINES[-1], config)
    return task if is_in_steps else task.__call__


async def draw_all(is_in_steps: bool, effort: int) -> None:
    replica = Replica("generator/0", lambda: "here")
    error = await replica.load(pickle.dumps(partial(build, is_in_steps, effort)))
    assert not error, error
    room = asyncio.Semaphore(IN_FLIGHT)
    rows: list[Row] = [{"prompt": "a lane in May", "rng_seed_draw": i} for i in range(BATCH_SIZE)]

    async def one() -> None:
        async with room:
            _, answer = await replica.call(rows, 0, BATCH_SIZE)
            assert answer
            assert all(row.get("image") for row in answer), answer[0]

    await asyncio.gather(*(one() for _ in range(NUM_BATCHES)))


def busy_share(picture: Image.Image, is_in_steps: bool, effort: int) -> float:
    engine = SleepingEngine(picture)
    ENGINES.append(engine)
    asyncio.run(draw_all(is_in_steps, effort))
    span_s = engine.calls[-1][1] - engine.calls[0][0]
    return sum(end - start for start, end in engine.calls) / span_s


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    picture = make_pictures()["photo"]
    shares: dict[str, list[float]] = {title: [] for title in ARMS}
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    for _ in range(repeats):
        for title, arm in ARMS.items():
            shares[title].append(busy_share(picture, *arm))
    for title, seen in shares.items():
        low, high = min(seen), max(seen)
        print(f"{title:30} busy {statistics.median(seen):.3f} ({low:.3f} to {high:.3f})")
    print(f"{repeats} repeats in turn, load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
