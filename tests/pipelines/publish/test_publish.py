"""pipelines/publish: what is written, where it may be written, and what a kill leaves of it."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from corrupt import RunWriter, put_json
from publishing import check_manifest, config_of, die_publishing, publish_run, tree

from cluster.errors import CommitError, PairloomError, RunMismatchError
from cluster.storage import open_store
from pipelines import cli
from pipelines.filters import filter_run
from pipelines.publish import describe_published, publish

FORMATS = ("parquet", "webdataset", "llava", "folder")


def rows_of(dest: Path, split: str = "*") -> list[dict[str, Any]]:
    paths = sorted(dest.glob(f"data/{split}-*.parquet"))
    return [row for path in paths for row in pq.read_table(path, partitioning=None).to_pylist()]


def test_every_committed_pair_is_published_once_and_orphans_are_not(
    run: RunWriter, tmp_path: Path
) -> None:
    orphan = next((run.folder / "data/round=0").iterdir())
    (orphan.parent / "0000000-ffffffff-0123456789abcdef.parquet").write_bytes(orphan.read_bytes())
    published = publish_run(run, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    failed = {(2, 1), (2, 2), (5, 0), (5, 1), (5, 2)}
    expected = {
        f"{run.chain_ids[chain]}-{r:03d}"
        for chain in range(40)
        for r in range(3)
        if (chain, r) not in failed
    }
    assert len(rows) == published.num_pairs == sum(published.splits.values()) == 115
    assert {row["pair_id"] for row in rows} == expected


def test_the_manifest_states_every_file(run: RunWriter, tmp_path: Path) -> None:
    for name in FORMATS:
        published = publish_run(run, tmp_path / name, f"format={name}")
        files = tree(tmp_path / name)
        manifest = check_manifest(files)
        assert published.num_files == len(files)
        assert manifest["run"]["fingerprint"] == run.fingerprint
        assert sum(manifest["splits"].values()) == 115


def test_splits_share_no_chain_and_do_not_depend_on_the_filter(
    run: RunWriter, tmp_path: Path
) -> None:
    publish_run(run, tmp_path / "all")
    publish_run(run, tmp_path / "some", "filter.rounds=[0]")
    train, validation = (
        {row["chain_id"] for row in rows_of(tmp_path / "all", split)}
        for split in ("train", "validation")
    )
    assert not train & validation
    assert len(train) + len(validation) == 39
    fewer = {row["chain_id"] for row in rows_of(tmp_path / "some", "validation")}
    assert fewer == validation != set()
    publish_run(run, tmp_path / "train", "validation_share=0")
    assert len(rows_of(tmp_path / "train", "train")) == 115


def test_what_a_filter_drops_is_named_with_its_reasons(run: RunWriter, tmp_path: Path) -> None:
    words = ("filter.rounds=[0,1]", "filter.words.min=8")
    with pytest.raises(ValueError, match="no pair of 115 is kept"):
        publish_run(run, tmp_path / "none", *words)
    published = publish_run(run, tmp_path / "out", "filter.rounds=[0,1]")
    dropped = pq.read_table(tmp_path / "out" / "dropped.parquet").to_pylist()
    assert {row["reason"] for row in dropped} == {"round"}
    assert len(dropped) == published.num_dropped == 38
    assert {row["pair_id"] for row in dropped}.isdisjoint(
        row["pair_id"] for row in rows_of(tmp_path / "out")
    )
    report = filter_run(str(run.folder), config_of("filter.rounds=[0,1]").filter)
    assert report.num_dropped == published.num_dropped


def test_a_second_publish_finds_the_first_whole(run: RunWriter, tmp_path: Path) -> None:
    first = publish_run(run, tmp_path / "out")
    files = tree(tmp_path / "out")
    again = publish_run(run, tmp_path / "out")
    assert (first.is_new, again.is_new) == (True, False)
    assert "nothing was written" in describe_published(again)
    assert tree(tmp_path / "out") == files


def test_a_place_of_something_else_is_refused(run: RunWriter, tmp_path: Path) -> None:
    publish_run(run, tmp_path / "out")
    with pytest.raises(RunMismatchError, match=r"filter\.rounds: null -> \[0\]"):
        publish_run(run, tmp_path / "out", "filter.rounds=[0]")
    (tmp_path / "other").mkdir()
    other = RunWriter(folder=tmp_path / "other", num_seeds=5)
    for index in range(len(other.units)):
        other.write_unit(index)
    with pytest.raises(RunMismatchError, match="another place"):
        publish_run(other, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="not empty"):
        publish_run(run, tmp_path / "mine")
    with pytest.raises(ValueError, match="not empty"):
        publish_run(run, run.folder)


def test_a_run_that_is_not_finished_is_published_on_demand_only(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = RunWriter(folder=tmp_path / "run", num_seeds=8)
    run.write_unit(0)
    spent = {"format": 1, "gpu_s": {"generator": 7200.0}, "num_gpus": 1.0, "is_over": False}
    put_json(run.folder / "spent/a.json", spent)
    with pytest.raises(PairloomError, match="is_partial=true"):
        publish_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    publish_run(run, tmp_path / "out", "is_partial=true")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "This is a part" in card
    assert "came to 2 GPU-hours" in card
    whole = tree(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / "README.md").unlink()
    # The run goes on, and its cost; the publish stays with what it was begun with.
    run.write_unit(1)
    put_json(run.folder / "spent/a.json", spent | {"gpu_s": {"generator": 9000.0}})
    publish_run(run, tmp_path / "out", "is_partial=true")
    assert tree(tmp_path / "out") == whole


def test_a_damaged_file_of_the_run_is_never_published(run: RunWriter, tmp_path: Path) -> None:
    path = sorted((run.folder / "data/round=1").iterdir())[-1]
    data = bytearray(path.read_bytes())
    at = data.index(b"\x89PNG")
    data[at + 20] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CommitError, match=path.name):
        publish_run(run, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_commits_that_were_made_anew_since_are_refused(run: RunWriter, tmp_path: Path) -> None:
    publish_run(run, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    path = next(run.folder.glob("receipts/*/2.json"))
    path.unlink()
    with pytest.raises((CommitError, PairloomError)):
        publish_run(run, tmp_path / "out", "is_partial=false")


@pytest.mark.parametrize(
    "name", ["parquet", *(pytest.param(one, marks=pytest.mark.slow) for one in FORMATS[1:])]
)
def test_after_a_kill_at_any_store_call_the_same_command_makes_the_same_bytes(
    run: RunWriter, tmp_path: Path, name: str
) -> None:
    """Killed before or after calls that are spread over the whole publish."""
    words = (f"format={name}", "filter.rounds=[0]", "shard_bytes=8000")
    publish_run(run, tmp_path / "whole", *words)
    whole = tree(tmp_path / "whole")
    step = {"parquet": 4, "webdataset": 9}.get(name, 23)
    crash_at, num_kills = 6, 0  # the first calls are the probe of the store
    while True:
        dest = tmp_path / f"killed{crash_at}"
        mode = ("before", "after")[num_kills % 2]
        code = die_publishing(str(run.folder), str(dest), words, crash_at, mode)
        assert code in (0, -9)
        if code == 0:
            break
        num_kills += 1
        assert not (dest / "manifest.json").exists() or tree(dest).items() >= whole.items()
        (dest / ".tmp").mkdir(exist_ok=True)
        (dest / ".tmp" / "0123").write_bytes(b"half of a shard")
        publish_run(run, dest, *words)
        assert tree(dest) == whole
        crash_at += step
    assert num_kills >= 2


def test_a_run_on_s3_is_published_to_s3(run: RunWriter, tmp_path: Path, moto_s3: Any) -> None:
    store = open_store(f"{moto_s3.uri}/run")
    for path in [one for one in run.folder.rglob("*") if one.is_file()]:
        store.put(str(path.relative_to(run.folder)), path.read_bytes())
    dest = f"{moto_s3.uri}/out"

    def objects() -> dict[str, bytes]:
        found = moto_s3.objects()
        return {
            name.removeprefix("out/"): data
            for name, data in found.items()
            if name.startswith("out/")
        }

    publish(f"{moto_s3.uri}/run", dest, config_of())
    whole = objects()
    publish_run(run, tmp_path / "here")
    assert whole == tree(tmp_path / "here")
    there = open_store(dest)
    for key in ("manifest.json", sorted(whole)[3]):
        there.delete(key)
    publish(f"{moto_s3.uri}/run", dest, config_of())
    assert objects() == whole


def test_the_command_line_publishes(
    run: RunWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = str(tmp_path / "out")
    assert cli.main(["publish", str(run.folder), dest, "filter.rounds=[0]", "--json"]) == 0
    page, _, line = capsys.readouterr().out.strip().rpartition("\n")
    assert "README.md" in page
    assert json.loads(line)["num_pairs"] == 39
    assert cli.main(["publish", str(run.folder), dest]) == 1
    assert "another config" in capsys.readouterr().err
    assert cli.main(["publish", str(run.folder), dest, "format=zip"]) == 2
