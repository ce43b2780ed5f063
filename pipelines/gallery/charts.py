"""Small charts as inline SVG: bars, and a line with a band; each has a name and a table beside it.

Pure: numbers in, markup out. Colours are classes of gallery.css, so that light and dark hold for
them too; no script, no style attribute, nothing loaded.

Limits: values of 0 or more; labels are thinned out to eight: on a phone they are larger.
"""

from collections.abc import Sequence
from html import escape
from math import ceil, log10

WIDTH, HEIGHT = 640, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 10, 34
_PLOT_WIDTH, _PLOT_HEIGHT = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
NUM_LABELS = 8


def bars(name: str, values: Sequence[float], labels: Sequence[str], axis: str) -> str:
    """One bar for each value, with its label below."""
    top = nice_top(max(values, default=0.0))
    step = _PLOT_WIDTH / max(1, len(values))
    every = max(1, ceil(len(values) / NUM_LABELS))
    marks: list[str] = []
    for at, (value, label) in enumerate(zip(values, labels, strict=True)):
        height = _PLOT_HEIGHT * value / top
        left = _LEFT + at * step
        y = _TOP + _PLOT_HEIGHT - height
        marks.append(
            f'<rect class="fill" x="{left + step * 0.08:.1f}" y="{y:.1f}" '
            f'width="{step * 0.84:.1f}" height="{height:.1f}"/>'
        )
        if at % every == 0:
            marks.append(_label(left + step / 2, label))
    return _chart(name, top, axis, marks)


def quartile_lines(
    name: str,
    quartiles: Sequence[tuple[float, float, float] | None],
    labels: Sequence[str],
    axis: str,
    top: float | None = None,
) -> str:
    """The median of each place as a line, in the band between the quartiles; None leaves a gap."""
    known = [one for one in quartiles if one is not None]
    top = top or nice_top(max((one[2] for one in known), default=0.0))
    step = _PLOT_WIDTH / max(1, len(quartiles))
    every = max(1, ceil(len(quartiles) / NUM_LABELS))

    def point(at: int, value: float) -> str:
        return f"{_LEFT + (at + 0.5) * step:.1f},{_TOP + _PLOT_HEIGHT * (1 - value / top):.1f}"

    places = [(at, one) for at, one in enumerate(quartiles) if one is not None]
    upper = [point(at, one[2]) for at, one in places]
    lower = [point(at, one[0]) for at, one in reversed(places)]
    middle = [point(at, one[1]) for at, one in places]
    marks = [
        f'<polygon class="band" points="{" ".join(upper + lower)}"/>',
        f'<polyline class="line" points="{" ".join(middle)}"/>',
    ]
    for one in middle:
        x, y = one.split(",")
        marks.append(f'<circle class="dot" cx="{x}" cy="{y}" r="3.5"/>')
    for at, label in enumerate(labels):
        if at % every == 0:
            marks.append(_label(_LEFT + (at + 0.5) * step, label))
    return _chart(name, top, axis, marks)


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same figures for who cannot see a chart, or wants to copy them."""
    head = "".join(f'<th scope="col">{escape(one)}</th>' for one in header)
    body = "".join(
        "<tr>"
        + f'<th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(one)}</td>" for one in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def folded(html: str) -> str:
    """Out of sight until it is asked for."""
    return f"<details><summary>The figures</summary>{html}</details>"


def note(html: str) -> str:
    """A paragraph that explains, in small print; `html` is markup already."""
    return f'<p class="note">{html}</p>'


def span(seconds: float | None) -> str:
    """`40 s`, `12 min`, `3.1 h`."""
    if seconds is None:
        return "not known"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def nice_top(value: float) -> float:
    """The end of an axis: 1, 2, 2.5 or 5 times a power of ten, not below `value`."""
    if value <= 0:
        return 1.0
    power = 10.0 ** (ceil(log10(value)) - 1)
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= value * (1 - 1e-9))


def _chart(name: str, top: float, axis: str, marks: Sequence[str]) -> str:
    bottom = _TOP + _PLOT_HEIGHT
    grid = "".join(
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        for value, y in ((0, bottom), (top / 2, _TOP + _PLOT_HEIGHT / 2), (top, _TOP))
    )
    caption = f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(axis)}</text>'
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(name)}">{grid}{"".join(marks)}{caption}</svg>'
    )


def _label(x: float, text: str) -> str:
    y = _TOP + _PLOT_HEIGHT + 15
    return f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{escape(text)}</text>'
