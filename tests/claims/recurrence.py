"""Claim 1: the loop iterates: M_j = G(D_{j-1}), D_j = F(M_j), b x m x n pairs, each once.

    python tests/claims/recurrence.py [--run-seeds 3]

Whole runs on a real Ray with the simulated models: b = 2 batches of m = 3 seeds that an author
writes, n = 4 rounds, two replicas of each model. A simulated picture carries in its pixels the text
that it was drawn from, and a simulated caption names the pixels it was made for: what the models
received is read from what they made, not from the columns that say so. (The published notebook kept
every refined description, and drew each picture from the first one all the same.) `mode: resample`
does that on purpose, and must be found out.

Limits: no real model; that the embedded ones draw what they are given is in
tests/integration/test_embedded.py.
"""

import io
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
os.environ.setdefault("RAY_worker_niceness", "0")

import pyarrow.parquet as pq
from claims import Check, Claim, main, wilson
from PIL import Image
from runs import read_pairs

from actors.backends.simulated import caption_of, read_prompt
from cluster.config import load
from cluster.session import SessionConfig, session
from pipelines.run import run
from pipelines.synergy import SynergyConfig

B, M, N = 2, 3, 4
CLAIM = Claim(
    title="Claim 1: each picture is drawn from the description of the round before",
    tested=f"whole runs on Ray, b={B}, m={M}, n={N}; prompts read from the pictures themselves",
)
WORDS = (
    "seeds.path=null",
    f"seeds.author.num_batches={B}",
    f"seeds.author.batch_size={M}",
    "seeds.author.model.backend=simulated",
    f"num_rounds={N}",
    "unit_size=2",
    "generator.backend=simulated",
    "captioner.backend=simulated",
    *(f"pools.{pool}.{word}" for pool in ("generator", "captioner")
      for word in ("num_replicas=2", "num_cpus=0.1", "batch_size=2")),
)  # fmt: skip


class Chains:
    """The pairs of one run, by chain and round."""

    def __init__(self, output: str, mode: str, run_seed: int) -> None:
        words = [f"output={output}", f"mode={mode}", f"run_seed={run_seed}", *WORDS]
        run(load(SynergyConfig, str(ROOT / "conf" / "synergy.yaml"), words))
        self.pairs = read_pairs(output)
        self.by_place = {(pair["chain_id"], pair["round_index"]): pair for pair in self.pairs}
        self.later = [pair for pair in self.pairs if pair["round_index"] > 0]
        self._seeds: list[dict[str, Any]] = pq.read_table(
            f"{output}/seeds/seeds.parquet"
        ).to_pylist()

    def is_whole(self) -> bool:
        """b batches of m seeds, each with n rounds; no pair and no id twice, none else."""
        batches = [seed["source"] for seed in self._seeds]
        expected = {(seed["chain_id"], r) for seed in self._seeds for r in range(N)}
        return (
            sorted(batches.count(name) for name in set(batches)) == [M] * B
            and len(self.pairs) == len({pair["pair_id"] for pair in self.pairs}) == B * M * N
            and set(self.by_place) == expected
        )

    def parent_of(self, pair: dict[str, Any]) -> dict[str, Any]:
        return self.by_place[pair["chain_id"], pair["round_index"] - 1]

    def num_fed_back(self) -> int:
        """Pictures of later rounds that were drawn from the description of the round before."""
        return sum(_drawn_from(pair) == self.parent_of(pair)["description"] for pair in self.later)

    def num_of_seed(self) -> int:
        """Pictures of later rounds that were drawn from the seed."""
        return sum(_drawn_from(pair) == pair["seed"] for pair in self.later)

    def num_told_truly(self) -> int:
        """Pairs whose description is of their own picture, and whose prompt is what was drawn."""
        return sum(
            pair["description"] == caption_of(_picture(pair), pair["rng_seed_describe"])
            and pair["prompt"] == _drawn_from(pair)
            for pair in self.pairs
        )

    def num_parents(self) -> int:
        """Pairs of later rounds that name the pair before as their parent."""
        return sum(pair["parent_id"] == self.parent_of(pair)["pair_id"] for pair in self.later)


def _picture(pair: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(pair["image"]["bytes"])).convert("RGB")


def _drawn_from(pair: dict[str, Any]) -> str | None:
    return read_prompt(_picture(pair))


def measure(run_seeds: range) -> list[Check]:
    runs: dict[str, list[Chains]] = {"loop": [], "resample": []}
    logging.disable(logging.INFO)
    with (
        tempfile.TemporaryDirectory() as folder,
        session(SessionConfig(num_cpus=4, has_dashboard=False)),
    ):
        for mode, done in runs.items():
            for run_seed in run_seeds:
                done.append(Chains(f"{folder}/{mode}-{run_seed}", mode, run_seed))
    return _judge(runs["loop"], runs["resample"])


def _judge(loops: Sequence[Chains], resamples: Sequence[Chains]) -> list[Check]:
    each = B * M * (N - 1)
    later, pairs = each * len(loops), B * M * N * len(loops)
    counts = [  # what, its number, of how many, how many it has to be
        ("loop: drawn from the description before",
         [x.num_fed_back() for x in loops], later, later),
        ("loop: drawn from the seed again", [x.num_of_seed() for x in loops], later, 0),
        ("loop: parent is the pair before", [x.num_parents() for x in loops], later, later),
        ("loop: description of its own picture", [x.num_told_truly() for x in loops], pairs, pairs),
        ("resample: drawn from the description before",
         [x.num_fed_back() for x in resamples], later, 0),
        ("resample: drawn from the seed again", [x.num_of_seed() for x in resamples], later, later),
    ]  # fmt: skip
    num_whole = sum(one.is_whole() for one in [*loops, *resamples])
    num_runs = len(loops) + len(resamples)
    whole = Check(
        what=f"runs of exactly {B * M * N} pairs with ids of their own",
        predicted="all",
        measured=f"{num_whole} of {num_runs}",
        holds=num_whole == num_runs,
    )
    return [whole] + [
        Check(
            what=f"{what}, {number} pairs",
            predicted=str(expected),
            measured=f"{sum(found)}, share {wilson(sum(found), number)}",
            holds=sum(found) == expected,
        )
        for what, found, number, expected in counts
    ]


if __name__ == "__main__":
    sys.exit(main(CLAIM, measure))
