"""pipelines/gallery/report.py: figures that add up, and no more than the records say."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from corrupt import put_json
from hypothesis import given
from hypothesis import strategies as st
from scored import add_columns
from story_run import StoryRun

from cluster.config import from_dict
from pipelines.filters import FilterConfig, filter_run
from pipelines.gallery import GalleryConfig, build_gallery
from pipelines.gallery.charts import bars, nice_top, table
from pipelines.gallery.report import quantile


@pytest.fixture
def run(tmp_path: Path) -> StoryRun:
    (tmp_path / "run").mkdir()
    return StoryRun(folder=tmp_path / "run").write_all()


def report(run: StoryRun, **config: Any) -> str:
    dest = run.folder.parent / "gallery"
    build_gallery(str(run.folder), str(dest), GalleryConfig(**config))
    return (dest / "report.html").read_text()


def rows_of(html: str, caption: str) -> list[list[str]]:
    """The body of the table with a caption, as text."""
    body = html.partition(f"<caption>{caption}</caption>")[2].partition("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", body.partition("<tbody>")[2])
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def set_pools(run: StoryRun, **more: Any) -> None:
    path = run.folder / "run.json"
    record = json.loads(path.read_text())
    pool = {"num_replicas": 2, "num_gpus": 1.0}
    record["record"] |= {"pools": {"generator": pool, "captioner": pool}, **more}
    put_json(path, record)
    for at, receipt in enumerate(sorted(run.folder.glob("receipts/*/*.json"))):
        old = json.loads(receipt.read_text())
        put_json(receipt, old | {"committed_at": f"2026-01-02T00:00:{at * 4:02d}.000000+00:00"})


def test_the_funnel_counts_what_became_of_every_chain(run: StoryRun) -> None:
    html = report(run)
    assert rows_of(html, "What became of the chains in each round") == [
        ["0", "5", "0", "0"], ["1", "4", "1", "0"], ["2", "4", "0", "1"],
    ]  # fmt: skip
    assert rows_of(html, "Error rows that nothing has replaced, by reason") == [
        ["engine_error", "1"]
    ]
    assert "These pairs have no scores" in html
    assert "No filter has judged" in html


def test_what_was_replayed_is_no_error_any_more(run: StoryRun) -> None:
    run.write_replay(2, 1, 1, [4])
    assert "No row failed." in report(run)


def test_drift_has_median_and_quartiles_by_round(run: StoryRun) -> None:
    found = rows_of(report(run), "Drift by round: median and quartiles, percent")
    # four chains in round 1: 0, 0, 71 and the hostile one
    assert found[1][0] == "round 1"
    assert [found[1][at] for at in (1, 4)] == ["0", "4"]


def test_without_pools_in_the_record_time_is_not_known(run: StoryRun) -> None:
    html = report(run)
    rows = rows_of(html, "Seconds of all replicas of a pool")
    assert rows[0] == ["generator", "not known", "0", "6.5", "not known", "not known", "not known"]
    assert "no GPU-hours to price" in html


def test_cost_is_split_into_pairs_and_the_rest(run: StoryRun) -> None:
    set_pools(run)
    html = report(run, gpu_hour_price=3600.0)
    # nine commits 4 s apart: 32 s, two pools of two GPUs: 128 GPU-seconds at 1 a second
    found = rows_of(html, "GPU-hours and cost at 3600 a GPU-hour")
    assert [row[0] for row in found] == ["pairs", "rest: failed, loading, idle", "all"]
    assert [float(row[2]) for row in found] == [9.75, 118.25, 128.0]
    assert "A pair cost 9.85" in html


def test_the_price_of_the_run_is_used_where_none_is_given(run: StoryRun) -> None:
    set_pools(run, plan={"gpu_hour_price": 2.5})
    assert "GPU-hours and cost at 2.5 a GPU-hour" in report(run)


def test_filters_and_scores_that_are_there_are_told(run: StoryRun) -> None:
    set_pools(run)
    field = pa.field("clip_similarity", pa.float32())
    add_columns(run.folder, [field], lambda row: {"clip_similarity": 0.1 + row["round_index"] / 10})
    keep = from_dict(FilterConfig, {}, "of the test", ["clip_similarity.min=0.2"])
    digest = filter_run(str(run.folder), keep).digest[:8]
    html = report(run, gpu_hour_price=3600.0)
    assert f"kept by filter {digest}" in html
    found = rows_of(html, "What became of the chains in each round")
    assert [row[4] for row in found] == ["0", "4", "4"]
    assert rows_of(html, "Pairs that it drops, by their first reason") == [
        ["clip_similarity_low", "5"]
    ]
    assert [row[2] for row in rows_of(html, "clip similarity by round")] == ["0.1", "0.2", "0.3"]
    assert rows_of(html, f"Seconds on pairs that filter {digest} keeps and drops") == [
        ["generator", "4.0", "2.5"],
        ["captioner", "2.0", "1.2"],
    ]
    cost = rows_of(html, "GPU-hours and cost at 3600 a GPU-hour")
    assert [float(row[2]) for row in cost] == [9.75, 6.0, 3.75, 118.25, 128.0]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "rect", "line", "circle", "polygon", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag


def test_the_page_is_well_formed_and_a_hostile_name_stays_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "<script>alert(1)<"
    folder.mkdir()
    run = StoryRun(folder=folder).write_all()
    html = report(run)
    tags = _Tags()
    tags.feed(html)
    assert tags.open == []
    assert "<script>alert" not in html


@given(st.dictionaries(st.integers(0, 100), st.integers(1, 50), min_size=1))
def test_a_quantile_is_that_of_the_values_behind_the_histogram(counts: dict[int, int]) -> None:
    values = sorted(value for value, number in counts.items() for _ in range(number))
    histogram = {str(value): number for value, number in counts.items()}
    for share in (0.25, 0.5, 0.75, 1.0):
        found = quantile(histogram, share)
        assert sum(value <= found for value in values) >= share * len(values)
        assert sum(value < found for value in values) < share * len(values)


@given(st.floats(1e-6, 1e9))
def test_an_axis_ends_above_its_values_and_not_far(value: float) -> None:
    assert value * (1 - 1e-6) <= nice_top(value) <= 2.5 * value


def test_charts_and_tables_escape_what_they_are_given() -> None:
    for html in (bars("<b>", [1.0], ["<i>"], "<u>"), table("<b>", ["<i>"], [["<u>", "&"]])):
        assert not re.search(r"<[biu]>", html)
