"""The scripts of tests/claims, so that they cannot rot, and their intervals."""

import subprocess
import sys
from pathlib import Path

import pytest
from claims import Check, Claim, over_seeds, wilson

HERE = Path(__file__).parent
# Twenty seconds to five minutes.
LONG = ("recurrence.py", "batched_author.py", "text_metrics.py", "drift.py")
SLOW = [pytest.param(one, marks=pytest.mark.slow) for one in LONG]


@pytest.mark.parametrize("script", ["hygiene.py", *SLOW])
def test_the_claim_holds(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.endswith("PASS\n")


def test_a_share_has_the_interval_of_wilson() -> None:
    # As scipy's binomtest has them.
    assert (wilson(0, 10).low, wilson(0, 10).high) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert (wilson(5, 10).low, wilson(5, 10).high) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_the_mean_of_run_seeds_has_the_interval_of_student() -> None:
    found = over_seeds([1.0, 2.0, 3.0])  # s = 1, t = 4.303 with two degrees of freedom
    assert (found.value, found.low, found.high) == pytest.approx((2.0, -0.4843, 4.4843), abs=1e-3)


@pytest.mark.parametrize(("holds", "verdict"), [(True, "PASS"), (None, "PASS"), (False, "FAIL")])
def test_a_claim_fails_with_any_check_that_it_stands_on(holds: bool | None, verdict: str) -> None:
    checks = [
        Check(what="a", predicted="1", measured=1, holds=True),
        Check(what="b", predicted="1", measured=2, goal="1", holds=holds),
    ]
    assert (
        Claim(title="t", tested="how").describe(checks).endswith(f"[1]; predicted 1\n{verdict}\n")
    )
