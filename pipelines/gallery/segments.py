"""A segment: some 4,000 chains in a row, with what the gallery sorts, filters and searches by.

The page loads the index of every segment, some 20 bytes a chain, and the rest on demand: a score's
numbers, the words of one letter. The sums of a segment are what the report is made of; adding the
segments up needs no page and no commit.

Limits: numbers are whole percents of drift and thousandths of a score, so quartiles are exact to
that.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from cluster.receipts import Receipt
from pipelines.drift import FIRSTS, mean_cumulative_drift
from pipelines.evaluation.truth import RatioSums
from pipelines.filters.config import SCORES
from pipelines.gallery.pages import VERBS, Page, commit_digest
from pipelines.gallery.search import ID_CHARS, index_words, words_of
from pipelines.gallery.site import Site

SEGMENT_CHAINS = 4096
# A score in the index: thousandths.
SCORE_SCALE = 1000
Sums = dict[str, Any]


def units_a_segment(unit_size: int) -> int:
    """How many units share a segment."""
    return max(1, SEGMENT_CHAINS // unit_size)


def segment_name(number: int) -> str:
    """The name of a segment in file names."""
    return f"{number:05d}"


def write_segment(
    site: Site,
    number: int,
    pages: Sequence[Page],
    commits: Sequence[Sums],
    unit_size: int,
    num_rounds: int,
) -> Sums:
    """Writes the index, the words and the scores of a segment; returns its sums.

    `commits` are what `commit_of` says of those that are in the pages.
    """
    name = segment_name(number)
    first_unit = number * units_a_segment(unit_size)
    chains = [chain for page in pages for chain in page["chains"].values()]
    index = _index(pages, first_unit, num_rounds)
    for score in _scores_of(chains):
        site.put(f"scores/{name}-{score}", _columns(chains, score, num_rounds))
    slots = (
        ((int(page["unit"]) - first_unit) * unit_size + row, _words(chain_id, chain))
        for page in pages
        for row, (chain_id, chain) in enumerate(page["chains"].items())
    )
    letters = index_words(slots)
    for letter, words in letters.items():
        site.put(f"words/{name}-{letter}", words)
    before: dict[str, Any] = site.get(f"index/{name}") or {"letters": ""}
    site.put(f"index/{name}", index | {"letters": "".join(sorted(letters))})
    for letter in set(before["letters"]) - letters.keys():
        site.remove(f"data/words/{name}-{letter}.js")
    tries = [one for page in pages for one in page["tries"].values()]
    return _sums(chains, num_rounds) | {
        "tries": _add_tries(tries),
        "commits": sorted(commits, key=_order),
    }


def add_sums(parts: Iterable[Sums]) -> Sums:
    """The sums of several segments; empty sums for none."""
    total: Sums = {"commits": []}
    for part in parts:
        for name, value in part.items():
            if name == "commits":
                total[name] = total[name] + value
            else:
                total[name] = _add(total.get(name), value)
    return total


def _index(pages: Sequence[Page], first_unit: int, num_rounds: int) -> dict[str, Any]:
    chains = [chain for page in pages for chain in page["chains"].values()]
    codes = sorted({code for chain in chains for code in chain["codes"]})
    return {
        "units": [int(page["unit"]) - first_unit for page in pages],
        "rows": [len(page["chains"]) for page in pages],
        # a letter a chain: kept, drifted, lost, failed
        "status": "".join(chain["status"][0] for chain in chains),
        "turning": [-1 if chain["turning"] is None else chain["turning"] for chain in chains],
        "drift": _columns(chains, "drift", num_rounds),
        "codes": codes,
        "code": [[codes.index(code) for code in chain["codes"]] for chain in chains],
    }


def _columns(chains: Sequence[Any], name: str, num_rounds: int) -> list[list[int | None]]:
    """For each round the value of every chain, whole percents or thousandths."""
    columns: list[list[int | None]] = [[None] * len(chains) for _ in range(num_rounds)]
    for at, chain in enumerate(chains):
        for row in chain["rows"]:
            if "text" in row:
                columns[row["round_index"]][at] = _value(row, name)
    return columns


def _value(row: Any, name: str) -> int | None:
    if name == "drift":
        return row["drift"]
    value = row.get("scores", {}).get(name)
    return None if value is None else round(value * SCORE_SCALE)


def _scores_of(chains: Sequence[Any]) -> list[str]:
    there = {name for chain in chains for row in chain["rows"] for name in row.get("scores", ())}
    return [name for name in SCORES if name in there]


def _words(chain_id: str, chain: Any) -> set[str]:
    texts = [chain["seed"], *(row["text"] for row in chain["rows"] if "text" in row)]
    fresh = (row["seed"] for row in chain["rows"] if "seed" in row)
    return words_of([*texts, *fresh]) | {chain_id[:ID_CHARS]}


def _sums(chains: Sequence[Any], num_rounds: int) -> Sums:
    """Counts that add up: histograms by round, seconds, states, reasons."""
    drift: defaultdict[int, Counter[int]] = defaultdict(Counter)
    scores: defaultdict[str, defaultdict[int, Counter[int]]]
    scores = defaultdict(lambda: defaultdict(Counter))
    truth: defaultdict[str, defaultdict[int, RatioSums]]
    truth = defaultdict(lambda: defaultdict(RatioSums))
    seconds = [0.0] * len(VERBS)
    for row in (row for chain in chains for row in chain["rows"] if "text" in row):
        drift[row["round_index"]][row["drift"]] += 1
        for name, value in row.get("scores", {}).items():
            scores[name][row["round_index"]][round(value * SCORE_SCALE)] += 1
        for at, value in enumerate(row["seconds"]):
            seconds[at] += value or 0.0
        for question, (right, total) in row.get("truth", {}).items():
            truth[question][row["round_index"]].add(right, total)
    turned = Counter(
        f"{chain['status']}/{chain['turning']}" for chain in chains if chain["turning"] is not None
    )
    return {
        "num_chains": len(chains),
        "num_pairs": sum(counts.total() for counts in drift.values()),
        "status": dict(sorted(Counter(chain["status"] for chain in chains).items())),
        "turned": dict(sorted(turned.items())),
        "codes": dict(sorted(Counter(c for chain in chains for c in chain["codes"]).items())),
        "drift": {str(r): _histogram(drift[r]) for r in range(num_rounds)},
        "scores": {
            name: {str(r): _histogram(rounds[r]) for r in sorted(rounds)}
            for name, rounds in sorted(scores.items())
        },
        "cumulative": _cumulative(chains),
        "truth": {
            question: {str(r): asdict(rounds[r]) for r in sorted(rounds)}
            for question, rounds in sorted(truth.items())
        },
        "seconds": {verb: round(s, 4) for verb, s in zip(VERBS, seconds, strict=True)},
    }


def _cumulative(chains: Sequence[Any]) -> dict[str, dict[str, int]]:
    """Histograms of the chains' Mean Cumulative Drift, in thousandths."""
    found: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for chain in chains:
        scores = [row.get("scores", {}) for row in chain["rows"] if "text" in row]
        for name, previous in FIRSTS.items():
            later = [one.get(name) for one in scores if previous in one]
            drift = mean_cumulative_drift([None, *later])
            if drift is not None:
                found[name][round(drift * SCORE_SCALE)] += 1
    return {name: _histogram(counts) for name, counts in sorted(found.items())}


def _add_tries(parts: Iterable[dict[str, list[int]]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for part in parts:
        for stage, (rows, calls) in part.items():
            total[stage] = _add(total.get(stage), {"rows": rows, "calls": calls})
    return dict(sorted(total.items()))


def _order(commit: Sums) -> tuple[str, int]:
    return commit["unit"], commit["round"]


def commit_of(receipt: Receipt) -> Sums:
    """What the sums keep of a commit."""
    return {
        "unit": receipt.unit_id,
        "round": receipt.round_index,
        "digest": commit_digest(receipt),
        "at": receipt.committed_at,
        "pairs": receipt.num_pairs,
        "errors": receipt.num_error_rows - receipt.num_replaced_errors,
        "stopped": receipt.num_stopped - receipt.num_replaced_stopped,
        "reasons": receipt.error_reasons,
        "replaced": receipt.replaced_reasons,
        "stops": receipt.stop_reasons,
    }


def _histogram(counts: Counter[int]) -> dict[str, int]:
    return {str(value): counts[value] for value in sorted(counts)}


def _add(left: Any, right: Any) -> Any:
    if left is None:
        return right
    if isinstance(right, dict):
        return {key: _add(left.get(key), right.get(key, _zero(left[key]))) if key in left
                else right[key] for key in {**left, **right}}  # fmt: skip
    return left + right


def _zero(like: Any) -> Any:
    return {} if isinstance(like, dict) else 0
