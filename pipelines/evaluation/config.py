"""What `pairloom evaluate` measures, and against what.

Limits: one reference a description, as in the evaluation that is followed (`text.py`).
"""

from dataclasses import dataclass, field
from pathlib import Path

METRICS = ("bleu4", "rouge_l", "meteor")
COLUMNS = ("seed", "prompt")  # of the pairs, that can be references
SUFFIXES = (".jsonl", ".csv", ".parquet")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class BertScoreConfig:
    """The model of BERTScore; published: microsoft/deberta-xlarge-mnli, whose layer is 40."""

    model: str | None = None  # a local folder; null: no BERTScore
    num_layers: int | None = None  # the layer that is compared; null: bert-score's for that name
    batch_size: int = 64
    device: str = "auto"  # auto: the GPU if torch sees one

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise ValueError(f"field 'device' is {self.device!r}: must be one of {DEVICES}")
        if self.batch_size < 1:
            raise ValueError(f"field 'batch_size' is {self.batch_size}: must be 1 or more")
        if self.num_layers is not None and self.num_layers < 1:
            raise ValueError(f"field 'num_layers' is {self.num_layers}: must be 1 or more, or null")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Which texts are compared, and how."""

    # a column of the pairs, seed or prompt; or a local file (.jsonl .csv .parquet) with the columns
    # `reference` and `pair_id`, or `chain_id` where all rounds of a chain share one
    references: str = "seed"
    # []: none, and no package of `pairloom[eval]` is needed; truth is left, and BERTScore if asked
    metrics: list[str] = field(default_factory=lambda: list(METRICS))
    # data folder of nltk with corpora/wordnet/, for METEOR's synonyms; null: none count
    wordnet: str | None = None
    bert: BertScoreConfig = field(default_factory=BertScoreConfig)
    has_truth: bool = True  # by the oracle, where the run is of the embedded world

    @property
    def has_metrics(self) -> bool:
        """Whether texts are compared at all."""
        return bool(self.metrics) or self.bert.model is not None

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown:
            raise ValueError(f"field 'metrics' has {unknown}: must be of {METRICS}")
        if self.references not in COLUMNS and not self.references.endswith(SUFFIXES):
            raise ValueError(
                f"field 'references' is {self.references!r}: must be one of {COLUMNS}, or a file "
                f"that ends in one of {', '.join(SUFFIXES)}"
            )
        if self.references != "seed" and not self.has_metrics:
            raise ValueError(
                f"field 'references' is {self.references!r}, and 'metrics' is empty: nothing is "
                "compared with them"
            )
        for name, folder in (("wordnet", self.wordnet), ("bert.model", self.bert.model)):
            if folder is not None and not Path(folder).expanduser().is_dir():
                raise ValueError(f"field {name!r} is {folder!r}: is no folder")
