"""pipelines/lineage: which chain a pair belongs to, and what is shown of it."""

import json
from pathlib import Path

import pytest
from corrupt import RunWriter
from story_run import FAILED_CHAIN, FAILED_ROUND, LOST, StoryRun

from pipelines import cli
from pipelines.lineage import chain_to_dict, describe_chain, find_chain


@pytest.fixture
def story(tmp_path: Path) -> StoryRun:
    return StoryRun(folder=tmp_path).write_all()


def test_a_pair_is_shown_with_its_whole_chain(story: StoryRun, tmp_path: Path) -> None:
    chain = find_chain(str(tmp_path), f"{story.chain_of(1)}-001")
    assert [row["description"] for row in chain.pairs] == list(LOST[1:])
    assert chain.pair()["round_index"] == 1
    assert chain.failed is None
    text = describe_chain(chain)
    for said in (*LOST, "by hand", str(2**62 + 1), "by-hand; 1; sha256:0", "by hand"):
        assert said in text
    asked_for = [line for line in text.splitlines() if "<- asked for" in line]
    assert [line.split()[2] for line in asked_for] == [f"{story.chain_of(1)}-001"]
    for name in chain.files.values():
        assert (tmp_path / name).is_file()
        assert name in text


def test_a_model_is_told_once_for_all_rounds_that_share_it(story: StoryRun, tmp_path: Path) -> None:
    text = describe_chain(find_chain(str(tmp_path), story.chain_of(0)))
    assert text.count("generator") == 1
    assert "asked for" not in text


def test_a_chain_that_failed_ends_with_its_failed_row(story: StoryRun, tmp_path: Path) -> None:
    name = story.chain_of(FAILED_CHAIN)
    chain = find_chain(str(tmp_path), f"{name}-{FAILED_ROUND:03d}")
    assert len(chain.pairs) == FAILED_ROUND
    assert chain.failed is not None
    assert "the <engine> raised" in describe_chain(chain)
    with pytest.raises(ValueError, match=r"failed in round 1 \(engine_error\)"):
        chain.pair()


def test_of_a_replayed_chain_the_latest_rows_count(tmp_path: Path) -> None:
    run = RunWriter(folder=tmp_path, failures=frozenset({(1, 1)}))
    for index in range(len(run.units)):
        run.write_unit(index)
    run.write_replay(0, 1, 1, [1], fail_at=2)
    replay_id = run.write_replay(0, 2, 2, [1])
    chain = find_chain(str(tmp_path), run.chain_ids[1])
    assert [row["round_index"] for row in chain.pairs] == [0, 1, 2]
    assert chain.pairs[2]["unit_id"] == replay_id
    assert chain.failed is None


def test_all_columns_are_in_the_json_but_bytes(story: StoryRun, tmp_path: Path) -> None:
    chain = find_chain(str(tmp_path), f"{story.chain_of(0)}-000")
    told = json.loads(json.dumps(chain_to_dict(chain)))
    row = chain.pairs[0]
    assert told["pairs"][0].keys() == row.keys() | {"file"}
    assert told["pairs"][0]["image"]["bytes"] == {"size_bytes": len(row["image"]["bytes"])}


@pytest.mark.parametrize(
    ("name", "message"),
    [("0" * 20 + "-000", "is the pair of another run"), ("pair-1", "no pair_id")],
)
def test_what_is_not_in_the_run_is_refused(
    story: StoryRun, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        find_chain(str(tmp_path), name)


def test_a_round_that_is_not_committed_is_told_as_such(tmp_path: Path) -> None:
    run = RunWriter(folder=tmp_path)
    run.write_unit(0, until=2)
    chain = find_chain(str(tmp_path), f"{run.chain_ids[0]}-002")
    with pytest.raises(ValueError, match="2 of 3 rounds of its chain are committed"):
        chain.pair()


def test_the_command_prints_text_and_json(
    story: StoryRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["show", str(tmp_path), f"{story.chain_of(0)}-002", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out.splitlines()[-1])["chain_id"] == story.chain_of(0)


@pytest.mark.parametrize("words", [[], ["--failed", "a" * 20 + "-000"], ["a" * 20, "b" * 20]])
def test_a_replay_is_of_one_thing(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["replay", str(tmp_path), *words]) == 2
    assert "one thing" in capsys.readouterr().err
