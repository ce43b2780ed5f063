"""`pairloom evaluate`: reads the pairs of a run file by file and measures every round.

Limits: descriptions and references of the whole run are in memory (about a kilobyte a pair), for
sacrebleu counts over all; of pictures, which truth alone reads, as many files as are read at once.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from actors.records import Row
from pipelines import seeds as seed_tables
from pipelines.evaluation.config import EvaluateConfig
from pipelines.evaluation.references import find_references
from pipelines.evaluation.text import Metrics, corpus_bleu, load_metrics
from pipelines.evaluation.truth import COLUMNS as TRUTH_COLUMNS
from pipelines.evaluation.truth import Rate, RoundTruth, TruthOfRound, is_of_embedded_world
from pipelines.filters.columns import in_order, read_columns
from pipelines.status import open_ledger

_COLUMNS = ("pair_id", "chain_id", "round_index", "seed", "prompt", "description")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A metric over the pairs of one round: mean, and standard deviation from pair to pair."""

    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class RoundScores:
    """Descriptions of one round against their references."""

    num_pairs: int
    metrics: dict[str, Spread]
    corpus_bleu: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came out; `truth` is empty where the run is not of the embedded world."""

    output: str
    references: str
    num_pairs: int
    num_without_reference: int
    rounds: dict[int, RoundScores]
    truth: dict[int, RoundTruth]
    notes: list[str]


@dataclass
class _Round:
    """One round while it is read."""

    preds: list[str] = field(default_factory=list[str])
    refs: list[str] = field(default_factory=list[str])
    scores: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    truth: TruthOfRound = field(default_factory=TruthOfRound)

    def add_texts(self, rows: list[tuple[str, str]], metrics: Metrics) -> None:
        preds, refs = [pred for pred, _ in rows], [ref for _, ref in rows]
        self.preds += preds
        self.refs += refs
        for name, metric in metrics.by_name.items():
            self.scores[name] += metric(preds, refs) if rows else []


def evaluate_run(output: str, config: EvaluateConfig) -> Evaluation:
    """Measures what is committed now.

    Raises:
        ValueError: there is no run or no pair, no pair has a reference, or a package, a model or a
            file of the config is missing.
        CommitError: a committed file is missing or altered.
    """
    find = find_references(config.references) if config.has_metrics else None
    has_truth = config.has_truth and _is_of_embedded_world(output)
    if not (config.has_metrics or has_truth):
        raise ValueError(
            f"field 'metrics' is empty, and {output} is not of the embedded world, or has_truth is "
            "false: nothing is left to measure"
        )
    metrics = load_metrics(config.metrics, config.wordnet, config.bert)
    rounds: defaultdict[int, _Round] = defaultdict(_Round)
    num_pairs = num_without = 0
    for rows in _read_rows(output, has_truth=has_truth):
        one = rounds[rows[0]["round_index"]]  # a file is of one round
        num_pairs += len(rows)
        if find is not None:
            texts = [(row["description"], find(row)) for row in rows]
            known = [(pred, ref) for pred, ref in texts if ref is not None]
            one.add_texts(known, metrics)
            num_without += len(rows) - len(known)
        for row in rows if has_truth else ():
            one.truth.add(row)
    if not num_pairs:
        raise ValueError(f"{output} has no pair yet")
    if find is not None and num_pairs == num_without:
        raise ValueError(
            f"{output} has {num_pairs} pairs, and {config.references!r} has a reference for none"
        )
    scores, signatures = _score_rounds(rounds)
    return Evaluation(
        output=output,
        references=config.references,
        num_pairs=num_pairs,
        num_without_reference=num_without,
        rounds=scores,
        truth={r: rounds[r].truth.measure() for r in sorted(rounds)} if has_truth else {},
        notes=[*metrics.notes, *signatures],
    )


def _is_of_embedded_world(output: str) -> bool:
    ledger, run = open_ledger(output)
    table = seed_tables.find_table(ledger.store)
    return table is not None and is_of_embedded_world(
        run["record"], table.column("seed").to_pylist()
    )


def _read_rows(output: str, *, has_truth: bool) -> Iterator[list[Row]]:
    ledger, _ = open_ledger(output)
    names = dict.fromkeys((*_COLUMNS, *(TRUTH_COLUMNS if has_truth else ())))
    for one in read_columns(output, in_order(ledger.receipts()), list(names)):
        yield one.table.to_pylist()


def _score_rounds(rounds: dict[int, _Round]) -> tuple[dict[int, RoundScores], list[str]]:
    """Of every round that has references; and how sacrebleu counted."""
    found: dict[int, RoundScores] = {}
    signatures = set[str]()
    for round_index, one in sorted(rounds.items()):
        if not one.preds:
            continue
        bleu, signature = corpus_bleu(one.preds, one.refs)
        signatures.add(f"corpus_bleu: {signature}")
        found[round_index] = RoundScores(
            num_pairs=len(one.preds),
            metrics={name: _spread(values) for name, values in one.scores.items()},
            corpus_bleu=bleu,
        )
    return found, sorted(signatures)


def _spread(values: list[float]) -> Spread:
    return Spread(mean=float(np.mean(values)), std=float(np.std(values)))


def describe_evaluation(found: Evaluation) -> str:
    """As tables, a round a line."""
    parts = [_metric_lines(found), _truth_lines(found.truth), found.notes]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _metric_lines(found: Evaluation) -> list[str]:
    if not found.rounds:
        return [f"{found.output}: {found.num_pairs} pairs"]
    names = list(next(iter(found.rounds.values())).metrics)
    lines = [
        f"{found.output}: descriptions of {found.num_pairs - found.num_without_reference} of "
        f"{found.num_pairs} pairs against {found.references!r}; mean and standard deviation",
        _row("round", "pairs", [*names, "corpus_bleu"]),
    ]
    for round_index, one in found.rounds.items():
        cells = [f"{one.metrics[name].mean:.4f} {one.metrics[name].std:.4f}" for name in names]
        lines.append(_row(round_index, one.num_pairs, [*cells, f"{one.corpus_bleu:.4f}"]))
    return lines


def _truth_lines(truth: dict[int, RoundTruth]) -> list[str]:
    if not truth:
        return []
    heads = ["picture_precision", "picture_recall", "seed_precision", "seed_recall"]
    lines = [
        "truth of the descriptions by the oracle: attributes, with one standard error",
        _row("round", "pairs", [*heads, "says a scene"]),
    ]
    for round_index, one in truth.items():
        cells = [_say_rate(one.rates.get(name)) for name in heads]
        readable = f"{one.num_readable / one.num_pairs:.3f}"
        lines.append(_row(round_index, one.num_pairs, [*cells, readable]))
    return lines


def _say_rate(rate: Rate | None) -> str:
    if rate is None:
        return "-"
    error = "" if rate.error is None else f" +-{rate.error:.4f}"
    return f"{rate.value:.4f}{error}"


def _row(first: object, second: object, cells: list[str]) -> str:
    return f"{first!s:>5}{second!s:>8}" + "".join(f"{cell:>18}" for cell in cells)
