"""What a commit costs against writing the same rows without one, on this machine's disk.

    python tests/benchmarks/commit_overhead.py [num_units] [num_repeats] [folder]

Two comparisons, every side on the same rows, the order of sides turned from repeat to repeat:

 - one process, unit after unit: `pyarrow.parquet.write_table`; the same and an fsync of the file;
   `Ledger.commit` (Parquet, sha256, put-if-absent of file and receipt, all of it synced);
 - Ray Data, one block a unit, the same reads in front: `Dataset.write_parquet` with its defaults;
   the same, then `os.sync()`; a stage that commits, while a thread folds the receipts into the
   Delta log.

What `write_parquet` has written when it returns would not survive a power cut, and a second
attempt at a task writes its rows again: that is the difference that is paid for.

Limits: models take no time here, so the ratio is that of a run that only writes; what it is of a
real run is printed for models of 0.1 and 1 s a pair. A disk shared with others varies: read the
spread.
"""

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

UNIT_SIZE, IMAGE_BYTES = 64, 20_000
FOLD_INTERVAL_S = 5.0
GOAL_SHARE, GOAL_MS = 0.03, 20.0
Side = Callable[[Path, int], None]


def make_unit(unit_index: int) -> pa.Table:
    """Pairs with random bytes as pictures, which no codec can shrink."""
    rng = np.random.default_rng(unit_index)
    seed = "a small red circle to the left of a large blue square, on a grey ground; " * 2
    rows = [
        {
            "pair_id": f"{unit_index:07d}-{row:05d}-000",
            "chain_id": f"{unit_index:07d}-{row:05d}",
            "unit_id": f"{unit_index:07d}",
            "round_index": 0,
            "seed": seed,
            "prompt": seed,
            "image": {"bytes": rng.bytes(IMAGE_BYTES), "path": f"{row}.png"},
            "description": f"picture {row}: " + seed * 2,
        }
        for row in range(UNIT_SIZE)
    ]
    return pa.Table.from_pylist(rows, schema=PAIR_SCHEMA)


def commit_unit(ledger: Ledger, rows: pa.Table) -> None:
    """As the stage `record` does it."""
    counts = Counts(num_pairs=rows.num_rows, num_error_rows=0, num_stopped=0)
    unit_id = rows["unit_id"][0].as_py()
    empty = rows.schema.empty_table()
    ledger.commit(unit_id, 0, rows, empty, counts, uncompressed={"image.bytes"})


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


def read_units(num_units: int) -> Any:
    """The same reads for every side: one block a unit."""
    import ray

    def make(batch: dict[str, Any]) -> pa.Table:
        return make_unit(int(batch["id"][0]))

    ids = ray.data.range(num_units, override_num_blocks=num_units)
    return ids.map_batches(make, batch_size=None)


def ray_write(folder: Path, num_units: int) -> None:
    read_units(num_units).write_parquet(str(folder))


def ray_write_and_sync(folder: Path, num_units: int) -> None:
    ray_write(folder, num_units)
    os.sync()


def keep_folding(ledger: Ledger, snapshot: Snapshot, stop: threading.Event) -> None:
    """Every few seconds, as the watcher of a run does."""
    folded: set[tuple[str, int]] = set()
    while not stop.wait(FOLD_INTERVAL_S):
        new = ledger.committed() - folded
        snapshot.fold(ledger.receipts(new))
        folded |= new


def ray_commit(folder: Path, num_units: int) -> None:
    store = open_store(str(folder))
    ledger, snapshot = Ledger(store, "f"), Snapshot(store.uri, PAIR_SCHEMA)

    def record(rows: pa.Table) -> pa.Table:
        commit_unit(ledger, rows)
        return pa.table({"num_rows": [rows.num_rows]})

    stop = threading.Event()
    folder_thread = threading.Thread(target=keep_folding, args=(ledger, snapshot, stop))
    folder_thread.start()
    read_units(num_units).map_batches(record, batch_size=None, batch_format="pyarrow").materialize()
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
            sides[name](folder, num_units)
            took[name].append(time.perf_counter() - started)
            data = folder / "data" if (folder / "data").exists() else folder
            files = [str(path) for path in data.rglob("*.parquet")]
            assert pads.dataset(files).count_rows() == num_units * UNIT_SIZE
            shutil.rmtree(folder)
    print(f"\n{title}: {num_units} units = {num_units * UNIT_SIZE} rows, {repeats} paired repeats")
    *plain, committed = names
    for name in names:
        seconds = took[name]
        print(
            f"  {name:36s} median {statistics.median(seconds):6.2f} s "
            f"({min(seconds):.2f} to {max(seconds):.2f}), "
            f"{1000 * statistics.median(seconds) / num_units:.1f} ms a unit"
        )
    for name in plain:
        pairs = list(zip(took[committed], took[name], strict=True))
        ratios = [ours / theirs for ours, theirs in pairs]
        extra_ms = statistics.median(1000 * (ours - theirs) / num_units for ours, theirs in pairs)
        print(
            f"  {committed} / {name}: ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}), {extra_ms:+.1f} ms a unit"
        )
        for model_s in (0.1, 1.0):
            share = extra_ms / 1000 / (model_s * UNIT_SIZE)
            print(f"     of a run with models of {model_s} s a pair: {100 * share:+.3f} %")
        for goal, is_met in (
            ("3 % of a run that only writes", statistics.median(ratios) <= 1 + GOAL_SHARE),
            (f"{GOAL_MS:g} ms a unit", extra_ms <= GOAL_MS),
        ):
            print(f"     goal {goal}: {'met' if is_met else 'MISSED'}")


def say_machine(root: Path) -> None:
    disk = shutil.disk_usage(root)
    print(
        f"{platform.platform()}, {os.cpu_count()} CPUs, pyarrow {pa.__version__}, load "
        f"{os.getloadavg()[0]:.1f}, {root} with {disk.free >> 30} GiB free"
    )


def main() -> None:
    num_units = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 6
    parent = sys.argv[3] if len(sys.argv) > 3 else None
    with tempfile.TemporaryDirectory(dir=parent) as name:
        root = Path(name)
        say_machine(root)
        units = [make_unit(index) for index in range(min(num_units, 200))]
        alone: dict[str, Side] = {
            "write_table": lambda folder, _: write_each(folder, units, is_synced=False),
            "write_table + fsync": lambda folder, _: write_each(folder, units, is_synced=True),
            "commit": lambda folder, _: commit_each(folder, units),
        }
        compare("one process", alone, root, len(units), repeats)
        say_machine(root)
        with session(SessionConfig(num_cpus=os.cpu_count(), has_dashboard=False)):
            import ray

            ray.data.DataContext.get_current().enable_progress_bars = False
            ray_write(root / "warm", 8)
            in_ray: dict[str, Side] = {
                "write_parquet": ray_write,
                "write_parquet + sync": ray_write_and_sync,
                "commit stage + fold": ray_commit,
            }
            compare("Ray Data", in_ray, root, num_units, repeats)
        say_machine(root)


if __name__ == "__main__":
    main()
