"""Claim 5: BLEU-4, ROUGE-L and BERTScore recall are what their papers say, to 1e-6.

    python tests/claims/text_metrics.py [--run-seeds 3]

Random captions of the embedded world against other sayings of the same scene or of another one,
with words dropped, doubled and in capitals. BLEU-4 and ROUGE-L are held against their formulas,
BLEU-4 also against sacrebleu where nothing is smoothed, BERTScore against its formula over the
hidden states of transformers.

Limits: BERTScore with a BERT of random weights, for no pretrained one can be fetched here: the
arithmetic is judged, not the values. Its references are computed one at a time, the metric's in
padded batches, so the last bits differ.
"""

import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from claims import Check, Claim, main
from text_formulas import BertRecallFormula, bleu4_formula, rouge_l_formula, write_encoder

from actors.backends.devices import hide_progress_bars
from actors.scenes.grammar import sample_caption, sample_scene
from pipelines.evaluation.config import BertScoreConfig
from pipelines.evaluation.text import BertScore, bleu4, rouge_l

CLAIM = Claim(
    title="Claim 5: text metrics agree with independent references to 1e-6",
    tested="pairs of random captions; the largest absolute difference over all of them",
)
NUM_PAIRS = 300  # a run seed
NUM_LAYERS = 2  # of the encoder, that BERTScore reads
MOST = 1e-6

Pairs = tuple[list[str], list[str]]


def _disturb(text: str, rng: np.random.Generator) -> str:
    """Some words dropped, doubled or in capitals; at least one stays."""
    words = text.split()
    kept: list[str] = []
    for word, chance in zip(words, rng.random(len(words)), strict=True):
        said = word.upper() if chance > 0.95 else word
        kept += [] if chance < 0.1 else [said, said] if chance < 0.15 else [said]
    return " ".join(kept or words[:1])


def make_pairs(run_seed: int) -> Pairs:
    """Predictions and references."""
    rng = np.random.default_rng([run_seed, 5])
    scenes = [sample_scene(rng) for _ in range(NUM_PAIRS)]
    refs = [sample_caption(scene, rng) for scene in scenes]
    # A half is of the same scene, a half of the next one.
    told = [scenes[(at + at % 2) % NUM_PAIRS] for at in range(NUM_PAIRS)]
    return [_disturb(sample_caption(scene, rng), rng) for scene in told], refs


def _largest(found: list[float], expected: list[float]) -> float:
    return max(abs(one - other) for one, other in zip(found, expected, strict=True))


def _against(
    metric: Callable[[list[str], list[str]], list[float]], formula: Callable[[str, str], float]
) -> Callable[[Pairs], tuple[float, int]]:
    def compare(pairs: Pairs) -> tuple[float, int]:
        expected = [formula(*pair) for pair in zip(*pairs, strict=True)]
        return _largest(metric(*pairs), expected), len(expected)

    return compare


def _bleu4_against_sacrebleu(pairs: Pairs) -> tuple[float, int]:
    """Of the pairs that share four words in a row: the others are smoothed, each in its way."""
    from sacrebleu.metrics.bleu import BLEU

    metric: Any = BLEU(tokenize="none", smooth_method="none", effective_order=False)
    theirs = [metric.sentence_score(p, [r]).score / 100 for p, r in zip(*pairs, strict=True)]
    both = [pair for pair in zip(bleu4(*pairs), theirs, strict=True) if pair[1] > 0]
    return _largest([one for one, _ in both], [one for _, one in both]), len(both)


def measure(run_seeds: range) -> list[Check]:
    logging.getLogger("sacrebleu").setLevel(logging.ERROR)  # of a default that is not wanted here
    hide_progress_bars()
    torch.set_num_threads(1)  # on tensors this small two threads take four times as long
    seeds = [make_pairs(run_seed) for run_seed in run_seeds]
    with tempfile.TemporaryDirectory() as name:
        texts = [text for preds, refs in seeds for text in preds + refs]
        folder = write_encoder(Path(name), texts)
        config = BertScoreConfig(model=str(folder), num_layers=NUM_LAYERS, device="cpu")
        references = {
            "BLEU-4 against its formula": ("1e-12", _against(bleu4, bleu4_formula)),
            "BLEU-4 against sacrebleu": ("1e-12", _bleu4_against_sacrebleu),
            "ROUGE-L against its formula": ("1e-12", _against(rouge_l, rouge_l_formula)),
            "BERTScore recall against transformers": (
                "5e-7",
                _against(BertScore(config), BertRecallFormula(folder, NUM_LAYERS)),
            ),
        }
        return [
            _judge(what, predicted, [compare(pairs) for pairs in seeds])
            for what, (predicted, compare) in references.items()
        ]


def _judge(what: str, predicted: str, found: list[tuple[float, int]]) -> Check:
    largest = [one for one, _ in found]
    number = sum(number for _, number in found)
    by_seed = ", ".join(f"{one:.1e}" for one in largest)
    return Check(
        what=f"{what}, {number} pairs",
        predicted=f"at most {predicted}",
        measured=f"{max(largest):.1e} (by run seed {by_seed})",
        goal="<= 1e-6",
        holds=number > 0 and max(largest) <= MOST,
    )


if __name__ == "__main__":
    sys.exit(main(CLAIM, measure))
