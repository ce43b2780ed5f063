"""The text metrics once more, from their papers, as witnesses of those that packages compute.

Limits: slow, one pair at a time; the encoder for BERTScore has random weights, so its values say
nothing of the texts.
"""

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def _grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))


def bleu4_formula(pred: str, ref: str) -> float:
    """Papineni et al. 2002 with smoothing 4 of Chen and Cherry 2014 (k = 5)."""
    hyp, words = pred.split(), ref.split()
    logs, num_empty = 0.0, 0
    for n in range(1, 5):
        matches = (_grams(hyp, n) & _grams(words, n)).total()
        if n == 1 and not matches:
            return 0.0
        right = float(matches)
        if not matches:
            num_empty += 1
            right = math.log(len(hyp)) / (2**num_empty * 5)
        logs += math.log(right / max(1, len(hyp) - n + 1)) / 4
    return math.exp(min(0.0, 1 - len(words) / len(hyp)) + logs)


def rouge_l_formula(pred: str, ref: str) -> float:
    """F1 of the longest common subsequence, by a table."""
    hyp, words = pred.lower().split(), ref.lower().split()
    table = [[0] * (len(words) + 1) for _ in range(len(hyp) + 1)]
    for i, one in enumerate(hyp):
        for j, other in enumerate(words):
            same = table[i][j] + 1
            table[i + 1][j + 1] = same if one == other else max(table[i][j + 1], table[i + 1][j])
    longest = table[-1][-1]
    return 2 * longest / (len(hyp) + len(words))  # = 2PR / (P + R)


def write_encoder(folder: Path, texts: Iterable[str]) -> Path:
    """A BERT of toy width with random weights, and a real tokenizer that knows these texts."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    words = sorted({word.lower() for text in texts for word in text.split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    (folder / "vocab.txt").unlink(missing_ok=True)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
    )
    BertModel(config).eval().save_pretrained(folder)
    return folder


class BertRecallFormula:
    """Zhang et al. 2020, equation 1, without idf: each word of the reference, its nearest."""

    def __init__(self, folder: Path, num_layers: int) -> None:
        from transformers import AutoModel, AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModel.from_pretrained(folder).eval()
        self._num_layers = num_layers

    def __call__(self, pred: str, ref: str) -> float:
        # The marks at both ends have weight 0, but a word may find its nearest in one of them.
        near = self._embed(ref)[1:-1] @ self._embed(pred).T
        return float(near.max(dim=1).values.mean())

    def _embed(self, text: str) -> Any:
        import torch

        with torch.no_grad():
            inputs = self._tokenizer(text, return_tensors="pt")
            states = self._model(**inputs, output_hidden_states=True)
        vectors = states.hidden_states[self._num_layers][0]
        return vectors / vectors.norm(dim=-1, keepdim=True)
