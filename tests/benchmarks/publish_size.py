"""How long a filter and a publish of many tiny pairs take, and in how much memory.

    python tests/benchmarks/publish_size.py [num_pairs] [format ...]

A run of units of 64 chains x 3 rounds is written by hand, 4 KB a picture. `pairloom filter` and
`pairloom publish` run as a user runs them, each in a process of its own, whose peak memory is the
kernel's. Last the near duplicates of as many random hashes, and of vectors of 128 numbers, none of
which is near another: the slowest case.

Goal: 100,000 pairs published in 180 s and 2 GB on 2 cores.

Limits: one repeat; files of the run are in the page cache. Pictures are a few pixels and zeros, so
that what is measured is the price of a pair, not of its bytes.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from corrupt import RunWriter

from pipelines.filters.duplicates import Pictures, Scope, find_repeated

NUM_ROUNDS, UNIT_SIZE, IMAGE_BYTES = 3, 64, 4000
VECTOR_SIZE = 128  # of the embedded CLIP
GOAL_S, GOAL_MB = 180.0, 2000.0


def make_run(folder: Path, num_pairs: int) -> int:
    """Returns how many pairs there are: whole chains."""
    folder.mkdir()
    writer = RunWriter(
        folder=folder,
        num_seeds=-(-num_pairs // NUM_ROUNDS),
        num_rounds=NUM_ROUNDS,
        unit_size=UNIT_SIZE,
        image_bytes=IMAGE_BYTES,
    )
    for index in range(len(writer.units)):
        writer.write_unit(index)
    return writer.num_seeds * NUM_ROUNDS


def measure(title: str, *words: str) -> None:
    """Runs one command and prints what it took."""
    started, load = time.perf_counter(), os.getloadavg()[0]
    child = subprocess.Popen(
        [sys.executable, "-m", "pipelines", *words], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    took_s, peak_mb = time.perf_counter() - started, usage.ru_maxrss / 1e3
    assert status == 0, f"{words} ended with {status}"
    is_met = took_s <= GOAL_S and peak_mb <= GOAL_MB
    print(
        f"{title}: {took_s:.1f} s, {usage.ru_utime + usage.ru_stime:.1f} s of CPU, peak "
        f"{peak_mb:.0f} MB, load {load:.1f}; goal {'met' if is_met else 'MISSED'}",
        flush=True,
    )


def measure_near(num_pictures: int) -> None:
    """All distinct, so that every picture is compared with all before it."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((num_pictures, VECTOR_SIZE)).astype(np.float32)
    pictures = Pictures(
        chains=np.arange(num_pictures),
        images=np.arange(num_pictures),
        hashes=rng.integers(0, 2**63, num_pictures, dtype=np.uint64),
        has_hash=np.ones(num_pictures, np.bool_),
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        has_vector=np.ones(num_pictures, np.bool_),
    )
    order, passes = np.arange(num_pictures), np.ones(num_pictures, np.bool_)
    for what, scope in (("hashes", Scope(near=4)), ("vectors", Scope(similar=0.99))):
        started = time.perf_counter()
        found = find_repeated(pictures, order, passes, scope)
        took_s = time.perf_counter() - started
        num_found = found.near.sum() + found.similar.sum()
        print(f"near duplicates among {num_pictures} {what}: {took_s:.1f} s, {num_found} found")


def main() -> None:
    num_pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    formats = sys.argv[2:] or ["parquet", "webdataset"]
    with tempfile.TemporaryDirectory() as name:
        run = Path(name, "run")
        started = time.perf_counter()
        num_pairs = make_run(run, num_pairs)
        took_s = time.perf_counter() - started
        print(f"{num_pairs} pairs, {IMAGE_BYTES} bytes a picture, written in {took_s:.1f} s")
        measure("filter", "filter", str(run), "duplicate_images=drop", "words.min=3")
        for one in formats:
            measure(f"publish {one}", "publish", str(run), f"{name}/{one}", f"format={one}")
        measure_near(num_pairs)


if __name__ == "__main__":
    main()
