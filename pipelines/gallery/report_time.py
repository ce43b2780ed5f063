"""The part of the run report about time and money: throughput, ETA, what GPUs went into.

Limits: as `effort.py`.
"""

from collections.abc import Sequence

from pipelines.gallery.charts import bars, folded, note, quartile_lines, span, table
from pipelines.gallery.drops import Drops
from pipelines.gallery.effort import Effort, Split, commit_times, foresee, split
from pipelines.gallery.summary import Overview

# The widths that a bar of the timeline may have, seconds.
BIN_WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
MAX_BINS = 60


def show_throughput(overview: Overview) -> str:
    """Pairs over time."""
    times = commit_times(overview)
    if not times:
        return "<h2>Throughput</h2><p>Nothing is committed yet.</p>"
    width = _bin_width(times[-1][0])
    counts = [0] * (int(times[-1][0] // width) + 1)
    for at, pairs in times:
        counts[int(at // width)] += pairs
    labels = [span(at * width) for at in range(len(counts))]
    total = 0
    rows: list[list[str]] = []
    for label, number in zip(labels, counts, strict=True):
        total += number
        rows.append([label, f"{number:,}", f"{number / width:.2f}", f"{total:,}"])
    name = f"Pairs committed in every {span(width)} since the run began"
    return (
        f"<h2>Throughput</h2><p>{name}. Until the first commit the models are loaded; pauses "
        "between attempts are in it.</p>"
        + bars(name, [float(one) for one in counts], labels, "since the begin")
        + folded(table(name, ["from", "pairs", "a second", "so far"], rows))
    )


def show_foresight(overview: Overview) -> str:
    """When the end was foreseen for, over time: a good forecast is a level line."""
    found = foresee(overview)
    if not found:
        return "<h3>ETA</h3>" + note("Too few commits to reckon what was left.")
    width = _bin_width(found[-1][0])
    last = {int(at // width): (at, left) for at, left in found}  # of each bin the last
    ends = [last.get(at) for at in range(int(found[-1][0] // width) + 1)]
    labels = [span(at * width) for at in range(len(ends))]
    unit, scale = ("min", 60.0) if max(sum(one) for one in found) >= 300 else ("s", 1.0)
    values = [None if one is None else sum(one) / scale for one in ends]
    lines = [None if value is None else (value, value, value) for value in values]
    name = f"The end as it was foreseen, in {unit} after the begin"
    rows = [[span(at), span(left), span(at + left)] for at, left in last.values()]
    return (
        f"<h3>ETA</h3><p>When the run was foreseen to end, in {unit} after its begin, reckoned at "
        "every commit as its display does: from the rows of the last minutes. A forecast that "
        "holds is a level line.</p>"
        + quartile_lines(name, lines, labels, "since the begin")
        + folded(table(name, ["at", "left", "end"], rows))
    )


def _bin_width(end_s: float) -> int:
    return next((one for one in BIN_WIDTHS_S if end_s / one <= MAX_BINS), BIN_WIDTHS_S[-1])


def show_time(effort: Effort) -> str:
    """Each pool: what it was held for, and what it did in it."""
    rows: list[list[str]] = []
    for one in effort.pools:
        share = "not known" if one.busy_share is None else f"{one.busy_share:.0%}"
        times = [_seconds(one.idle_s), _seconds(one.held_s)]
        num = "not known" if one.num_replicas is None else str(one.num_replicas)
        busy = [f"{one.pair_s:,.1f}", f"{one.failed_s:,.1f}"]
        rows.append([one.name, num, f"{one.num_gpus:g}", *busy, *times, share])
    header = ["pool", "replicas", "GPUs each", "on pairs, s", "on failed rows, s", "idle, s"]
    header += ["held, s", "busy"]
    is_measured = any(one.is_measured for one in effort.pools)
    held = (
        "counted while the run was on, over all its attempts"
        if is_measured
        else "from the begin of the run to its last commit, pauses between attempts included, with "
        "the replicas that it was begun with"
    )
    return (
        "<h2>Time and cost</h2>"
        + table("Seconds of all replicas of a pool", header, rows)
        + note(
            "On failed rows: their calls, each reckoned as long as one of a pair; they are not "
            f"timed. Held: {held}. Idle is the rest: loading, and waiting for work."
        )
    )


def _seconds(value: float | None) -> str:
    return "not known" if value is None else f"{value:,.0f}"


def show_cost(overview: Overview, effort: Effort, drops: Sequence[Drops]) -> str:
    """What everything went into: for each filter, or for a run of which all is kept."""
    num_pairs = overview.sums.get("num_pairs", 0)
    tables = [
        _cost_table(
            f"with filter {one.digest[:8]}", effort, split(effort, one.kept_s), _total(one.kept)
        )
        for one in drops
    ] or [_cost_table("no filter, all pairs are kept", effort, split(effort), num_pairs)]
    html = "".join(tables)
    if not effort.has_gpus:
        return html + note("The pools of this run asked for no GPU: there is nothing to price.")
    if effort.gpu_hour_price is None:
        return html + note("Without a price: give <code>gpu_hour_price=</code>.")
    return html


def _total(counts: dict[int, int]) -> int:
    return sum(counts.values())


def _cost_table(of: str, effort: Effort, found: Split, num_kept: int) -> str:
    """GPU-hours, or seconds of replicas; money where there is a price; and a kept pair's share."""
    price = effort.gpu_hour_price if effort.has_gpus else None
    scale, unit = (3600.0, "GPU-hours") if effort.has_gpus else (1.0, "replica-seconds")
    parts = [
        ("pairs that are kept", found.kept),
        ("pairs that are dropped", found.dropped),
        ("rows that failed, reckoned", found.failed),
        *([("seeds that a model wrote", found.seeds)] if found.seeds else []),
        ("idle: loading, waiting", found.idle),
        ("all", found.whole),
    ]
    rows = [[name, *_amounts(value, found.whole, scale, price, num_kept)] for name, value in parts]
    money = [] if price is None else [f"cost at {price:g}"]
    each = "GPU-seconds" if effort.has_gpus else "seconds"
    share = f"{each} a kept pair" if price is None else "cost a kept pair"
    return table(f"What it took, {of}", ["what for", unit, "share", *money, share], rows)


def _amounts(
    value: float | None, whole: float | None, scale: float, price: float | None, num_kept: int
) -> list[str]:
    if value is None:
        return ["not known"] * (3 if price is None else 4)
    amount = f"{value / scale:,.3f}" if scale > 1 else f"{value:,.1f}"
    share = f"{value / whole:.1%}" if whole else "not known"
    worth = value if price is None else value / 3600 * price
    a_pair = f"{worth / num_kept:.3g}" if num_kept else "no pair is kept"
    return [amount, share, *([] if price is None else [f"{worth:,.2f}"]), a_pair]
