"""pipelines/gallery/build.py: the site says what was committed, however it came about."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from corrupt import put_json
from s3_servers import S3Server
from scored import add_columns
from slots import decode_slots
from story_run import FAILED_CHAIN, LOST, STORIES, StoryRun

from cluster.errors import CommitError
from cluster.storage import open_store
from pipelines import cli
from pipelines.gallery import GalleryConfig, build_gallery
from pipelines.gallery.site import Site

CONFIG = GalleryConfig(follow_s=0.1)


def build(run: StoryRun, dest: Path, **more: Any) -> Site:
    build_gallery(str(run.folder), str(dest), CONFIG, **more)
    return Site(dest)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def chains_of(site: Site) -> dict[str, Any]:
    pages = [site.get(f"units/{path.stem}") for path in site.folder.glob("data/units/*.js")]
    return {name: chain for page in pages for name, chain in (page or {})["chains"].items()}


@pytest.fixture
def run(tmp_path: Path) -> StoryRun:
    (tmp_path / "run").mkdir()
    return StoryRun(folder=tmp_path / "run").write_all()


def test_every_chain_is_there_with_its_rounds_and_its_verdict(
    run: StoryRun, tmp_path: Path
) -> None:
    chains = chains_of(build(run, tmp_path / "g"))
    told = [chains[run.chain_of(story)] for story in range(len(STORIES))]
    assert [one["status"] for one in told] == ["kept", "lost", "drifted", "lost", "failed"]
    assert [one["turning"] for one in told[:3]] == [None, 1, 2]
    assert [row["text"] for row in told[1]["rows"]] == list(STORIES[1][1:])
    assert [row["drift"] for row in told[1]["rows"]] == [0, 71, 71]
    broken = told[FAILED_CHAIN]["rows"]
    assert (broken[1]["reason"], broken[1]["picture"][1:]) == ("engine_error", [48, 48])
    assert "describe" in told[FAILED_CHAIN]["head"]


def test_a_chain_that_began_anew_is_judged_by_its_fresh_description(
    run: StoryRun, tmp_path: Path
) -> None:
    """As `inject` leaves it: from a round on the pairs have another seed and go back to that."""
    chain_id = run.chain_of(1)  # loses its meaning in round 1
    fresh = LOST[2]
    field = pa.field("seed", pa.string())

    def seed_of(row: dict[str, Any]) -> dict[str, Any]:
        is_fresh = row["chain_id"] == chain_id and row["round_index"] > 0
        return {"seed": fresh if is_fresh else row["seed"]}

    add_columns(run.folder, [field], seed_of)
    chain = chains_of(build(run, tmp_path / "g"))[chain_id]
    assert (chain["seed"], chain["status"]) == (LOST[0], "kept")
    assert [row.get("seed") for row in chain["rows"]] == [None, fresh, None]
    assert [row["drift"] for row in chain["rows"]] == [0, 0, 0]
    assert "began anew once" in chain["why"]


def test_every_picture_that_a_page_names_is_there(run: StoryRun, tmp_path: Path) -> None:
    site = build(run, tmp_path / "g")
    for path in site.folder.glob("data/units/*.js"):
        page = site.get(f"units/{path.stem}")
        assert page is not None
        for sheet in page["sheets"].values():
            for file in sheet["files"]:
                assert (site.folder / "pictures" / file[:4] / file).is_file()


def test_the_index_finds_what_the_pages_hold(run: StoryRun, tmp_path: Path) -> None:
    site = build(run, tmp_path / "g")
    index, words = site.get("index/00000"), site.get("words/00000-g")
    assert index is not None
    assert words is not None
    assert (index["status"].count("l"), sum(index["rows"])) == (2, len(STORIES))
    slot = decode_slots(words["green"])
    place = [unit * 2 + row for unit, num in zip(index["units"], index["rows"], strict=True)
             for row in range(num)].index(slot[0])  # fmt: skip
    assert (len(slot), index["status"][place]) == (1, "l")


def test_the_same_commits_are_the_same_bytes_however_they_came(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = StoryRun(folder=tmp_path / "run")
    run.write_unit(1, until=1)
    build(run, tmp_path / "grown")
    run.write_unit(1)
    run.write_unit(2, until=2)
    build(run, tmp_path / "grown")
    run.write_unit(0)
    run.write_unit(2)
    build(run, tmp_path / "grown")
    build(run, tmp_path / "whole")
    grown, whole = tree(tmp_path / "grown"), tree(tmp_path / "whole")
    assert grown == whole


def test_only_new_commits_are_read(run: StoryRun, tmp_path: Path) -> None:
    """What was shown once is shown on, though its rows are gone from the disk."""
    build(run, tmp_path / "g")
    for path in run.folder.glob("data/round=*/*.parquet"):
        path.unlink()
    built = build_gallery(str(run.folder), str(tmp_path / "g"), CONFIG)
    assert (built.num_new_commits, built.num_pairs) == (0, 13)


def test_rows_that_were_made_anew_take_the_place_of_the_old_ones(
    run: StoryRun, tmp_path: Path
) -> None:
    build(run, tmp_path / "g")
    field = pa.field("clip_similarity", pa.float32())
    add_columns(run.folder, [field], lambda row: {"clip_similarity": 0.25})
    site = build(run, tmp_path / "g")
    rows = [row for chain in chains_of(site).values() for row in chain["rows"] if "text" in row]
    assert {row["scores"]["clip_similarity"] for row in rows} == {0.25}
    assert (site.get("head") or {})["scores"] == ["clip_similarity"]
    build(run, tmp_path / "whole")
    assert tree(tmp_path / "g") == tree(tmp_path / "whole")


def test_a_replay_takes_the_place_of_what_failed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = StoryRun(folder=tmp_path / "run").write_all()
    before = build_gallery(str(run.folder), str(tmp_path / "g"), CONFIG)
    run.write_replay(2, 1, 1, [FAILED_CHAIN])
    after = build_gallery(str(run.folder), str(tmp_path / "g"), CONFIG)
    assert (before.num_pairs, after.num_pairs, after.is_finished) == (13, 15, True)
    chain = chains_of(Site(tmp_path / "g"))[run.chain_of(FAILED_CHAIN)]
    assert chain["status"] != "failed"
    assert [row["round_index"] for row in chain["rows"]] == [0, 1, 2]


def test_following_shows_more_while_the_run_is_on_and_ends_with_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = StoryRun(folder=tmp_path / "run")
    run.write_unit(0)
    record = json.loads((run.folder / "run.json").read_text())
    record["record"]["pools"] = {"generator": {"num_replicas": 1, "num_gpus": 1.0}}
    put_json(run.folder / "run.json", record)
    follower = threading.Thread(
        target=build, args=(run, tmp_path / "g"), kwargs={"is_following": True}
    )
    follower.start()
    head = tmp_path / "g" / "data" / "head.js"
    deadline = time.monotonic() + 20
    while not head.is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    early = Site(tmp_path / "g").get("head")
    assert early is not None
    assert (early["num_chains"], early["is_finished"]) == (2, False)
    store = open_store(str(run.folder))  # which replaces a file whole
    spent = {"format": 1, "gpu_s": {"generator": 4.0}, "num_gpus": 1.0, "is_over": False}
    store.put("spent/a.json", json.dumps(spent).encode())
    run.write_unit(1)
    run.write_unit(2)
    follower.join(timeout=1)
    assert follower.is_alive(), "what the attempt held in the end is not on record yet"
    last = spent | {"gpu_s": {"generator": 5432.0}, "is_over": True}
    store.put("spent/a.json", json.dumps(last).encode())
    follower.join(timeout=20)
    assert not follower.is_alive()
    late = Site(tmp_path / "g").get("head")
    assert late is not None
    assert (late["num_chains"], late["is_finished"]) == (5, True)
    assert "5,432" in (tmp_path / "g" / "report.html").read_text()


def test_a_reader_never_sees_half_a_file_while_the_site_grows(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = StoryRun(folder=tmp_path / "run", num_seeds=20)
    run.write_unit(0)
    build(run, tmp_path / "g")
    broken: list[str] = []
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            for path in (tmp_path / "g").rglob("*.js"):
                text = path.read_text()
                if path.parts[-2] != "assets" and not text.endswith(");\n"):
                    broken.append(str(path))

    reader = threading.Thread(target=read)
    reader.start()
    for index in range(1, 10):
        run.write_unit(index)
        build(run, tmp_path / "g")
    is_over.set()
    reader.join()
    assert broken == []


def test_a_run_that_has_committed_nothing_yet_has_a_gallery(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = StoryRun(folder=tmp_path / "run")
    head = build(run, tmp_path / "g").get("head")
    assert head is not None
    assert (head["num_chains"], head["segments"], head["is_finished"]) == (0, [], False)
    assert "Nothing is committed yet" in (tmp_path / "g" / "report.html").read_text()


def test_damaged_rows_are_an_error_that_names_the_file(run: StoryRun, tmp_path: Path) -> None:
    path = next(run.folder.glob("data/round=1/*.parquet"))
    path.write_bytes(b"damaged")
    with pytest.raises(CommitError, match=path.name):
        build(run, tmp_path / "g")


def test_the_command_line_puts_it_beside_the_run(
    run: StoryRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["gallery", str(run.folder), "thumbnail_px=32", "--json"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert json.loads(said[-1])["num_pairs"] == 13
    assert (run.folder / "gallery" / "index.html").is_file()
    assert (run.folder / "gallery" / "report.html").is_file()
    assert cli.main(["gallery", str(run.folder), "--follow", str(run.folder / "other")]) == 0
    assert (run.folder / "other" / "index.html").is_file()
    assert cli.main(["gallery", str(run.folder), "thumbnail=32"]) == 2
    assert cli.main(["gallery", str(run.folder), "a", "b"]) == 2
    assert cli.main(["gallery", str(run.folder / "nowhere")]) == 2


def test_a_run_on_object_storage_needs_a_place(
    run: StoryRun, moto_s3: S3Server, tmp_path: Path
) -> None:
    from cluster.storage import open_store

    store = open_store(moto_s3.uri)
    for path in run.folder.rglob("*"):
        if path.is_file():
            store.put(str(path.relative_to(run.folder)), path.read_bytes())
    with pytest.raises(ValueError, match="name one for the gallery"):
        build_gallery(moto_s3.uri, None, CONFIG)
    with pytest.raises(ValueError, match="must be a local folder"):
        build_gallery(moto_s3.uri, "s3://bucket/gallery", CONFIG)
    assert build_gallery(moto_s3.uri, str(tmp_path / "g"), CONFIG).num_pairs == 13
