"""The part of the run report about meaning: drift, truth in the embedded world, scores.

Limits: quartiles are exact to a percent of drift and a thousandth of a score.
"""

from html import escape

from pipelines.evaluation.truth import RatioSums
from pipelines.gallery.charts import bars, folded, note, quartile_lines, table
from pipelines.gallery.segments import SCORE_SCALE
from pipelines.gallery.summary import Overview

NUM_HISTOGRAM_BINS = 24
Histogram = dict[str, int]
_TRUTHS = {
    "picture_precision": "said, and in the picture",
    "picture_recall": "in the picture, and said",
    "seed_precision": "said, and in the seed",
    "seed_recall": "in the seed, and said",
}


def quantile(histogram: Histogram, share: float) -> float:
    """The lowest value that at least `share` of what was counted does not exceed."""
    total, seen = sum(histogram.values()), 0
    for value, number in sorted((float(value), number) for value, number in histogram.items()):
        seen += number
        if seen >= share * total:
            return value
    raise ValueError("a histogram of nothing has no quantile")


def show_drift(overview: Overview) -> str:
    """Word overlap by round, and the Mean Cumulative Drift of the chains where there are scores."""
    rounds: dict[str, Histogram] = overview.sums.get("drift", {})
    name = "Drift by round: median and quartiles, percent"
    inject = overview.record.get("inject") or {}
    anew = " Where a chain began anew, its fresh description stands for the seed from there on."
    html = (
        "<h2>Drift</h2><p>The share of the seed's content words that a round's description does "
        "not say, in percent. Word overlap: a paraphrase counts as loss, attributes that changed "
        f"places do not.{anew if inject.get('share') else ''}</p>"
    )
    return html + _by_round(name, {"drift": rounds}, 1.0, overview, top=100.0) + _mean(overview)


def _mean(overview: Overview) -> str:
    found: dict[str, Histogram] = overview.sums.get("cumulative", {})
    if not found or overview.record["mode"] != "loop":
        return ""
    rows: list[list[str]] = []
    for name, histogram in found.items():
        num_chains = sum(histogram.values())
        mean = sum(float(value) * number for value, number in histogram.items()) / num_chains
        numbers = [mean, *(quantile(histogram, share) for share in (0.25, 0.5, 0.75))]
        title = name.removesuffix("_similarity_first")
        told = [f"{value / SCORE_SCALE:.3f}" for value in numbers]
        rows.append([title, *told, f"{num_chains:,}"])
    header = ["similarity of", "mean", "lower quartile", "median", "upper quartile", "chains"]
    return table("Mean Cumulative Drift of the chains", header, rows) + note(
        "The mean over a chain's rounds of the similarity to its first one "
        "(arXiv 2509.04438): in spite of its name 1 is best, nothing moved."
    )


def show_truth(overview: Overview) -> str:
    """Attribute precision and recall by round, where the oracle could say."""
    truth: dict[str, dict[str, dict[str, int]]] = overview.sums.get("truth", {})
    if not truth:
        return ""
    rows: list[list[str]] = []
    for index in range(overview.record["num_rounds"]):
        of_round = [truth.get(name, {}).get(str(index)) for name in _TRUTHS]
        num_pairs = max((one["num_pairs"] for one in of_round if one), default=0)
        rows.append([f"round {index}", *map(_rate, of_round), f"{num_pairs:,}"])
    header = ["round", *_TRUTHS.values(), "pairs"]
    return (
        "<h2>Truth</h2><p>The share of the attributes (shape, colour, size, place, background, "
        "number) that are right, as the oracle of the embedded world reads them from the pixels, "
        "with one standard error.</p>"
        + table("Truth of the descriptions, by round", header, rows)
        + note(
            f"Of the first {overview.config.num_truth_chains} chains or so "
            "(<code>num_truth_chains=</code>); <code>pairloom evaluate</code> asks it of all."
        )
    )


def _rate(sums: dict[str, int] | None) -> str:
    if not sums or not sums["total"]:
        return ""
    rate = RatioSums(**sums).rate()
    return f"{rate.value:.3f}" + ("" if rate.error is None else f" +-{rate.error:.3f}")


def show_scores(overview: Overview) -> str:
    """A histogram of each score, and its course over the rounds."""
    scores: dict[str, dict[str, Histogram]] = overview.sums.get("scores", {})
    if not scores:
        return "<h2>Scores</h2>" + note("These pairs have no scores.")
    html = "<h2>Scores</h2>"
    for name, rounds in scores.items():
        whole: Histogram = {}
        for histogram in rounds.values():
            for value, number in histogram.items():
                whole[value] = whole.get(value, 0) + number
        title = name.replace("_", " ")
        html += f"<h3>{escape(title)}</h3>" + _histogram(f"Pairs by {title}", whole)
        html += _by_round(f"{title} by round", {name: rounds}, float(SCORE_SCALE), overview)
    return html


def _by_round(
    name: str,
    found: dict[str, dict[str, Histogram]],
    scale: float,
    overview: Overview,
    top: float | None = None,
) -> str:
    """Median and quartiles by round, as a table; as a chart too where nothing is negative."""
    (rounds,) = found.values()
    indices = range(overview.record["num_rounds"])
    quartiles: list[tuple[float, float, float] | None] = []
    for index in indices:
        histogram = rounds.get(str(index))
        values = [quantile(histogram, s) / scale for s in (0.25, 0.5, 0.75)] if histogram else None
        quartiles.append((values[0], values[1], values[2]) if values else None)
    rows = [
        [f"round {index}", *(f"{value:g}" for value in one or ()), f"{_total(rounds, index):,}"]
        if one
        else [f"round {index}", "", "", "", "0"]
        for index, one in enumerate(quartiles)
    ]
    html = ""
    if all(one is None or one[0] >= 0 for one in quartiles):
        html = quartile_lines(name, quartiles, [f"round {r}" for r in indices], "", top)
    header = ["round", "lower quartile", "median", "upper quartile", "pairs"]
    return html + table(name, header, rows)


def _total(rounds: dict[str, Histogram], index: int) -> int:
    return sum(rounds.get(str(index), {}).values())


def _histogram(name: str, counts: Histogram) -> str:
    values = sorted((int(value), number) for value, number in counts.items())
    low, high = values[0][0], values[-1][0]
    width = max(1, -(-(high - low + 1) // NUM_HISTOGRAM_BINS))
    bins = [0] * ((high - low) // width + 1)
    for value, number in values:
        bins[(value - low) // width] += number
    labels = [f"{(low + at * width) / SCORE_SCALE:.2f}" for at in range(len(bins))]
    rows = [[label, f"{number:,}"] for label, number in zip(labels, bins, strict=True)]
    return bars(name, [float(one) for one in bins], labels, "") + folded(
        table(name, ["from", "pairs"], rows)
    )
