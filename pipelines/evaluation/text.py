"""How close a text comes to a reference: BLEU-4, ROUGE-L, METEOR, BERTScore recall.

Each takes lists of predictions and of references, of equal length, and returns a number from 0 to 1
for each pair of them, by the package that is known for it. BLEU-4, ROUGE-L and BERTScore recall are
defined as in the evaluation of Synergy-General-MultimodalPairs, so that figures can be laid beside
its table:

    bleu4         a sentence each; tokens by white space, case kept; nltk's smoothing method 4 (Chen
                  and Cherry 2014)
    rouge_l       F1 of the longest common subsequence; tokens by white space, lower case
    bert_recall   recall of BERTScore (Zhang et al. 2020), no idf weights, not rescaled
    meteor        Lavie and Agarwal 2007 as nltk has it; words and punctuation apart, lower case
    corpus_bleu   one number for all, by sacrebleu with its own tokens (13a), for other papers

Limits: for English. The packages are those of `pairloom[eval]`, imported when they are needed.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from actors.models import resolve_model
from pipelines.evaluation.config import BertScoreConfig

# What most encoders read at once; a tokenizer that names no limit says 1e30, which overflows in it.
MAX_TOKENS = 512
_PACKAGES = ("sacrebleu", "rouge_score", "nltk", "bert_score")

Metric = Callable[[Sequence[str], Sequence[str]], list[float]]


def check_installed() -> None:
    """Raises ValueError where a package of `pairloom[eval]` is missing; imports none."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"evaluate needs {', '.join(missing)}: pip install -e '.[eval]' where pairloom lies"
        )


def bleu4(preds: Sequence[str], refs: Sequence[str]) -> list[float]:
    """BLEU of up to four words, of every text by itself."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smooth: Any = SmoothingFunction().method4
    score: Any = sentence_bleu
    return [
        float(score([ref.split()], pred.split(), smoothing_function=smooth))
        for pred, ref in zip(preds, refs, strict=True)
    ]


def corpus_bleu(preds: Sequence[str], refs: Sequence[str]) -> tuple[float, str]:
    """BLEU of all texts together, and sacrebleu's signature of how it was made."""
    from sacrebleu.metrics.bleu import BLEU

    metric: Any = BLEU()
    score = metric.corpus_score(list(preds), [list(refs)]).score / 100
    return score, str(metric.get_signature())


class _LowerWords:
    """The tokens of `rouge_l`; rouge-score's own drop all but a-z and 0-9."""

    def tokenize(self, text: str) -> list[str]:
        return text.lower().split()


def rouge_l(preds: Sequence[str], refs: Sequence[str]) -> list[float]:
    """F1 of the longest common subsequence."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer: Any = RougeScorer(["rougeL"], tokenizer=_LowerWords())
    return [
        float(scorer.score(ref, pred)["rougeL"].fmeasure)
        for pred, ref in zip(preds, refs, strict=True)
    ]


class _NoSynonyms:
    """WordNet without a word in it."""

    def synsets(self, word: str) -> list[Any]:
        return []


class Meteor:
    """METEOR; with a folder of WordNet synonyms count as matches, else exact words and stems."""

    def __init__(self, wordnet: str | None = None) -> None:
        self._wordnet = _NoSynonyms() if wordnet is None else _open_wordnet(wordnet)

    def __call__(self, preds: Sequence[str], refs: Sequence[str]) -> list[float]:
        from nltk.tokenize import wordpunct_tokenize
        from nltk.translate.meteor_score import single_meteor_score

        score: Any = single_meteor_score
        return [
            float(score(wordpunct_tokenize(ref), wordpunct_tokenize(pred), wordnet=self._wordnet))
            for pred, ref in zip(preds, refs, strict=True)
        ]


def _open_wordnet(folder: str) -> Any:
    """The reader of nltk over WordNet as `nltk.download('wordnet', folder)` unpacks it."""
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    root = Path(folder).expanduser().resolve()
    if str(root) not in nltk.data.path:  # nltk 3.10 opens nothing that is not below one of these
        nltk.data.path.append(str(root))
    place: Any = nltk.data.FileSystemPathPointer
    with warnings.catch_warnings():  # that there are no other languages
        warnings.simplefilter("ignore")
        try:
            return WordNetCorpusReader(place(str(root / "corpora" / "wordnet")), None)
        except (OSError, LookupError) as error:
            raise ValueError(
                f"field 'wordnet' is {folder!r}: no corpora/wordnet/ as nltk has it "
                f"({str(error).strip()[:100]}): python -m nltk.downloader -d {folder} wordnet, and "
                "unzip it there"
            ) from None


class BertScore:
    """BERTScore recall with the model of a local folder; loads it."""

    def __init__(self, config: BertScoreConfig) -> None:
        assert config.model is not None
        folder = resolve_model(str(Path(config.model).expanduser().resolve()), "").folder
        num_layers = config.num_layers or _known_layers(Path(config.model).name)
        _check_path(str(folder))
        from bert_score import BERTScorer

        self._batch_size = config.batch_size  # bert-score ignores the one of its constructor
        device = None if config.device == "auto" else config.device
        self._scorer: Any = BERTScorer(
            model_type=str(folder),
            num_layers=num_layers,
            device=device,
        )
        tokenizer = self._scorer._tokenizer  # private (0.3.13): it has no argument for a limit
        tokenizer.model_max_length = min(tokenizer.model_max_length, MAX_TOKENS)

    def __call__(self, preds: Sequence[str], refs: Sequence[str]) -> list[float]:
        _, recall, _ = self._scorer.score(list(preds), list(refs), batch_size=self._batch_size)
        return [float(value) for value in recall.tolist()]


def _known_layers(name: str) -> int:
    """The layer that bert-score takes of a model of that name, whoever its owner is."""
    from bert_score.utils import model2layers

    known: dict[str, int] = {full.rpartition("/")[2]: n for full, n in model2layers.items()}
    if name not in known:
        raise ValueError(
            f"field 'bert.num_layers' is null, and bert-score knows no layer for {name!r}: give "
            "the number of the layer that is to be compared"
        )
    return known[name]


def _check_path(path: str) -> None:
    if "t5" in path:  # bert-score 0.3.13 looks into the path for it
        raise ValueError(
            f"field 'bert.model' is {path!r}: bert-score takes any path with 't5' in it for a T5 "
            "encoder; give the folder another name"
        )


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What is computed of every description, by name, and what is to be known about it."""

    by_name: dict[str, Metric]
    notes: list[str]


def load_metrics(names: Sequence[str], wordnet: str | None, bert: BertScoreConfig) -> Metrics:
    """The metrics of these names, and BERTScore where it has a model.

    Raises:
        ValueError: a package, a model or WordNet is missing or not usable.
    """
    if not names and bert.model is None:
        return Metrics(by_name={}, notes=[])
    check_installed()
    made: dict[str, Callable[[], Metric]] = {
        "bleu4": lambda: bleu4,
        "rouge_l": lambda: rouge_l,
        "meteor": lambda: Meteor(wordnet),
    }
    by_name: dict[str, Metric] = {name: made[name]() for name in names}
    notes: list[str] = []
    if "meteor" in by_name and wordnet is None:
        notes.append("meteor: exact words and stems only; wordnet=FOLDER lets synonyms count")
    if bert.model is None:
        notes.append("bert_recall: not computed; bert.model=FOLDER names a model for it")
    else:
        by_name["bert_recall"] = BertScore(bert)
    return Metrics(by_name=by_name, notes=notes)
