"""What the GPU benchmarks share: clocks, counted work, the device's own limits, a report.

Limits: one device. Times are of CUDA events on a GPU and of perf_counter on a CPU; the work is what
`torch.utils.flop_counter` counts: matrix products, convolutions and attention, each multiply and
add as two; normalisation and the like are left out, as they are from the published figures.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

Table = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What this device does at best, measured in this very call."""

    tflops: float  # of a square matrix product in the benchmark's dtype
    copy_gb_s: float  # read and written, of a copy within the device's memory


@dataclass(kw_only=True)
class Clock:
    """Runs until its time is up: what does not fit is left out, and said to be."""

    budget_s: float
    started_s: float = field(default_factory=time.monotonic)
    left_out: list[str] = field(default_factory=list)

    def has_time(self, what: str, needs_s: float = 0.0) -> bool:
        is_in = time.monotonic() - self.started_s + needs_s < self.budget_s
        if not is_in:
            self.left_out.append(what)
        return is_in


def pick_device(is_tiny: bool) -> torch.device:
    """The GPU; a CPU only for the tiny models."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if not is_tiny:
        sys.exit("torch sees no GPU here: full size needs one; --tiny runs all of it on a CPU")
    torch.set_num_threads(1)  # two threads that wait for each other on a busy CPU: 30 times slower
    return torch.device("cpu")


def time_calls(call: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each call, after one that is not counted."""
    call()
    return [_time_one(call, device) for _ in range(repeats)]


def _time_one(call: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        started_s = time.perf_counter()
        call()
        return time.perf_counter() - started_s
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def middle(seconds: Sequence[float]) -> float:
    return statistics.median(seconds)


def spread(seconds: Sequence[float]) -> float:
    """(largest - smallest) / median."""
    return (max(seconds) - min(seconds)) / middle(seconds)


@torch.no_grad()
def measure_limits(device: torch.device, dtype: torch.dtype, size: int) -> Limits:
    """A product of two square matrices, and a copy, as large as `size` says."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product_s = min(time_calls(lambda: left @ right, device, 10))
    source = torch.empty(size * size * 8, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    copy_s = min(time_calls(lambda: target.copy_(source), device, 10))
    return Limits(
        tflops=2 * size**3 / product_s / 1e12, copy_gb_s=2 * source.numel() / copy_s / 1e9
    )


@torch.no_grad()
def count_tflop(call: Callable[[], Any]) -> float:
    """The work of one call, in 10^12 operations."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e12


def conditions(device: torch.device) -> dict[str, Any]:
    """Where and when this ran."""
    found: dict[str, Any] = {
        "at": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpus": os.cpu_count(),
        "load": [round(each, 1) for each in os.getloadavg()],
    }
    if device.type != "cuda":
        return found | {"device": "cpu: the shape of the report only, its figures mean nothing"}
    query = "name,driver_version,clocks.sm,power.limit,memory.used"
    try:
        smi = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        smi = f"nvidia-smi: {error}"
    return found | {"device": torch.cuda.get_device_name(device), "nvidia_smi": smi}


def say(line: str) -> None:
    """Standard output is what a benchmark is for; at once, as a time limit may end it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def print_table(title: str, rows: Table) -> None:
    """One line a row; the columns of the first."""
    say(f"\n{title}")
    if not rows:
        say("  nothing was measured")
        return
    cells = [list(rows[0]), *([_show(row.get(name)) for name in rows[0]] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(rows[0]))]
    for line in cells:
        say("  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _show(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)


def goal(name: str, measured: float | None, target: float, unit: str) -> dict[str, Any]:
    """A line of the table of goals: larger is better."""
    is_met = None if measured is None else measured >= target
    verdict = {None: "not measured", True: "met", False: "missed"}[is_met]
    return {"goal": name, "measured": measured, "target": target, "unit": unit, "is": verdict}


def write_report(path: str, report: dict[str, Any], clock: Clock, limits: Limits) -> None:
    """The JSON beside the tables, and a word on what was left out."""
    if clock.left_out:
        say(f"\nleft out for want of time: {', '.join(clock.left_out)}")
    report = {"limits": asdict(limits), "left_out": clock.left_out} | report
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(report, indent=1) + "\n")
    say(f"\nwritten: {path}")
