"""`python -m actors.scenes.train`: a run of seconds goes through every phase to loadable models."""

import subprocess
import sys
from pathlib import Path

import pytest

from actors.scenes.train import SHARES, main

ROOT = Path(__file__).parents[3]


def test_shares_are_a_whole() -> None:
    assert sum(SHARES.values()) == pytest.approx(1.0)


def test_an_unknown_phase_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["vea", "--out", "nowhere"])
    assert "invalid choice: 'vea'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_of_seconds_trains_exports_and_resumes(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "actors.scenes.train", "all", "--budget-minutes", "0.3",
        "--out", str(tmp_path / "run"), "--export-to", str(tmp_path / "weights"),
    ]  # fmt: skip
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.stderr.count("finished before") == len(SHARES)

    from actors.scenes.engines import Describer, Drawer

    pictures = Drawer(tmp_path / "weights" / "sdxl").draw(["a star"], [1], num_steps=2)
    assert len(Describer(tmp_path / "weights" / "llava").describe(pictures)) == 1
