"""pipelines/evaluation/text.py: every metric against another one's figures, or the formula itself.

Packages that a metric is made with are no witness of it: BLEU-4 (nltk) is held against sacrebleu
and the formula of Chen and Cherry, sacrebleu against nltk, ROUGE-L against a table of dynamic
programming, BERTScore against transformers alone.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.evaluation.config import BertScoreConfig
from pipelines.evaluation.text import BertScore, Meteor, bleu4, corpus_bleu, load_metrics, rouge_l

NEAR = pytest.approx
PREDS = [
    "a small red star at the top left on a grey background",
    "There is a large blue circle in the corner and a small cross on a white background",
    "a dog",
]
REFS = [
    "a large red star at the top left on a grey background",
    "There is a large blue circle in the lower corner and a small cross on a black background",
    "the cat sat on the mat",
]
WORDS = st.lists(st.sampled_from(["a", "red", "Red", "star", "on"]), min_size=2, max_size=12)
PAIRS = st.tuples(WORDS.map(" ".join), WORDS.map(" ".join))


def _grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))


def _bleu4(pred: str, ref: str) -> float:
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


def _rouge_l(pred: str, ref: str) -> float:
    hyp, words = pred.lower().split(), ref.lower().split()
    table = [[0] * (len(words) + 1) for _ in range(len(hyp) + 1)]
    for i, one in enumerate(hyp):
        for j, other in enumerate(words):
            same = table[i][j] + 1
            table[i + 1][j + 1] = same if one == other else max(table[i][j + 1], table[i + 1][j])
    longest = table[-1][-1]
    return 2 * longest / (len(hyp) + len(words))  # = 2PR / (P + R)


# The first example waits for nltk and rouge-score to be imported, on a busy machine for long.
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(PAIRS, min_size=1, max_size=3))
def test_bleu4_and_rouge_l_are_their_formulas(texts: list[tuple[str, str]]) -> None:
    preds, refs = [pred for pred, _ in texts], [ref for _, ref in texts]
    assert bleu4(preds, refs) == NEAR([_bleu4(*pair) for pair in texts], abs=1e-6)
    assert rouge_l(preds, refs) == NEAR([_rouge_l(*pair) for pair in texts], abs=1e-6)


def test_where_nothing_is_smoothed_bleu4_is_that_of_sacrebleu() -> None:
    from sacrebleu.metrics.bleu import BLEU

    metric: Any = BLEU(tokenize="none", smooth_method="none", effective_order=False)
    theirs = [metric.sentence_score(p, [r]).score / 100 for p, r in zip(PREDS, REFS, strict=True)]
    assert bleu4(PREDS[:2], REFS[:2]) == NEAR(theirs[:2], abs=1e-6)
    assert theirs[2] == 0.0 == bleu4(PREDS[2:], REFS[2:])[0]


def test_corpus_bleu_is_that_of_nltk() -> None:
    from nltk.translate.bleu_score import corpus_bleu as theirs

    value, signature = corpus_bleu(PREDS[:2], REFS[:2])  # nltk counts a 4-gram of "a dog"
    expected: Any = theirs([[ref.split()] for ref in REFS[:2]], [p.split() for p in PREDS[:2]])
    assert value == NEAR(expected, abs=1e-6)
    assert "tok:13a" in signature


def test_rouge_l_counts_every_word_as_its_author_does_where_words_are_plain() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    theirs: Any = RougeScorer(["rougeL"])
    pairs = zip(PREDS, REFS, strict=True)
    expected = [theirs.score(ref, pred)["rougeL"].fmeasure for pred, ref in pairs]
    assert rouge_l(PREDS, REFS) == NEAR(expected, abs=1e-6)


def test_meteor_without_wordnet_is_of_exact_words_and_stems() -> None:
    # Five of six words, "stars" by its stem, in two runs: F = 5/6, penalty .5 (2/5)^3.
    (value,) = Meteor()(["a small red stars on grey"], ["a large red star on grey"])
    assert value == NEAR(5 / 6 * (1 - 0.5 * (2 / 5) ** 3), abs=1e-6)


def test_meteor_with_a_wordnet_counts_synonyms(tmp_path: Path) -> None:
    _write_wordnet(tmp_path / "corpora" / "wordnet")
    pair = ["a red ball"], ["a red sphere"]
    assert Meteor(str(tmp_path))(*pair) == NEAR([1 - 0.5 * (1 / 3) ** 3], abs=1e-6)
    assert Meteor()(*pair) < Meteor(str(tmp_path))(*pair)


def test_a_folder_without_wordnet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no corpora/wordnet/"):
        Meteor(str(tmp_path))


def _write_wordnet(folder: Path) -> None:
    """A WordNet of one noun, in the form of wndb(5WN)."""
    folder.mkdir(parents=True)
    for name in ("adj", "adv", "noun", "verb"):
        for part in (f"index.{name}", f"data.{name}", f"{name}.exc"):
            (folder / part).write_text("")
    for part in ("cntlist.rev", "index.sense"):
        (folder / part).write_text("")
    (folder / "lexnames").write_text("00\tnoun.artifact\t1\n")
    (folder / "data.noun").write_text("00000000 00 n 02 ball 0 sphere 0 000 | a round thing  \n")
    lines = [f"{word} n 1 0 1 0 00000000  \n" for word in ("ball", "sphere")]
    (folder / "index.noun").write_text("".join(lines))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of toy width with random weights and a real tokenizer."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("encoder")
    words = sorted({word.lower() for text in PREDS + REFS for word in text.split()})
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


def _bert_recall(folder: Path, num_layers: int, pred: str, ref: str) -> float:
    """Zhang et al. 2020, equation 1, without idf: each word of the reference, its nearest."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder).eval()

    def embed(text: str) -> Any:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        vectors = states.hidden_states[num_layers][0]
        return vectors / vectors.norm(dim=-1, keepdim=True)

    # The marks at both ends have weight 0, but a word may find its nearest in one of them.
    near = embed(ref)[1:-1] @ embed(pred).T
    return float(near.max(dim=1).values.mean())


def test_bert_recall_is_its_formula_over_transformers(encoder: Path) -> None:
    metric = BertScore(BertScoreConfig(model=str(encoder), num_layers=2, device="cpu"))
    expected = [_bert_recall(encoder, 2, *pair) for pair in zip(PREDS, REFS, strict=True)]
    assert metric(PREDS, REFS) == NEAR(expected, abs=1e-6)
    assert metric(REFS, REFS) == NEAR([1.0] * 3, abs=1e-6)


def test_a_model_of_unknown_name_needs_its_layer_said(encoder: Path) -> None:
    with pytest.raises(ValueError, match="knows no layer"):
        BertScore(BertScoreConfig(model=str(encoder)))


def test_what_is_not_computed_is_told() -> None:
    metrics = load_metrics(["meteor"], None, BertScoreConfig())
    assert list(metrics.by_name) == ["meteor"]
    assert [note.partition(":")[0] for note in metrics.notes] == ["meteor", "bert_recall"]
