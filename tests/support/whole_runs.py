"""Runs that faults are put upon: their command, when they are so far, what they must show at last.

Work is counted from what the simulated generator logs: one line for each call that came to its end.
Limits: a call that was killed logs nothing and is not counted as work.
"""

import logging
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import cli
import pyarrow.parquet as pq
from runs import read_log

from actors.records import derive_rng_seed
from pipelines.verify import describe_report, verify_run

logger = logging.getLogger(__name__)

Cell = tuple[str, int]  # (unit, round)


def words_of(tmp_path: Path, *more: str, num_seeds: int = 10) -> list[str]:
    """`conf/synergy.yaml` over simulated engines that log their calls, as words of a command."""
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("".join(f"scene number {index}\n" for index in range(num_seeds)))
    return [
        str(cli.ROOT / "conf" / "synergy.yaml"),
        f"output={tmp_path / 'run'}",
        f"seeds.path={seeds}",
        "cluster.has_dashboard=false",
        "generator.backend=simulated",
        f"generator.simulated.log_path={tmp_path / 'draw.log'}",
        "captioner.backend=simulated",
        f"captioner.simulated.log_path={tmp_path / 'describe.log'}",
        "pools.generator.num_cpus=0.1",
        "pools.captioner.num_cpus=0.1",
        *more,
    ]


def receipts_of(output: Path) -> set[Cell]:
    """Every (unit, round) that a local run has committed."""
    return {(path.parent.name, int(path.stem)) for path in output.glob("receipts/*/*.json")}


def wait_for(
    is_so_far: Callable[[], bool],
    process: subprocess.Popen[str] | None = None,
    timeout_s: float = 120.0,
) -> float:
    """Waits until a run is so far, and returns when that was; one that ended before has failed."""
    deadline = time.monotonic() + timeout_s
    while not is_so_far():
        assert time.monotonic() < deadline, "waited in vain"
        if process is not None and process.poll() is not None:
            out, err = process.communicate()
            raise AssertionError(f"ended with {process.returncode}: {out[-1000:]} {err[-3000:]}")
        time.sleep(0.05)
    return time.time()


def drawn_before(output: Path, log: Path, moment: float, unit_size: int) -> set[Cell]:
    """Every (unit, round) whose pictures had all been drawn by then, in a run of run_seed 0."""
    seeds = pq.read_table(output / "seeds" / "seeds.parquet", columns=["chain_id"])
    chains: Sequence[str] = seeds["chain_id"].to_pylist()
    cells = {
        derive_rng_seed(0, chain_id, r, "draw"): (index // unit_size, r)
        for index, chain_id in enumerate(chains)
        for r in range(20)
    }
    drawn: dict[tuple[int, int], set[int]] = defaultdict(set)
    for call in read_log(log):
        if call["time"] < moment:
            for rng_seed in call["rng_seeds"]:
                drawn[cells[rng_seed]].add(rng_seed)
    names = {int(path.name[:7]): path.name for path in output.glob("receipts/*")}
    return {
        (names.get(unit, f"unit {unit}"), r)
        for (unit, r), rng_seeds in drawn.items()
        if len(rng_seeds) == min(unit_size, len(chains) - unit * unit_size)
    }


def check_sound(output: str | Path) -> None:
    report = verify_run(str(output))
    assert report.is_sound, describe_report(report)


def check_whole(output: str | Path, log: Path, num_rows: int, most: float) -> None:
    """The run is finished, nothing is lost, doubled or corrupt, and it took at most `most` x rows
    of drawing."""
    report = verify_run(str(output))
    assert report.is_sound, describe_report(report)
    assert report.is_finished, describe_report(report)
    assert report.num_pairs + report.num_error_rows + report.num_stopped == num_rows
    rng_seeds = [rng_seed for call in read_log(log) for rng_seed in call["rng_seeds"]]
    amplification = len(rng_seeds) / num_rows
    said = f"{len(rng_seeds)} rows drawn for {num_rows}: work amplification {amplification:.2f}"
    logger.info(said)
    assert amplification <= most, said
