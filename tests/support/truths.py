"""The truth of whole rounds, as `evaluate` and the gallery sum it up."""

from collections import defaultdict
from collections.abc import Iterable

from actors.records import Row
from pipelines.evaluation.truth import RoundTruth, TruthOfRound


def measure_rounds(pairs: Iterable[Row]) -> dict[int, RoundTruth]:
    """The truth of every round of these pairs, by `round_index`."""
    rounds: defaultdict[int, TruthOfRound] = defaultdict(TruthOfRound)
    for pair in pairs:
        rounds[pair["round_index"]].add(pair)
    return {round_index: truth.measure() for round_index, truth in sorted(rounds.items())}
