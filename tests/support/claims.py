"""What the scripts of tests/claims share: intervals, and a report that ends in PASS or FAIL.

Limits: an interval over run seeds takes their values for independent and normal; with three it is
2.5 standard deviations wide to either side.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

# Student's t, two-sided 95 %, by degrees of freedom.
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
Z_95 = 1.959964


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} (95 %: {self.low:.3f} to {self.high:.3f})"


def over_seeds(values: Sequence[float]) -> Interval:
    """The mean of one value a run seed, of at least two."""
    half = T_95[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    middle = statistics.mean(values)
    return Interval(middle, middle - half, middle + half)


def wilson(num_hits: int, number: int) -> Interval:
    """A share of independent cases (Wilson 1927)."""
    share, z2 = num_hits / number, Z_95**2
    middle = (share + z2 / (2 * number)) / (1 + z2 / number)
    spread = math.sqrt(share * (1 - share) / number + z2 / (4 * number**2))
    half = Z_95 * spread / (1 + z2 / number)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that a claim says: what was foretold of it, what was found, and whether it holds.

    `holds` is None for a figure that the claim does not stand on.
    """

    what: str
    predicted: str
    measured: object
    goal: str = ""
    holds: bool | None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is claimed, and how it is tested."""

    title: str
    tested: str

    def describe(self, checks: Sequence[Check]) -> str:
        """All of it, for people."""
        lines = [self.title, f"  {self.tested}"]
        for check in checks:
            mark = {True: "ok    ", False: "FAILED", None: "      "}[check.holds]
            goal = f" [{check.goal}]" if check.goal else ""
            lines.append(
                f"  {mark} {check.what}: {check.measured}{goal}; predicted {check.predicted}"
            )
        return "\n".join([*lines, "PASS" if holds_of(checks) else "FAIL"]) + "\n"


def holds_of(checks: Sequence[Check]) -> bool:
    """Whether everything that the claim stands on does."""
    return all(check.holds is not False for check in checks)


class Measure(Protocol):
    """What a script measures, given its run seeds."""

    def __call__(self, run_seeds: range) -> list[Check]: ...


def main(claim: Claim, measure: Measure, num_run_seeds: int = 3) -> int:
    """The command line of every script."""
    parser = argparse.ArgumentParser(description=claim.title)
    parser.add_argument("--run-seeds", type=int, default=num_run_seeds, help="2 to 10")
    asked = parser.parse_args()
    if not 2 <= asked.run_seeds <= len(T_95) + 1:
        parser.error(f"--run-seeds is {asked.run_seeds}: an interval needs 2 to {len(T_95) + 1}")
    checks = measure(range(asked.run_seeds))
    sys.stdout.write(claim.describe(checks))
    return 0 if holds_of(checks) else 1
