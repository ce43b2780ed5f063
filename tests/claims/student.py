"""Claims 3 and 4: more generated pairs make a better and a steadier captioner.

    python tests/claims/student.py [--run-seeds 3]

For each run seed the pipeline grows seven units of pairs on the embedded models, from seeds of
their own, and commits them. The first unit teaches one fresh captioner
(`tests/support/fresh_student.py`), the first two another one, and so on to all seven. Each then
describes the same 100 true scenes, whose pairs of (colour, shape) no model here was ever taught.

The students of a run seed begin with the same weights and take equally many steps of equally many
pairs: nothing but the pairs differs. (The published students had one epoch each; there more pairs
were more steps too, and training for longer would have looked like more data.)

What was cut off goes on where it was: all is kept in `out/claims/student`; remove that to begin
anew.

Limits: recall counts attributes of scenes; BERTScore, which the original rests on, has no model
here. The pairs of a unit are rounds of the same chains, so they hold fewer scenes than pairs.
"""

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
os.environ.setdefault("RAY_worker_niceness", "0")

import torch
from claims import Check, Claim, main, over_seeds
from fresh_student import Marks, StudentConfig, draw_exam, sit_exam, teach
from runs import read_pairs
from scipy.stats import spearmanr

from actors.scenes.grammar import parse, sample_caption
from actors.scenes.stream import draw_scenes
from actors.scenes.truth import measure_truth
from cluster.config import load
from cluster.session import SessionConfig, session
from pipelines.run import run
from pipelines.synergy import SynergyConfig

CLAIM = Claim(
    title="Claims 3, 4: recall rises with the number of generated pairs, and its spread falls",
    tested="students of 1 to 7 units of pairs, each on 100 held-out true scenes",
)
MARGIN = 0.01  # of BLEU-4 and ROUGE-L, which need not rise


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is grown and learned; the defaults fit half an hour of 2 cores."""

    folder: Path = ROOT / "out" / "claims" / "student"
    num_units: int = 7
    unit_size: int = 32  # chains
    num_rounds: int = 3
    num_scenes: int = 100
    student: StudentConfig = field(default_factory=StudentConfig)

    def of(self, run_seed: int) -> Path:
        """Another one for another plan: what is kept there counts as done."""
        digest = hashlib.sha256(repr(replace(self, folder=Path())).encode()).hexdigest()
        return self.folder / digest[:8] / f"seed{run_seed}"


def grow(plan: Plan, run_seed: int) -> None:
    """Commits the pairs of a run seed; training scenes only, so that the exam stays unseen."""
    folder = plan.of(run_seed)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([run_seed, 34])
    scenes = draw_scenes(rng, plan.num_units * plan.unit_size)
    (folder / "seeds.txt").write_text("".join(f"{sample_caption(one, rng)}\n" for one in scenes))
    words = [
        f"output={folder}/run",
        f"seeds.path={folder}/seeds.txt",
        f"run_seed={run_seed}",
        f"unit_size={plan.unit_size}",
        f"num_rounds={plan.num_rounds}",
        "generator.num_steps=8",  # as good as 12: actors/scenes/README.md
        "pools.generator={num_replicas: 2, num_cpus: 0.5, batch_size: 16}",
        "pools.captioner.batch_size=16",
    ]
    run(load(SynergyConfig, str(ROOT / "conf" / "synergy.yaml"), words))


def first_units(plan: Plan, run_seed: int, num_units: int) -> list[dict[str, Any]]:
    """The committed pairs of the first units, read back."""
    pairs = read_pairs(plan.of(run_seed) / "run")
    chosen = sorted({pair["unit_id"] for pair in pairs})[:num_units]
    return [pair for pair in pairs if pair["unit_id"] in chosen]


def survey(plan: Plan, run_seed: int) -> int:
    """Prints how true the pairs are; returns how many exam scenes are said in them."""
    pairs = first_units(plan, run_seed, plan.num_units)
    truth = measure_truth([pair | {"round_index": 0} for pair in pairs])[0]
    share = f"{truth.picture_precision:.3f} of what they say is in their pictures"
    print(f"  run seed {run_seed}: {len(pairs)} pairs, {share}", flush=True)
    said = {parse(pair[column]) for pair in pairs for column in ("seed", "description")}
    return sum(parse(row["seed"]) in said for row in draw_exam(plan.num_scenes, run_seed))


def examine(plan: Plan, run_seed: int, num_units: int) -> Marks:
    """The marks of one student, which is taught first unless that was done before."""
    folder = plan.of(run_seed) / f"units{num_units}"
    kept = folder / "marks.json"
    if not kept.exists():
        torch.set_num_threads(1)
        start = time.monotonic()
        student = teach(first_units(plan, run_seed, num_units), plan.student, folder, run_seed)
        kept.write_text(json.dumps(sit_exam(student, draw_exam(plan.num_scenes, run_seed))))
        print(
            f"  run seed {run_seed}, {num_units} units: {time.monotonic() - start:.0f} s",
            flush=True,
        )
    return json.loads(kept.read_text())


def examine_all(plan: Plan, run_seeds: Sequence[int]) -> list[list[Marks]]:
    """By run seed, from the fewest pairs to the most."""
    sizes = range(1, plan.num_units + 1)
    # Spawned: torch and Ray have threads by now, and a fork would inherit their locks.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as processes:
        asked = [
            [processes.submit(examine, plan, run_seed, size) for size in sizes]
            for run_seed in run_seeds
        ]
        return [[student.result() for student in students] for students in asked]


def gain(students: Sequence[Marks], name: str) -> tuple[float, float]:
    """Last less first, picture by picture: the mean and its standard error."""
    apart = np.subtract(students[-1][name], students[0][name])
    return float(apart.mean()), float(apart.std(ddof=1) / len(apart) ** 0.5)


def rank_correlation(students: Sequence[Marks]) -> float:
    """Spearman's, of the number of units and the mean recall."""
    recalls = [np.mean(one["recall"]) for one in students]
    return float(spearmanr(range(len(recalls)), recalls).statistic)


def judge(found: Sequence[Sequence[Marks]]) -> list[Check]:
    """What the claims say, of the marks by run seed and number of units."""
    correlation = over_seeds([rank_correlation(students) for students in found])
    gains = [gain(students, "recall") for students in found]
    shown = ", ".join(f"{mean:+.3f} +- {error:.3f}" for mean, error in gains)
    narrowing = over_seeds(
        [float(np.std(one[-1]["recall"]) - np.std(one[0]["recall"])) for one in found]
    )
    return [
        Check(
            what="Spearman's correlation of the number of units and recall",
            predicted=".93",
            measured=correlation,
            goal=">= .8",
            holds=correlation.value >= 0.8,
        ),
        Check(
            what="recall, last less first",
            predicted=".35, of .40 to .75",
            measured=f"{over_seeds([mean for mean, _ in gains])}; by run seed {shown}",
            goal="> 2 standard errors over pictures in every run seed",
            holds=all(mean > 2 * error for mean, error in gains),
        ),
        Check(
            what="standard deviation of recall from picture to picture, last less first",
            predicted="-.02, from .17",
            measured=narrowing,
            goal="< 0",
            holds=narrowing.value < 0,
        ),
        *(_not_inferior(found, name) for name in ("bleu4", "rouge_l")),
    ]


def _not_inferior(found: Sequence[Sequence[Marks]], name: str) -> Check:
    change = over_seeds([gain(students, name)[0] for students in found])
    return Check(
        what=f"{name} against the true description, last less first",
        predicted=">= .1",
        measured=change,
        goal=f"not below -{MARGIN}, interval and all",
        holds=change.low >= -MARGIN,
    )


def table(found: Sequence[Sequence[Marks]]) -> str:
    """Means over run seeds, a number of units a line."""
    columns: dict[str, Callable[[Marks], Any]] = {
        "recall": lambda marks: np.mean(marks["recall"]),
        "its standard deviation": lambda marks: np.std(marks["recall"]),
        "BLEU-4": lambda marks: np.mean(marks["bleu4"]),
        "ROUGE-L": lambda marks: np.mean(marks["rouge_l"]),
    }
    lines = ["| units | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for number, students in enumerate(zip(*found, strict=True), 1):
        cells = [f"{np.mean([of(one) for one in students]):.3f}" for of in columns.values()]
        lines.append(f"| {number} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measure(run_seeds: Sequence[int], plan: Plan | None = None) -> list[Check]:
    """Grows, teaches, examines and judges."""
    plan = plan or Plan()
    logging.disable(logging.INFO)
    with session(SessionConfig(num_cpus=4, has_dashboard=False)):
        for run_seed in run_seeds:
            grow(plan, run_seed)
    num_leaks = sum(survey(plan, run_seed) for run_seed in run_seeds)
    found = examine_all(plan, run_seeds)
    print(table(found))
    leaks = Check(
        what="exam scenes that are said in the pairs",
        predicted="0",
        measured=num_leaks,
        goal="0",
        holds=num_leaks == 0,
    )
    return [*judge(found), leaks]


if __name__ == "__main__":
    sys.exit(main(CLAIM, measure))
