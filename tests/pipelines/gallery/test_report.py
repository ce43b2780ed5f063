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
from scene_run import SceneRun
from scored import add_columns
from story_run import StoryRun
from truths import measure_rounds

from cluster.config import from_dict
from pipelines.filters import FilterConfig, filter_run
from pipelines.gallery import GalleryConfig, build_gallery
from pipelines.gallery.charts import bars, nice_top, table
from pipelines.gallery.report_meaning import quantile
from pipelines.gallery.site import Site


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
    # thirteen pairs, and a row that was drawn once more and then failed to be described
    times = ["generator", "not known", "0", "6.5", "0.5"]
    assert rows[0] == [*times, "not known", "not known", "not known"]
    assert "nothing to price" in html
    cost = rows_of(html, "What it took, no filter, all pairs are kept")
    assert cost[0] == ["pairs that are kept", "9.8", "not known", "0.75"]
    assert cost[-1] == ["all", "not known", "not known", "not known"]


NO_FILTER = "What it took, no filter, all pairs are kept"
PARTS = [
    "pairs that are kept", "pairs that are dropped", "rows that failed, reckoned",
    "idle: loading, waiting", "all",
]  # fmt: skip


def test_cost_is_split_into_kept_dropped_failed_and_idle(run: StoryRun) -> None:
    set_pools(run)
    html = report(run, gpu_hour_price=3600.0)
    # nine commits 4 s apart: 32 s, two pools of two GPUs: 128 GPU-seconds at 1 a second
    found = rows_of(html, NO_FILTER)
    assert [row[0] for row in found] == PARTS
    assert [float(row[3]) for row in found] == [9.75, 0.0, 0.75, 117.5, 128.0]
    assert [row[4] for row in found] == ["0.75", "0", "0.0577", "9.04", "9.85"]  # of 13 pairs


def spend(run: StoryRun, name: str, is_over: bool = True, **gpu_s: float) -> None:
    record = {"format": 1, "gpu_s": gpu_s, "num_gpus": 0.0, "is_over": is_over}
    put_json(run.folder / f"spent/{name}.json", record)


def test_what_gpus_were_held_for_is_taken_from_all_attempts(run: StoryRun) -> None:
    set_pools(run)
    spend(run, "one", generator=20.0, captioner=10.0)
    spend(run, "two", generator=30.0, captioner=4.0, author=6.0)
    html = report(run, gpu_hour_price=3600.0)
    rows = rows_of(html, "Seconds of all replicas of a pool")
    assert rows[0] == ["generator", "2", "1", "6.5", "0.5", "43", "50", "14%"]
    assert rows[1] == ["captioner", "2", "1", "3.2", "0.2", "10", "14", "25%"]
    found = {row[0]: float(row[3]) for row in rows_of(html, NO_FILTER)}
    assert found["seeds that a model wrote"] == 6.0
    assert found["all"] == 70.0
    assert found["idle: loading, waiting"] == 70.0 - 6.0 - 9.75 - 0.75


def test_a_scorer_is_a_pool_like_the_others(run: StoryRun) -> None:
    pool = {"num_replicas": 1, "num_gpus": 0.5}
    set_pools(run, scorer={"backend": "clip"})
    record = json.loads((run.folder / "run.json").read_text())
    record["record"]["pools"]["scorer"] = pool
    put_json(run.folder / "run.json", record)
    add_columns(run.folder, [pa.field("score_s", pa.float64())], lambda row: {"score_s": 0.1})
    html = report(run, gpu_hour_price=3600.0)
    rows = rows_of(html, "Seconds of all replicas of a pool")
    assert rows[2][:5] == ["scorer", "1", "0.5", "1.3", "0.0"]
    assert float(rows_of(html, NO_FILTER)[0][3]) == 9.75 + 0.65


def test_chains_that_a_rule_stopped_are_told_with_what_that_saved(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    stops = frozenset({(0, 0), (1, 1)})
    run = StoryRun(folder=tmp_path / "run", stops=stops).write_all()
    set_pools(run)
    html = report(run)
    assert rows_of(html, "What became of the chains in each round")[2] == ["2", "2", "0", "3"]
    assert rows_of(html, "Chains that a rule stopped") == [["converged", "2"]]
    # .75 s a pair: two rounds of the one chain and one of the other
    assert "not grown for that: 3." in html
    assert "saved 2.2 s of the models, 2.2 GPU-seconds" in html


def test_what_was_foreseen_is_reckoned_from_the_commits(run: StoryRun) -> None:
    set_pools(run)
    found = rows_of(report(run), "The end as it was foreseen, in s after the begin")
    # Nine commits of 15 rows in 32 s; none is foreseen before the third.
    assert [row[0] for row in found] == [f"{at} s" for at in range(8, 33, 4)]
    assert found[-1] == ["32 s", "0 s", "32 s"]
    assert "Too few commits" in report(StoryRun(folder=_folder(run, "other")))


def _folder(run: StoryRun, name: str) -> Path:
    folder = run.folder.parent / name / "run"
    folder.mkdir(parents=True)
    return folder


def test_drift_of_whole_chains_is_their_mean_cumulative_drift(run: StoryRun) -> None:
    names = [f"{one}_similarity_{of}" for one in ("image", "text") for of in ("first", "previous")]
    fields = [pa.field(name, pa.float32()) for name in names]
    add_columns(
        run.folder,
        fields,
        lambda row: {
            "image_similarity_first": 1.0 - 0.2 * row["round_index"],
            "text_similarity_first": 1.0,
            "image_similarity_previous": 0.9 if row["round_index"] else None,
            "text_similarity_previous": 0.9 if row["round_index"] else None,
        },
    )
    found = rows_of(report(run), "Mean Cumulative Drift of the chains")
    # .8 and .6 in rounds 1 and 2 of four chains; the fifth has round 0 alone, and no drift
    assert found == [
        ["image", "0.700", "0.700", "0.700", "0.700", "4"],
        ["text", "1.000", "1.000", "1.000", "1.000", "4"],
    ]


def test_truth_is_told_of_runs_of_the_embedded_world_alone(tmp_path: Path) -> None:
    folder = tmp_path / "scenes" / "run"
    folder.mkdir(parents=True)
    run = SceneRun(folder=folder, num_seeds=6).write_all()
    html = report(run)
    found = rows_of(html, "Truth of the descriptions, by round")
    assert [row[0] for row in found] == ["round 0", "round 1", "round 2"]
    assert {row[5] for row in found} == {"6"}
    assert found[0][1:3] == ["1.000 +-0.000", "1.000 +-0.000"]
    expected = measure_rounds(run.pairs)
    assert float(found[2][4][:5]) == round(expected[2].rates["seed_recall"].value, 3) < 1
    head = Site(run.folder.parent / "gallery").get("head")
    assert head is not None
    assert head["seed_recall"] == [1.0, 1.0, round(expected[2].rates["seed_recall"].value, 4)]
    few = rows_of(report(run, num_truth_chains=2), "Truth of the descriptions, by round")
    assert {row[5] for row in few} == {"2"}
    other = StoryRun(folder=_folder(run, "other")).write_all()
    assert "Truth of the descriptions" not in report(other)


def test_the_price_of_the_run_is_used_where_none_is_given(run: StoryRun) -> None:
    set_pools(run, plan={"gpu_hour_price": 2.5})
    assert "cost at 2.5</th>" in report(run)


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
    cost = rows_of(html, f"What it took, with filter {digest}")
    assert [row[0] for row in cost] == PARTS
    assert [float(row[3]) for row in cost] == [6.0, 3.75, 0.75, 117.5, 128.0]
    assert [row[4] for row in cost][-1] == "16"  # 128 for the eight that are kept


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
