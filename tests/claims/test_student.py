"""Claims 3 and 4 in little: students learn, exams are marked, and the verdict can go both ways."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from fresh_student import Marks, StudentConfig, draw_exam, sit_exam, teach
from student import gain, judge, rank_correlation, table

from actors.scenes.defaults import DEFAULT_INSTRUCTION

WHOLE = """
import sys
from pathlib import Path

sys.path[:0] = [{here!r}, {support!r}]
from claims import Claim
from fresh_student import StudentConfig
from student import CLAIM, Plan, measure

if __name__ == "__main__":
    student = StudentConfig(num_steps=2, batch_size=2)
    plan = Plan(folder=Path({folder!r}), num_units=2, unit_size=1, num_rounds=2, num_scenes=3,
                student=student)
    measure(range(2), plan)
"""


def taught_by(scene: dict[str, Any], folder: Path, num_steps: int) -> Any:
    pair = scene | {"description": scene["seed"], "instruction": DEFAULT_INSTRUCTION}
    return teach([pair], StudentConfig(num_steps=num_steps, batch_size=4), folder, 0)


def test_a_student_of_one_pair_says_it_of_every_picture(tmp_path: Path) -> None:
    known, other = draw_exam(2, rng_seed=5)
    marks = sit_exam(taught_by(known, tmp_path, num_steps=60), [known, other])
    assert (marks["recall"][0], marks["bleu4"][0], marks["rouge_l"][0]) == (1.0, 1.0, 1.0)
    assert marks["recall"][1] < 1.0
    assert 0.0 < marks["rouge_l"][1] < 1.0


def test_the_first_weights_are_those_of_the_run_seed_and_teaching_changes_them(
    tmp_path: Path,
) -> None:
    (scene,) = draw_exam(1, rng_seed=5)
    runs = [
        taught_by(scene, tmp_path / name, steps) for name, steps in (("a", 1), ("b", 1), ("c", 2))
    ]
    one, same, longer = (run.lm_head.weight for run in runs)
    assert torch.equal(one, same)
    assert not torch.equal(one, longer)


def marks(*recall: float) -> Marks:
    return {"recall": list(recall), "bleu4": [0.1, 0.1], "rouge_l": [0.2, 0.2]}


RISING = [marks(0.1, 0.5), marks(0.4, 0.6), marks(0.69, 0.91)]


def test_gains_are_taken_picture_by_picture() -> None:
    assert gain(RISING, "recall") == pytest.approx((0.5, 0.09))  # .59 and .41


def test_rising_recall_of_falling_spread_passes_and_the_reverse_does_not() -> None:
    assert rank_correlation(RISING) == pytest.approx(1.0)
    assert [check.holds for check in judge([RISING, RISING])] == [True] * 5
    turned = [check.holds for check in judge([RISING[::-1], RISING[::-1]])]
    assert turned == [False, False, False, True, True]


def test_one_run_seed_without_a_gain_fails_the_claim() -> None:
    level = [RISING[0], RISING[1], marks(0.1, 0.52)]
    assert judge([RISING, level])[1].holds is False


def test_texts_that_get_worse_fail_it() -> None:
    worse = [*RISING[:2], RISING[2] | {"bleu4": [0.05, 0.05]}]
    assert [check.holds for check in judge([worse, worse])][3:] == [False, True]


def test_the_table_has_a_line_for_each_number_of_units() -> None:
    lines = table([RISING, RISING]).splitlines()
    assert lines[2] == "| 1 | 0.300 | 0.200 | 0.100 | 0.200 |"
    assert len(lines) == 5


@pytest.mark.slow
def test_the_whole_experiment_runs_and_goes_on_from_what_it_kept(tmp_path: Path) -> None:
    support = str(HERE.parent / "support")
    script = tmp_path / "tiny.py"
    script.write_text(WHOLE.format(here=str(HERE), support=support, folder=str(tmp_path / "out")))
    done = [
        subprocess.run(
            [sys.executable, str(script)],
            cwd=HERE.parents[1],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"RAY_worker_niceness": "0"},
        )
        for _ in range(2)
    ]
    assert [one.returncode for one in done] == [0, 0], done[0].stderr[-3000:]
    assert "4 pairs" in done[0].stdout
    assert "| 2 | " in done[0].stdout
    assert done[0].stdout.count(" s\n") == 4  # students taught
    assert done[1].stdout.count(" s\n") == 0
    assert done[0].stdout.splitlines()[-4:] == done[1].stdout.splitlines()[-4:]
