"""The loop against the other ways to run it, all in one run, in turn, on simulated engines.

    make bench                                 (or: python tests/benchmarks/loop.py --help)

Every scenario runs its arms interleaved, `--repeats` times, in a Ray that is up already, and prints
the median and the range of: efficiency (the busier pool at work without a gap, over what it took
from the first call of a model to the last durable row), the same with start-up, and the ratio to
pairloom in the same repeat. Beside them the load average and the driver's CPU. All of it goes to
JSON, a table and a plot.

Limits: GPUs are logical and models sleep: what is measured is scheduling, transfer and commits on
this machine's cores, not models. Where the driver's CPU share is over a half, or the load is not
the benchmark's own, a figure says more of the machine than of the arm.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
os.environ.setdefault("RAY_worker_niceness", "0")
# Processes that Ray starts find the arms' classes.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
)

from loop_arms import ARMS, SHARED
from loop_work import Result, Work, read_result, wait_quiet

ALL = tuple(ARMS)
SCENARIOS: dict[str, tuple[Work, tuple[str, ...]]] = {
    "fixed": (Work(title="8 + 2, 640 batches, 1 s and .25 s", num_units=40), ALL),
    "load": (
        Work(title="the same, a model takes 6 s to load (30 s, scaled)", load_s=6.0),
        ("pairloom", "phases", "chained_fixed", "rounds"),
    ),
    "skew": (
        Work(
            title="10:1, 320 batches, 1 s and .1 s",
            num_generators=9,
            num_captioners=1,
            describe_s=0.1,
        ),
        ("pairloom", "chained_autoscaling", "chained_fixed"),
    ),
    "varied": (
        Work(
            title="640 batches, lognormal cv .5, GPU 0 is 3x slow", num_units=40, cv=0.5, slow_gpu=0
        ),
        ("pairloom", "chained_fixed"),
    ),
    "long": (
        Work(title="8 + 2, 2,400 batches, 1 s and .25 s: five minutes", num_units=150),
        ("pairloom", "phases"),
    ),
    "rounds4": (Work(title="4 rounds, 640 batches", num_rounds=4), ("pairloom",)),
    "rounds1": (Work(title="1 round, 160 batches", num_rounds=1), ("pairloom",)),
    "scale16": (
        Work(
            title="16 + 4, 640 batches of 2 s and .5 s",
            num_units=40,
            num_generators=16,
            num_captioners=4,
            draw_s=2.0,
            describe_s=0.5,
        ),
        ("pairloom",),
    ),
    "scale64": (
        Work(
            title="51 + 13, 4096 batches of 4 s and 1 s",
            num_units=256,
            num_generators=51,
            num_captioners=13,
            draw_s=4.0,
            describe_s=1.0,
        ),
        ("pairloom",),
    ),
}


def run_arm(arm: str, work: Work) -> Result:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wait_quiet(2.0)
        load, cpu = os.getloadavg()[0], os.times()
        began = time.time()
        ARMS[arm](work, folder)
        ended, after = time.time(), os.times()
        cpu_s = after.user + after.system - cpu.user - cpu.system
        return read_result(arm, work, folder, began, ended, cpu_s, load, is_shared=arm in SHARED)


def told(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def report(name: str, work: Work, results: dict[str, list[Result]]) -> list[str]:
    lines = [
        f"\n### {name}: {work.title}\n",
        "| arm | efficiency, from the first call | with start-up | time / pairloom's, in all | "
        "loads | busy draw, describe | all draw after | busy from then | longest gap | driver CPU "
        "| load |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    ours = results["pairloom"]
    for arm, runs in results.items():
        first = runs[0]
        busy = ", ".join(
            f"{statistics.median(one.busy[verb] for one in runs):.2f}" for verb in first.busy
        )
        cpu = statistics.median(one.driver_cpu_s / one.total_s for one in runs)
        lines.append(
            f"| {arm} | {told([one.efficiency for one in runs])} "
            f"| {told([one.ideal_s / one.total_s for one in runs])} "
            f"| {told([one.total_s / own.total_s for one, own in zip(runs, ours, strict=True)])} "
            f"| {first.num_loads} | {busy} "
            f"| {statistics.median(one.ramp_s for one in runs):.1f} s "
            f"| {told([one.busy_when_up for one in runs])} "
            f"| {statistics.median(one.gap_s for one in runs):.1f} s | {cpu:.0%} "
            f"| {statistics.median(one.load_average for one in runs):.1f} |"
        )
    return lines


def plot(path: Path, found: dict[str, dict[str, list[Result]]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [(name, arm, runs) for name, arms in found.items() for arm, runs in arms.items()]
    figure, axes = pyplot.subplots(figsize=(8, 0.35 * len(bars) + 1.2))
    for place, (name, arm, runs) in enumerate(reversed(bars)):
        values = [one.efficiency for one in runs]
        axes.barh(
            place, statistics.median(values), color="#4477aa" if arm == "pairloom" else "#bbb"
        )
        axes.plot([min(values), max(values)], [place, place], color="black", linewidth=1.5)
        axes.text(0.01, place, f"{name}: {arm}", va="center", fontsize=8)
    axes.set_xlim(0, 1.02)
    axes.set_yticks([])
    axes.set_xlabel("efficiency from the first call on (median, range)")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenarios", default="fixed,load,skew,varied,rounds1,rounds4")
    parser.add_argument("--arms", default="", help="only these, by commas (pairloom is always one)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--words", default="", help="config words for pairloom, by spaces")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    return parser.parse_args()


def main() -> None:
    from cluster.session import SessionConfig, session

    arguments = parse()
    logging.basicConfig(level=logging.WARNING)
    arguments.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, list[Result]]] = {}
    words = tuple(arguments.words.split())
    for name in arguments.scenarios.split(","):
        work, arms = SCENARIOS[name]
        work = replace(work, extra=words)
        chosen = set(arguments.arms.split(",")) if arguments.arms else set(arms)
        arms = tuple(arm for arm in arms if arm == "pairloom" or arm in chosen)
        results: dict[str, list[Result]] = defaultdict(list)
        config = SessionConfig(num_cpus=4, num_gpus=work.num_gpus, has_dashboard=False)
        with session(config):
            for repeat in range(arguments.repeats):
                turn = repeat % len(arms)
                for arm in arms[turn:] + arms[:turn]:
                    results[arm].append(run_arm(arm, work))
                    print(name, repeat, arm, _short(results[arm][-1]), flush=True)
        found[name] = {arm: results[arm] for arm in arms}
        print("\n".join(report(name, work, found[name])), flush=True)
    _write(arguments.out, found)


def _short(result: Result) -> str:
    return (
        f"{result.total_s:.1f} s, efficiency {result.efficiency:.3f}, start "
        f"{result.total_s - result.steady_s:.1f} s, all up {result.ramp_s:.1f} s later and busy "
        f"{result.busy_when_up:.3f} then, gap {result.gap_s:.1f} s"
    )


def _write(out: Path, found: dict[str, dict[str, list[Result]]]) -> None:
    data: dict[str, Any] = {
        name: {arm: [asdict(one) for one in runs] for arm, runs in arms.items()}
        for name, arms in found.items()
    }
    machine = {"num_cores": os.cpu_count(), "at": time.strftime("%Y-%m-%d %H:%M")}
    (out / "loop.json").write_text(json.dumps({"machine": machine, "scenarios": data}, indent=1))
    lines = [line for name in found for line in report(name, SCENARIOS[name][0], found[name])]
    (out / "loop.md").write_text("\n".join(lines) + "\n")
    plot(out / "loop.png", found)
    print(f"\n{out}/loop.json, loop.md, loop.png")


if __name__ == "__main__":
    main()
