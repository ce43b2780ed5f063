"""What a commit costs against writing the same rows without one, on this machine's disk.

    python tests/benchmarks/commit_overhead.py [num_commits] [num_repeats] [folder] [image_bytes]

Three comparisons, every side on the same rows, the order of sides turned from repeat to repeat:

 - one process, unit after unit: `pyarrow.parquet.write_table`; the same and an fsync of the file;
   `Ledger.commit` (Parquet, sha256, put-if-absent of file and receipt, all of it synced);
 - Ray Data, tasks, one block a commit, the same reads in front: `Dataset.write_parquet` with its
   defaults; the same, then `os.sync()`; a task that commits, while a thread folds the receipts into
   the Delta log. Ray Data fuses writes and reads.
 - Ray Data, as in a run: the rows come out of an asynchronous actor that has 8 units at once. With
   `write_parquet` behind it; the same, then `os.sync()`; with nothing behind it, for it commits by
   itself, in threads, 3 rounds of a unit, while a thread folds.

What `write_parquet` has written when it returns would not survive a power cut, and a second
attempt at a task writes its rows again: that is the difference that is paid for.

Limits: models take no time here, so the ratio is that of a run that only writes; what it is of a
real run is printed for models of 0.1 and 1 s a pair. A disk shared with others varies: read the
spread.
"""

import asyncio
import os
import platform
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from actors.records import PAIR_SCHEMA
from cluster.ledger import Ledger
from cluster.receipts import Counts
from cluster.session import SessionConfig, session
from cluster.snapshot import Snapshot
from cluster.storage import open_store
from pipelines.stages import STAGE_CPUS

UNIT_SIZE, IMAGE_BYTES = 64, 20_000
NUM_ROUNDS, NUM_UNITS_IN_FLIGHT = 3, 8
FOLD_INTERVAL_S = 5.0
MEMORY_BYTES = 500 << 20  # of pairs that one process holds at once
GOAL_SHARE, GOAL_MS = 0.03, 20.0
Side = Callable[[Path], None]


def make_unit(index: int, image_bytes: int) -> pa.Table:
    """Pairs of one unit and round, with random bytes as pictures, which no codec can shrink."""
    rng = np.random.default_rng(index)
    unit, round_index = divmod(index, NUM_ROUNDS)
    seed = "a small red circle to the left of a large blue square, on a grey ground; " * 2
    rows = [
        {
            "pair_id": f"{unit:07d}-{row:05d}-{round_index:03d}",
            "chain_id": f"{unit:07d}-{row:05d}",
            "unit_id": f"{unit:07d}",
            "round_index": round_index,
            "seed": seed,
            "prompt": seed,
            "image": {"bytes": rng.bytes(image_bytes), "path": f"{row}.png"},
            "description": f"picture {row}: " + seed * 2,
        }
        for row in range(UNIT_SIZE)
    ]
    return pa.Table.from_pylist(rows, schema=PAIR_SCHEMA)


def commit_unit(ledger: Ledger, rows: pa.Table) -> None:
    """As the stage `record` does it."""
    counts = Counts(num_pairs=rows.num_rows, num_error_rows=0, num_stopped=0)
    unit_id, round_index = rows["unit_id"][0].as_py(), rows["round_index"][0].as_py()
    empty = rows.schema.empty_table()
    ledger.commit(unit_id, round_index, rows, empty, counts, uncompressed={"image.bytes"})


def write_each(folder: Path, units: list[pa.Table], *, is_synced: bool) -> None:
    """The plain write, one file a unit."""
    for index, rows in enumerate(units):
        path = folder / f"{index}.parquet"
        pq.write_table(rows, path)
        if is_synced:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def commit_each(folder: Path, units: list[pa.Table]) -> None:
    ledger = Ledger(open_store(str(folder)), "f")
    for rows in units:
        commit_unit(ledger, rows)


def read_units(num_units: int, image_bytes: int) -> Any:
    """The same reads for every side: one block a commit."""
    import ray

    def make(batch: dict[str, Any]) -> pa.Table:
        return make_unit(int(batch["id"][0]), image_bytes)

    ids = ray.data.range(num_units, override_num_blocks=num_units)
    return ids.map_batches(make, batch_size=None)


def ray_write(units: Any, folder: Path) -> None:
    units.write_parquet(str(folder))


def ray_write_and_sync(units: Any, folder: Path) -> None:
    ray_write(units, folder)
    os.sync()


def keep_folding(ledger: Ledger, snapshot: Snapshot, stop: threading.Event) -> None:
    """Every few seconds, as the watcher of a run does."""
    folded: set[tuple[str, int]] = set()
    while not stop.wait(FOLD_INTERVAL_S):
        new = ledger.committed() - folded
        snapshot.fold(ledger.receipts(new))
        folded |= new


class Stage:
    """The stage that has the rows, without their way from and to Python; commits with a ledger."""

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger

    async def __call__(self, rows: pa.Table) -> pa.Table:
        if self._ledger is None:
            return rows
        await asyncio.to_thread(commit_unit, self._ledger, rows)
        return pa.table({"num_rows": [rows.num_rows]})


def in_actor(units: Any, ledger: Ledger | None) -> Any:
    """Behind an actor as a run's stages are one."""
    import ray

    return units.map_batches(
        Stage,
        fn_constructor_args=[ledger],
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(
            size=1,
            max_concurrent_calls_per_actor=NUM_UNITS_IN_FLIGHT,
            max_tasks_in_flight_per_actor=NUM_UNITS_IN_FLIGHT,
        ),
        num_cpus=STAGE_CPUS,
    )


def in_tasks(units: Any, ledger: Ledger) -> Any:
    def commit(rows: pa.Table) -> pa.Table:
        commit_unit(ledger, rows)
        return pa.table({"num_rows": [rows.num_rows]})

    return units.map_batches(commit, batch_size=None, batch_format="pyarrow")


def ray_commit(units: Any, folder: Path, lay_out: Callable[[Any, Ledger], Any]) -> None:
    store = open_store(str(folder))
    ledger, snapshot = Ledger(store, "f"), Snapshot(store.uri, PAIR_SCHEMA)
    stop = threading.Event()
    folder_thread = threading.Thread(target=keep_folding, args=(ledger, snapshot, stop))
    folder_thread.start()
    lay_out(units, ledger).materialize()
    stop.set()
    folder_thread.join()
    snapshot.fold(ledger.receipts())


def compare(title: str, sides: dict[str, Side], root: Path, num_units: int, repeats: int) -> None:
    """Times every side `repeats` times, in turned order, and prints medians and paired ratios."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for repeat in range(repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            folder = Path(tempfile.mkdtemp(dir=root))
            os.sync()  # what an earlier side left to write is not this one's
            started = time.perf_counter()
            sides[name](folder)
            took[name].append(time.perf_counter() - started)
            data = folder / "data" if (folder / "data").exists() else folder
            files = [str(path) for path in data.rglob("*.parquet")]
            assert pads.dataset(files).count_rows() == num_units * UNIT_SIZE
            shutil.rmtree(folder)
    print(
        f"\n{title}: {num_units} commits = {num_units * UNIT_SIZE} rows, {repeats} paired repeats"
    )
    *plain, committed = names
    for name in names:
        seconds = took[name]
        print(
            f"  {name:36s} median {statistics.median(seconds):6.2f} s "
            f"({min(seconds):.2f} to {max(seconds):.2f}), "
            f"{1000 * statistics.median(seconds) / num_units:.1f} ms a commit"
        )
    for name in plain:
        pairs = list(zip(took[committed], took[name], strict=True))
        ratios = [ours / theirs for ours, theirs in pairs]
        extra_ms = statistics.median(1000 * (ours - theirs) / num_units for ours, theirs in pairs)
        print(
            f"  {committed} / {name}: ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}), {extra_ms:+.1f} ms a commit"
        )
        for model_s in (0.1, 1.0):
            share = extra_ms / 1000 / (model_s * UNIT_SIZE)
            print(f"     of a run with models of {model_s} s a pair: {100 * share:+.3f} %")
        for goal, is_met in (
            ("3 % of a run that only writes", statistics.median(ratios) <= 1 + GOAL_SHARE),
            (f"{GOAL_MS:g} ms a commit", extra_ms <= GOAL_MS),
        ):
            print(f"     goal {goal}: {'met' if is_met else 'MISSED'}")


def say_machine(root: Path) -> None:
    disk = shutil.disk_usage(root)
    print(
        f"{platform.platform()}, {os.cpu_count()} CPUs, pyarrow {pa.__version__}, load "
        f"{os.getloadavg()[0]:.1f}, {root} with {disk.free >> 30} GiB free"
    )


def compare_alone(root: Path, num_commits: int, repeats: int, image_bytes: int) -> None:
    num_commits = min(num_commits, MEMORY_BYTES // (UNIT_SIZE * image_bytes))
    units = [make_unit(index, image_bytes) for index in range(num_commits)]
    sides: dict[str, Side] = {
        "write_table": lambda folder: write_each(folder, units, is_synced=False),
        "write_table + fsync": lambda folder: write_each(folder, units, is_synced=True),
        "commit": lambda folder: commit_each(folder, units),
    }
    compare("one process", sides, root, num_commits, repeats)


def compare_in_ray(root: Path, num_commits: int, repeats: int, image_bytes: int) -> None:
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    ray_write(read_units(8, image_bytes), root / "warm")

    def side(act: Callable[[Any, Path], None]) -> Side:
        return lambda folder: act(read_units(num_commits, image_bytes), folder)

    tasks = {
        "write_parquet": side(ray_write),
        "write_parquet + sync": side(ray_write_and_sync),
        "commit + fold": side(lambda units, folder: ray_commit(units, folder, in_tasks)),
    }
    compare("Ray Data, tasks", tasks, root, num_commits, repeats)
    actor = {
        "write_parquet": side(lambda units, folder: ray_write(in_actor(units, None), folder)),
        "write_parquet + sync": side(
            lambda units, folder: ray_write_and_sync(in_actor(units, None), folder)
        ),
        "commit + fold": side(lambda units, folder: ray_commit(units, folder, in_actor)),
    }
    compare("Ray Data, as in a run", actor, root, num_commits, repeats)


def main() -> None:
    num_commits = int(sys.argv[1]) if len(sys.argv) > 1 else 150
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 6
    parent = sys.argv[3] if len(sys.argv) > 3 else None
    image_bytes = int(sys.argv[4]) if len(sys.argv) > 4 else IMAGE_BYTES
    with tempfile.TemporaryDirectory(dir=parent) as name:
        root = Path(name)
        say_machine(root)
        print(f"{UNIT_SIZE} rows a commit, {image_bytes} bytes a picture")
        compare_alone(root, num_commits, repeats, image_bytes)
        say_machine(root)
        with session(SessionConfig(num_cpus=os.cpu_count(), has_dashboard=False)):
            compare_in_ray(root, num_commits, repeats, image_bytes)
        say_machine(root)


if __name__ == "__main__":
    main()
