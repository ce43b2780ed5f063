"""pipelines/evaluation/text.py: every metric against another one's figures, or the formula itself.

Packages that a metric is made with are no witness of it: BLEU-4 (nltk) is held against sacrebleu
and the formula of Chen and Cherry, sacrebleu against nltk, ROUGE-L against a table of dynamic
programming, BERTScore against transformers alone (tests/support/text_formulas.py; on random
captions: tests/claims/text_metrics.py).
"""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from text_formulas import BertRecallFormula, bleu4_formula, rouge_l_formula, write_encoder

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


# The first example waits for nltk and rouge-score to be imported, on a busy machine for long.
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(PAIRS, min_size=1, max_size=3))
def test_bleu4_and_rouge_l_are_their_formulas(texts: list[tuple[str, str]]) -> None:
    preds, refs = [pred for pred, _ in texts], [ref for _, ref in texts]
    assert bleu4(preds, refs) == NEAR([bleu4_formula(*pair) for pair in texts], abs=1e-6)
    assert rouge_l(preds, refs) == NEAR([rouge_l_formula(*pair) for pair in texts], abs=1e-6)


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
    return write_encoder(tmp_path_factory.mktemp("encoder"), PREDS + REFS)


def test_bert_recall_is_its_formula_over_transformers(encoder: Path) -> None:
    metric = BertScore(BertScoreConfig(model=str(encoder), num_layers=2, device="cpu"))
    formula = BertRecallFormula(encoder, 2)
    expected = [formula(*pair) for pair in zip(PREDS, REFS, strict=True)]
    assert metric(PREDS, REFS) == NEAR(expected, abs=1e-6)
    assert metric(REFS, REFS) == NEAR([1.0] * 3, abs=1e-6)


def test_a_model_of_unknown_name_needs_its_layer_said(encoder: Path) -> None:
    with pytest.raises(ValueError, match="knows no layer"):
        BertScore(BertScoreConfig(model=str(encoder)))


def test_what_is_not_computed_is_told() -> None:
    metrics = load_metrics(["meteor"], None, BertScoreConfig())
    assert list(metrics.by_name) == ["meteor"]
    assert [note.partition(":")[0] for note in metrics.notes] == ["meteor", "bert_recall"]
