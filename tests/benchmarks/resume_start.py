"""How long a resume takes from its process's start to "this is left to do", and in how much memory.

    python tests/benchmarks/resume_start.py [num_units] [num_repeats] [folder or s3:// prefix]

A run of `num_units` finished units x 3 rounds (64 chains each) and 100 units that are not begun,
made of receipts alone: no shard is read by a resume. A fresh process takes the calls of a driver:
read and vet config, models, store and seed file (64 lines a unit), compare the run record, plan
what is left, and what its watcher does first: see what is folded, read the rest of the receipts,
fold them. Twice: with the Delta log of the run in place, and without one. What the first attempt
took to read the seed file is printed beside.

Limits: no Ray is started and no model is built. Receipts on S3 are written one request each, so
give fewer units there.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

NUM_ROUNDS, UNIT_SIZE, NUM_LEFT = 3, 64, 100
CONFIG = str(Path(__file__).parents[2] / "conf" / "synergy.yaml")
GOAL_S, GOAL_MB = 15.0, 200.0


def make_config(uri: str, seeds: Path) -> Any:
    from cluster.config import load
    from pipelines.synergy import SynergyConfig

    words = [f"output={uri}", f"seeds.path={seeds}", f"num_rounds={NUM_ROUNDS}"]
    models = ["generator.backend=simulated", "captioner.backend=simulated"]
    return load(SynergyConfig, CONFIG, [*words, *models, f"unit_size={UNIT_SIZE}"])


def make_run(uri: str, seeds: Path, num_units: int) -> float:
    """The seed table, and receipts for all units but the last `NUM_LEFT`, as a run writes them.

    Returns the seconds that the first attempt took to prepare.
    """
    from actors.records import derive_unit_id
    from pipelines.attempt import prepare

    lines = (f"seed {n}: a red circle left of a square" for n in range(num_units * UNIT_SIZE))
    seeds.write_text("\n".join(lines))
    started = time.perf_counter()
    attempt = prepare(make_config(uri, seeds))
    took_s = time.perf_counter() - started
    assert attempt.seeds is not None
    chain_ids = attempt.seeds.column("chain_id").to_pylist()
    slices = [chain_ids[n : n + UNIT_SIZE] for n in range(0, len(chain_ids), UNIT_SIZE)]
    unit_ids = [derive_unit_id(index, ids) for index, ids in enumerate(slices)]
    cells = [(unit, r) for unit in unit_ids[:-NUM_LEFT] for r in range(NUM_ROUNDS)]
    receipts = [_receipt(unit, r, attempt.ledger.fingerprint) for unit, r in cells]
    store = attempt.store

    def write(receipt: Any) -> None:
        key = f"receipts/{receipt.unit_id}/{receipt.round_index}.json"
        if "://" in uri:
            store.put_if_absent(key, receipt.to_json())
            return
        path = Path(uri) / key  # not by the store, which syncs each: 30,000 would take minutes
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(receipt.to_json())

    with ThreadPoolExecutor(16) as writers:
        list(writers.map(write, receipts))
    return took_s


def _receipt(unit_id: str, round_index: int, fingerprint: str) -> Any:
    from cluster.receipts import Receipt, ShardRef

    digest = "0123456789abcdef" * 4
    file = f"data/round={round_index}/{unit_id}-{digest[:16]}.parquet"
    shard = ShardRef(file=file, sha256=digest, size_bytes=1_300_000, num_rows=UNIT_SIZE)
    versions = {"pairloom": "0.1.0", "pyarrow": "26.0.1", "obstore": "0.12.1"}
    return Receipt(
        unit_id=unit_id,
        round_index=round_index,
        data=shard,
        dead_letter=None,
        num_pairs=UNIT_SIZE,
        num_error_rows=0,
        num_stopped=0,
        num_replaced_errors=0,
        num_replaced_stopped=0,
        error_reasons={},
        replaced_reasons={},
        ids_digest=digest,
        fingerprint=fingerprint,
        versions=versions,
        committed_at="2026-01-01T00:00:00.000000+00:00",
    )


def resume(uri: str, seeds: Path) -> None:
    """What a driver does before its first unit; prints seconds since `started_at`, and memory."""
    started_at = float(os.environ["STARTED_AT"])
    from pipelines import run
    from pipelines.attempt import prepare
    from pipelines.work import plan_work

    marks = {"import": time.time() - started_at}
    base_mb, _ = _memory_mb()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    assert run
    attempt = prepare(make_config(uri, seeds))
    ledger, snapshot = attempt.ledger, attempt.snapshot
    assert attempt.seeds is not None
    marks["prepare"] = time.time() - started_at
    work = plan_work(ledger, attempt.seeds, UNIT_SIZE, NUM_ROUNDS)
    assert len(work.units) == NUM_LEFT
    marks["plan"] = time.time() - started_at
    plan_mb = _memory_mb()[1] - base_mb
    receipts = ledger.receipts(ledger.committed() - snapshot.folded())
    num_folded = snapshot.fold(receipts)
    marks["fold"] = time.time() - started_at
    fold_mb = _memory_mb()[1] - base_mb
    memory = {"base_mb": base_mb, "plan_mb": plan_mb, "fold_mb": fold_mb}
    print(json.dumps(marks | memory | {"num_read": len(receipts), "num_folded": num_folded}))


def _memory_mb() -> tuple[float, float]:
    """Resident now, and at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {name: line for line in lines for name in ("VmRSS", "VmHWM") if line.startswith(name)}
    now, peak = (float(found[name].split()[1]) / 1e3 for name in ("VmRSS", "VmHWM"))
    return now, peak


def measure(uri: str, seeds: Path, title: str) -> None:
    env = os.environ | {"STARTED_AT": str(time.time())}
    command = [sys.executable, __file__, "resume", uri, str(seeds)]
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    is_met = found["plan"] <= GOAL_S and found["plan_mb"] <= GOAL_MB
    print(
        f"{title}: imported {found['import']:.1f} s, prepared {found['prepare']:.1f} s, "
        f"what is left to do known at "
        f"{found['plan']:.1f} s with {found['plan_mb']:.0f} MB above {found['base_mb']:.0f} MB; "
        f"{found['num_read']} receipts read and {found['num_folded']} files folded at "
        f"{found['fold']:.1f} s with {found['fold_mb']:.0f} MB. "
        f"Goal ({GOAL_S:.0f} s, {GOAL_MB:.0f} MB) {'met' if is_met else 'MISSED'}"
    )


def main() -> None:
    if sys.argv[1:2] == ["resume"]:
        resume(sys.argv[2], Path(sys.argv[3]))
        return
    num_units = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as name:
        uri = sys.argv[3] if len(sys.argv) > 3 else f"{name}/run"
        seeds = Path(name, "seeds.txt")
        took_s = make_run(uri, seeds, num_units + NUM_LEFT)
        print(f"{num_units} finished units x {NUM_ROUNDS} rounds in {uri}, {os.cpu_count()} CPUs")
        print(f"the first attempt took {took_s:.1f} s to prepare")
        for repeat in range(repeats):
            load = os.getloadavg()[0]
            title = "without a Delta log" if repeat == 0 else "with the run's Delta log"
            measure(uri, seeds, f"load {load:.1f}, {title}")


if __name__ == "__main__":
    main()
