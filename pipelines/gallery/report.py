"""The run report, a page of the gallery: what became of the rows, what time and cost, what meaning.

Everything on it is counted from commits or taken from the run record and `spent/`; what they do not
say is reckoned, and said to be, or said to be unknown. Charts have their figures in a table below
them. Throughput, time and cost are `report_time.py`; drift, truth and scores `report_meaning.py`.

Limits: one page for the whole run; it is written anew with every refresh that saw a commit.
"""

from collections.abc import Sequence
from html import escape
from string import Template
from typing import Any

from actors.records import is_replay
from cluster.ledger import Ledger
from pipelines.gallery.charts import bars, note, span, table
from pipelines.gallery.drops import Drops, read_drops
from pipelines.gallery.effort import Effort, reckon, reckon_spared, split
from pipelines.gallery.report_meaning import show_drift, show_scores, show_truth
from pipelines.gallery.report_time import show_cost, show_foresight, show_throughput, show_time
from pipelines.gallery.site import Site, read_static
from pipelines.gallery.summary import Overview


def write_report(site: Site, ledger: Ledger, overview: Overview) -> None:
    """Writes `report.html`."""
    drops = read_drops(ledger)
    effort = reckon(overview)
    parts = [
        f"<h1>{escape(overview.name)}: run report</h1>",
        _state(overview),
        _figures(overview, effort, drops),
        _funnel(overview, drops),
        _stops(overview, effort),
        _errors(overview),
        show_drift(overview),
        show_truth(overview),
        show_scores(overview),
        show_throughput(overview),
        show_foresight(overview),
        show_time(effort),
        show_cost(overview, effort, drops),
    ]
    page = Template(read_static("report.html").decode())
    html = page.substitute(title=escape(overview.name), body="\n".join(parts))
    site.write("report.html", html.encode())


def _state(overview: Overview) -> str:
    record = overview.record
    state = "finished" if overview.is_finished else "not finished"
    return note(
        f"{escape(record['mode'])} over {record['num_rounds']} rounds, begun "
        f"{escape(overview.run['started_at'])}, {state}. Commits read: "
        f"{len(overview.sums['commits'])}."
    )


def _figures(overview: Overview, effort: Effort, drops: Sequence[Drops]) -> str:
    sums = overview.sums
    num_pairs = sums.get("num_pairs", 0)
    errors = sum(one["errors"] for one in sums["commits"])
    found = [
        ("Pairs", f"{num_pairs:,}"),
        ("Chains", f"{sums.get('num_chains', 0):,}"),
        ("Error rows", f"{errors:,}"),
        ("Begin to last commit", span(effort.span_s)),
        ("Pairs a second", f"{num_pairs / effort.span_s:.2f}" if effort.span_s else "not known"),
    ]
    for one in drops:
        name = f" {one.digest[:8]}" if len(drops) > 1 else ""
        found.append((f"Kept by the filter{name}", f"{sum(one.kept.values()):,}"))
    whole = split(effort).whole
    if whole and effort.gpu_hour_price is not None and effort.has_gpus and num_pairs:
        cost = whole / 3600 * effort.gpu_hour_price / num_pairs
        found.append(("Cost of a pair", f"{cost:.3g}"))
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in found)
    return f'<dl class="figures">{items}</dl>'


def _funnel(overview: Overview, drops: Sequence[Drops]) -> str:
    rounds = range(overview.record["num_rounds"])
    commits: list[dict[str, Any]] = overview.sums["commits"]
    header = ["round", "pairs", "failed in it", "not grown: failed or stopped before"]
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
        html += f"<h3>Filter {one.digest[:8]}</h3>" + note(escape(one.asked))
        html += table("Pairs that it drops, by their first reason", ["reason", "pairs"], reasons)
    return html if drops else html + note("No filter has judged these commits.")


def _stops(overview: Overview, effort: Effort) -> str:
    """What the rules of `stop` have done; nothing where there are none."""
    asked: dict[str, Any] = overview.record.get("stop") or {}
    spared = reckon_spared(overview, effort)
    if not spared.chains and not any(asked.get(name) for name in _RULES):
        return ""
    rows = [[rule, f"{number:,}"] for rule, number in spared.chains.items()]
    html = "<h2>Early stop</h2>"
    if not rows:
        return html + "<p>No rule has stopped a chain.</p>"
    gpus = f", {spared.gpu_s:,.1f} GPU-seconds" if effort.has_gpus else ""
    return (
        html
        + table("Chains that a rule stopped", ["rule", "chains"], rows)
        + f"<p>Rows that were not grown for that: {spared.num_rows:,}. At what a pair took on the "
        f"average this saved {spared.model_s:,.1f} s of the models{gpus}.</p>"
    )


# Fields of `StopConfig` that are rules.
_RULES = (
    "is_looping",
    "collapsed_below",
    "drifted_image_below",
    "drifted_text_below",
    "converged_from",
)


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
    told = note(f"{replays} units were replays of failed chains.") if replays else ""
    if not rows:
        return f"<h2>Errors</h2><p>No row failed.</p>{told}"
    caption = "Error rows that nothing has replaced, by reason"
    return f"<h2>Errors</h2>{table(caption, ['reason', 'rows'], rows)}{told}"
