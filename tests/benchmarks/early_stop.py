"""What an early stop saves on the embedded models, and what it does to the truth of the pairs.

    python tests/benchmarks/early_stop.py [--seeds 32] [--rounds 6]

For each of three run seeds the same seeds go through the loop twice: all rounds, and with rules. Of
both: pairs, seconds inside generator and captioner (and inside the scorer that the rules ask), and,
by the oracle of the embedded world, how
much of what the descriptions say is in their pictures (precision) and how much of what the pictures
show is said (recall), over all pairs that were kept; how much of the seed is still said; and the
Mean Cumulative Drift.

The rules stop a chain that has come to a standstill (`converged`) or that has left its first round
(`drifted`). Rows that are not grown are then either near repetitions or far from their seed: no
loss of truth is predicted, and .3 to .5 of the seconds saved.

Limits: the CLIP that the rules ask shares its towers with the models it judges; the oracle is
independent. Seconds are of this machine's cores, which two models share.
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
os.environ.setdefault("RAY_worker_niceness", "0")

from runs import read_pairs

from actors.scenes.truth import measure_truth
from cluster.config import load
from cluster.session import SessionConfig, session
from pipelines.drift import mean_cumulative_drift
from pipelines.run import run
from pipelines.synergy import SynergyConfig

RULES = ("stop.converged_from=0.98", "stop.converged_rounds=1", "stop.drifted_text_below=0.6")
TRUTHS = ("picture_precision", "picture_recall", "seed_recall")
DRIFTS = ("image_similarity_first", "text_similarity_first")


def run_arm(rules: tuple[str, ...], run_seed: int, num_seeds: int, num_rounds: int) -> dict:
    with tempfile.TemporaryDirectory() as name:
        words = [
            f"output={name}/run",
            f"seeds.path={ROOT / 'conf' / 'seeds' / 'scenes.txt'}",
            f"seeds.limit={num_seeds}",
            f"run_seed={run_seed}",
            f"num_rounds={num_rounds}",
            "unit_size=16",
            "scorer.backend=clip",
            *rules,
        ]
        totals = run(load(SynergyConfig, str(ROOT / "conf" / "synergy.yaml"), words))
        pairs = read_pairs(f"{name}/run")
        truth = measure_truth([pair | {"round_index": 0} for pair in pairs])[0]
        return {
            "pairs": totals.num_pairs,
            "stopped": totals.stop_reasons,
            # Without rules the scores are for the drift alone: nobody would pay for them.
            "model_s": sum(
                pair["draw_s"] + pair["describe_s"] + (pair["score_s"] if rules else 0.0)
                for pair in pairs
            ),
            **{name: getattr(truth, name) for name in TRUTHS},
            "by_round": measure_truth(pairs),
            "drift": {name: _drift(pairs, name) for name in DRIFTS},
        }


def _drift(pairs: list[dict], name: str) -> float:
    """Mean Cumulative Drift over all chains; 1 is none."""
    chains: dict[str, list[float]] = {}
    for pair in pairs:  # by chain and round
        chains.setdefault(pair["chain_id"], []).append(pair[name])
    found = [mean_cumulative_drift(one) for one in chains.values()]
    return statistics.mean(one for one in found if one is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--run-seeds", type=int, default=3)
    asked = parser.parse_args()
    logging.disable(logging.INFO)
    differences: dict[str, list[float]] = {name: [] for name in ("model_s", *TRUTHS)}
    print("| run seed | arm | pairs | chains stopped | seconds in models | "
          "picture precision | picture recall | seed recall |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    with session(SessionConfig(num_cpus=4, has_dashboard=False)):
        for run_seed in range(asked.run_seeds):
            found = {
                arm: run_arm(rules, run_seed, asked.seeds, asked.rounds)
                for arm, rules in (("all rounds", ()), ("rules", RULES))
            }
            for arm, one in found.items():
                rates = " | ".join(f"{one[name]:.3f}" for name in TRUTHS)
                print(f"| {run_seed} | {arm} | {one['pairs']} | {one['stopped'] or ''} "
                      f"| {one['model_s']:.1f} | {rates} |", flush=True)  # fmt: skip
            full, short = found["all rounds"], found["rules"]
            for arm, one in found.items():
                told = ", ".join(f"{name} {value:.3f}" for name, value in one["drift"].items())
                print(f"  {arm}: mean cumulative drift {told}")
            differences["model_s"].append(1 - short["model_s"] / full["model_s"])
            for name in TRUTHS:
                differences[name].append(short[name] - full[name])
            for r, truth in full["by_round"].items():
                print(f"  all rounds, round {r}: {truth}")
    for name, values in differences.items():
        middle = statistics.mean(values)
        half = 1.96 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        what = "share of the seconds saved" if name == "model_s" else f"change of {name}"
        print(f"{what}: {middle:+.3f} +- {half:.3f} (95 %, {len(values)} run seeds)")


if __name__ == "__main__":
    main()
