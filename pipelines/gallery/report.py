"""The run report, a page of the gallery: throughput, funnel, errors, drift, scores, time and cost.

Everything on it is counted from commits or taken from the run record; what they do not say is said
to be unknown. Charts have their figures in a table below them.

Limits: one page for the whole run; it is written anew with every refresh.
"""

from collections.abc import Sequence
from html import escape
from string import Template
from typing import Any

from actors.records import is_replay
from cluster.ledger import Ledger
from pipelines.gallery.charts import bars, quartile_lines, table
from pipelines.gallery.drops import Drops, read_drops
from pipelines.gallery.effort import Effort, commit_times, reckon
from pipelines.gallery.segments import SCORE_SCALE
from pipelines.gallery.site import Site, read_static
from pipelines.gallery.summary import Overview

# The widths that a bar of the timeline may have, seconds.
BIN_WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
MAX_BINS = 60
NUM_HISTOGRAM_BINS = 24
Histogram = dict[str, int]


def write_report(site: Site, ledger: Ledger, overview: Overview) -> None:
    """Writes `report.html`."""
    drops = read_drops(ledger)
    effort = reckon(overview)
    parts = [
        f"<h1>{escape(overview.name)}: run report</h1>",
        _state(overview),
        _figures(overview, effort, drops),
        _timeline(overview),
        _funnel(overview, drops),
        _errors(overview),
        _drift(overview),
        _scores(overview),
        _effort(overview, effort, drops),
    ]
    page = Template(read_static("report.html").decode())
    html = page.substitute(title=escape(overview.name), body="\n".join(parts))
    site.write("report.html", html.encode())


def quantile(histogram: Histogram, share: float) -> float:
    """The lowest value that at least `share` of what was counted does not exceed."""
    total, seen = sum(histogram.values()), 0
    for value, number in sorted((float(value), number) for value, number in histogram.items()):
        seen += number
        if seen >= share * total:
            return value
    raise ValueError("a histogram of nothing has no quantile")


def _state(overview: Overview) -> str:
    record = overview.record
    state = "finished" if overview.is_finished else "not finished"
    return (
        f'<p class="note">{escape(record["mode"])} over {record["num_rounds"]} rounds, begun '
        f"{escape(overview.run['started_at'])}, {state}. Commits read: "
        f"{len(overview.sums['commits'])}.</p>"
    )


def _figures(overview: Overview, effort: Effort, drops: Sequence[Drops]) -> str:
    sums = overview.sums
    num_pairs = sums.get("num_pairs", 0)
    errors = sum(one["errors"] for one in sums["commits"])
    found = [
        ("Pairs", f"{num_pairs:,}"),
        ("Chains", f"{sums.get('num_chains', 0):,}"),
        ("Error rows", f"{errors:,}"),
        ("Begin to last commit", _duration(effort.span_s)),
        ("Pairs a second", _rate(num_pairs, effort.span_s)),
    ]
    if drops:
        found.append(("Kept by the filter", f"{sum(drops[0].kept.values()):,}"))
    cost = _cost_a_pair(num_pairs, effort)
    if cost is not None:
        found.append(("Cost of a pair", f"{cost:.3g}"))
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in found)
    return f'<dl class="figures">{items}</dl>'


def _timeline(overview: Overview) -> str:
    times = commit_times(overview)
    if not times:
        return "<h2>Throughput</h2><p>Nothing is committed yet.</p>"
    end = times[-1][0]
    width = next((one for one in BIN_WIDTHS_S if end / one <= MAX_BINS), BIN_WIDTHS_S[-1])
    counts = [0] * (int(end // width) + 1)
    for at, pairs in times:
        counts[int(at // width)] += pairs
    labels = [_duration(at * width) for at in range(len(counts))]
    total = 0
    rows: list[list[str]] = []
    for label, number in zip(labels, counts, strict=True):
        total += number
        rows.append([label, f"{number:,}", f"{number / width:.2f}", f"{total:,}"])
    name = f"Pairs committed in every {_duration(width)} since the run began"
    return (
        f"<h2>Throughput</h2><p>{name}. Until the first commit the models are loaded; pauses "
        "between attempts are in it.</p>"
        + bars(name, [float(one) for one in counts], labels, "since the begin")
        + _folded(table(name, ["from", "pairs", "a second", "so far"], rows))
    )


def _funnel(overview: Overview, drops: Sequence[Drops]) -> str:
    rounds = range(overview.record["num_rounds"])
    commits: list[dict[str, Any]] = overview.sums["commits"]
    header = ["round", "pairs", "failed in it", "not grown: failed before"]
    header += [f"kept by filter {one.digest[:8]}" for one in drops]
    rows: list[list[str]] = []
    alive: list[float] = []
    for index in rounds:
        of_round = [one for one in commits if one["round"] == index]
        sums = [sum(one[key] for one in of_round) for key in ("pairs", "errors", "stopped")]
        alive.append(float(sums[0]))
        kept = [f"{one.kept.get(index, 0):,}" for one in drops]
        rows.append([str(index), *(f"{one:,}" for one in sums), *kept])
    name = "Chains that have a pair, by round"
    html = "<h2>Rounds</h2>" + bars(name, alive, [f"round {r}" for r in rounds], "")
    html += table("What became of the chains in each round", header, rows)
    for one in drops:
        reasons = [[reason, f"{number:,}"] for reason, number in one.reasons.items()]
        html += f'<h3>Filter {one.digest[:8]}</h3><p class="note">{escape(one.asked)}</p>'
        html += table("Pairs that it drops, by their first reason", ["reason", "pairs"], reasons)
    if not drops:
        html += '<p class="note">No filter has judged these commits.</p>'
    return html


def _errors(overview: Overview) -> str:
    counts: dict[str, int] = {}
    for one in overview.sums["commits"]:
        for reasons, sign in ((one["reasons"], 1), (one["replaced"], -1)):
            for reason, number in reasons.items():
                counts[reason] = counts.get(reason, 0) + sign * number
    rows = [
        [reason, f"{number:,}"]
        for reason, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        if number > 0
    ]
    replays = len({one["unit"] for one in overview.sums["commits"] if is_replay(one["unit"])})
    note = f'<p class="note">{replays} units were replays of failed chains.</p>' if replays else ""
    if not rows:
        return f"<h2>Errors</h2><p>No row failed.</p>{note}"
    caption = "Error rows that nothing has replaced, by reason"
    return f"<h2>Errors</h2>{table(caption, ['reason', 'rows'], rows)}{note}"


def _drift(overview: Overview) -> str:
    rounds: dict[str, Histogram] = overview.sums.get("drift", {})
    name = "Drift by round: median and quartiles, percent"
    html = (
        "<h2>Drift</h2><p>The share of the seed's content words that a round's description does "
        "not say, in percent. Word overlap: a paraphrase counts as loss, attributes that changed "
        "places do not.</p>"
    )
    return html + _by_round(name, {"drift": rounds}, 1.0, overview, top=100.0)


def _scores(overview: Overview) -> str:
    scores: dict[str, dict[str, Histogram]] = overview.sums.get("scores", {})
    if not scores:
        return '<h2>Scores</h2><p class="note">These pairs have no scores.</p>'
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
    return bars(name, [float(one) for one in bins], labels, "") + _folded(
        table(name, ["from", "pairs"], rows)
    )


def _effort(overview: Overview, effort: Effort, drops: Sequence[Drops]) -> str:
    unknown = "not known"
    rows: list[list[str]] = []
    for one in effort.pools:
        share = unknown if one.busy_share is None else f"{one.busy_share:.0%}"
        rest = unknown if one.rest_s is None else f"{one.rest_s:,.0f}"
        held = unknown if one.held_s is None else f"{one.held_s:,.0f}"
        num = unknown if one.num_replicas is None else str(one.num_replicas)
        rows.append([one.name, num, f"{one.num_gpus:g}", f"{one.busy_s:,.1f}", rest, held, share])
    header = ["pool", "replicas", "GPUs each", "on pairs, s", "rest, s", "held, s", "busy"]
    html = "<h2>Time and cost</h2>" + table("Seconds of all replicas of a pool", header, rows)
    html += (
        '<p class="note">Rest: rows that failed, loading, waiting; dead letters have no seconds, '
        "so these are not told apart. Held: from the begin of the run to its last commit, pauses "
        "between attempts included, with the replicas that it was begun with.</p>"
    )
    for one in drops:
        caption = f"Seconds on pairs that filter {one.digest[:8]} keeps and drops"
        split = [
            [pool.name, f"{kept:,.1f}", f"{max(0.0, pool.busy_s - kept):,.1f}"]
            for pool, kept in zip(effort.pools, one.kept_s.values(), strict=True)
        ]
        html += table(caption, ["pool", "kept, s", "dropped, s"], split)
    return html + _cost(overview, effort, drops)


def _cost(overview: Overview, effort: Effort, drops: Sequence[Drops]) -> str:
    held, price = effort.held_gpu_h, effort.gpu_hour_price
    if not any(one.num_gpus for one in effort.pools):
        return "<p>The pools of this run asked for no GPU: there are no GPU-hours to price.</p>"
    if held is None:
        busy = f"{effort.busy_gpu_h:.3f} GPU-hours"
        return f"<p>{busy} went into pairs; how many were held is not known.</p>"
    num_pairs = overview.sums.get("num_pairs", 0)
    parts = [("pairs", effort.busy_gpu_h)]
    for one in drops:
        seconds = zip(effort.pools, one.kept_s.values(), strict=True)
        kept_gpu_h = sum(pool.num_gpus * kept for pool, kept in seconds) / 3600
        name = f"filter {one.digest[:8]}"
        parts.append((f"of them what {name} keeps", kept_gpu_h))
        parts.append((f"of them what {name} drops", effort.busy_gpu_h - kept_gpu_h))
    parts.append(("rest: failed, loading, idle", max(0.0, held - effort.busy_gpu_h)))
    parts.append(("all", held))
    if price is None:
        note = '<p class="note">Without a price: give <code>gpu_hour_price=</code>.</p>'
        rows = [[name, f"{hours:.3f}"] for name, hours in parts]
        return table("GPU-hours", ["what for", "GPU-hours"], rows) + note
    rows = [[name, f"{hours:.3f}", f"{hours * price:.2f}"] for name, hours in parts]
    caption = f"GPU-hours and cost at {price:g} a GPU-hour"
    html = table(caption, ["what for", "GPU-hours", "cost"], rows)
    if num_pairs:
        html += f"<p>A pair cost {held * price / num_pairs:.3g}."
        for one in drops:
            kept = sum(one.kept.values())
            if kept:
                html += (
                    f" A pair that filter {one.digest[:8]} keeps cost {held * price / kept:.3g}."
                )
        html += "</p>"
    return html


def _cost_a_pair(num_pairs: int, effort: Effort) -> float | None:
    held, price = effort.held_gpu_h, effort.gpu_hour_price
    return held * price / num_pairs if held and price is not None and num_pairs else None


def _rate(num_pairs: int, span_s: float | None) -> str:
    return f"{num_pairs / span_s:.2f}" if span_s else "not known"


def _folded(html: str) -> str:
    return f"<details><summary>The figures</summary>{html}</details>"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not known"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
