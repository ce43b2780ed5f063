"""What an early stop saves on the embedded models, and what it does to the truth of the pairs.

    python tests/benchmarks/early_stop.py [--run-seeds 4] [--chains 32] [--rounds 6]

Each run seed has seeds of its own, which go through the loop twice with the same models: all
rounds, and with rules. Printed are, with a 95 % interval over run seeds, the share of the seconds
in models that the rules save (those of the scorer, which only the rules need, are charged to them),
the share of the pairs that are not grown, and by how much the truth of the kept pairs changes: how
much of what the descriptions say is in their pictures (precision), and how much of what the
pictures show is said (recall), by the oracle of the embedded world. All of it for a calm captioner
(temperature 1), whose chains come to a standstill, and for one that errs (1.5), whose chains leave
their seed.

Predicted before the first run: a third of the seconds with the calm captioner, .4 with the other
one; truth changed by less than .01 in either.

The two runs draw from the same random numbers, so that what both have is the same but for last bits
(other batch sizes) that tip a caption now and then: the truth of what is kept changes by what is
not grown, whose truth is printed too.

Limits: one process, no pools: what a freed replica does next is in `scores.py`. The CLIP that the
rules ask shares its towers with the models that it judges; the oracle is independent. Seconds are
of this machine's cores.
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from claims import over_seeds
from grown_here import Models, grow_here, load_models
from runs import read_pairs

from actors.backends.devices import hide_progress_bars
from actors.scenes.truth import measure_truth
from cluster.config import load
from pipelines.synergy import SynergyConfig

RULES = ("stop.converged_from=0.98", "stop.converged_rounds=1", "stop.drifted_text_below=0.6")
TRUTHS = ("picture_precision", "picture_recall", "seed_recall")
TEMPERATURES = (1.0, 1.5)


@dataclass(frozen=True)
class Arm:
    """What one run came to."""

    pairs: list[dict[str, Any]]
    model_s: float
    stops: dict[str, int]

    @property
    def num_pairs(self) -> int:
        return len(self.pairs)

    def truth(self, without: "Arm | None" = None) -> dict[str, float]:
        """Of all pairs, or of those that another run has not grown."""
        others = {pair["pair_id"] for pair in without.pairs} if without else set()
        pairs = [p | {"round_index": 0} for p in self.pairs if p["pair_id"] not in others]
        truth = measure_truth(pairs)[0]
        return {name: getattr(truth, name) for name in TRUTHS}


def run_arm(words: list[str], models: Models, *, has_rules: bool) -> Arm:
    with tempfile.TemporaryDirectory() as name:
        words = [*words, f"output={name}/run", *(RULES if has_rules else ())]
        grow_here(load(SynergyConfig, str(ROOT / "conf" / "synergy.yaml"), words), models)
        pairs = read_pairs(f"{name}/run")
    stops = Counter(pair["stop_reason"] for pair in pairs if pair["stop_reason"])
    verbs = ("draw_s", "describe_s", *(["score_s"] if has_rules else []))
    return Arm(
        pairs=pairs,
        model_s=sum(pair[verb] for pair in pairs for verb in verbs),
        stops=dict(stops),
    )


def compare(temperature: float, asked: argparse.Namespace) -> None:
    lines = (ROOT / "conf" / "seeds" / "scenes.txt").read_text().splitlines()
    models: Models | None = None
    found: list[tuple[Arm, Arm]] = []
    for run_seed in range(asked.run_seeds):
        with tempfile.TemporaryDirectory() as name:
            seeds = Path(name) / "seeds.txt"
            at = run_seed * asked.chains
            seeds.write_text("\n".join(lines[at : at + asked.chains]))
            words = [
                f"seeds.path={seeds}",
                f"run_seed={run_seed}",
                f"num_rounds={asked.rounds}",
                f"unit_size={asked.chains}",
                f"captioner.temperature={temperature}",
                "scorer.backend=clip",
            ]
            if models is None:
                config = str(ROOT / "conf" / "synergy.yaml")
                models = load_models(load(SynergyConfig, config, [*words, f"output={name}/run"]))
                run_arm(words, models, has_rules=True)  # the first calls of a process are slow
            # In turn, so that neither is always the first.
            order = (False, True) if run_seed % 2 else (True, False)
            arms = {has: run_arm(words, models, has_rules=has) for has in order}
        found.append((arms[False], arms[True]))
        told = ", ".join(f"{name} {number}" for name, number in arms[True].stops.items())
        print(
            f"  run seed {run_seed}: {arms[False].num_pairs} pairs in {arms[False].model_s:.1f} s; "
            f"with rules {arms[True].num_pairs} in {arms[True].model_s:.1f} s ({told})",
            flush=True,
        )
    saved = over_seeds([1 - short.model_s / full.model_s for full, short in found])
    print(f"  share of the seconds saved: {saved}")
    left = over_seeds([1 - short.num_pairs / full.num_pairs for full, short in found])
    print(f"  share of the pairs not grown: {left}")
    all_rounds = [full.truth() for full, _ in found]
    kept = [short.truth() for _, short in found]
    not_grown = [full.truth(without=s) for full, s in found if s.num_pairs < full.num_pairs]
    for name in TRUTHS:
        pairs = zip(kept, all_rounds, strict=True)
        change = over_seeds([short[name] - full[name] for short, full in pairs])
        of_all = statistics.mean(one[name] for one in all_rounds)
        of_rest = [f"{one[name]:.3f}" for one in not_grown]
        print(
            f"  {name}, all rounds: {of_all:.3f}; changed by {change}; of what the rules did not "
            f"grow, by run seed: {', '.join(of_rest) or 'nothing'}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-seeds", type=int, default=4, help="2 to 10")
    parser.add_argument("--chains", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=6)
    asked = parser.parse_args()
    hide_progress_bars()
    logging.disable(logging.INFO)
    for temperature in TEMPERATURES:
        print(f"captioner at temperature {temperature:g}, load {os.getloadavg()[0]:.1f}")
        compare(temperature, asked)


if __name__ == "__main__":
    main()
