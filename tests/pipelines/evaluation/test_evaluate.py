"""pipelines/evaluation/evaluate.py: whole runs against a column and against files."""

import csv
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from grown_here import grow_here
from story_run import KEPT, StoryRun

from cluster import config as config_files
from pipelines import cli
from pipelines.evaluation import EvaluateConfig, describe_evaluation, evaluate_run
from pipelines.synergy import SynergyConfig

ROOT = Path(__file__).parents[3]
QUICK = ["bleu4", "rouge_l"]


@pytest.fixture
def story(tmp_path: Path) -> StoryRun:
    folder = tmp_path / "run"
    folder.mkdir()
    return StoryRun(folder=folder).write_all()


def test_every_round_is_measured_against_the_seed(story: StoryRun) -> None:
    found = evaluate_run(str(story.folder), EvaluateConfig(metrics=QUICK))
    assert found.num_pairs == 13  # the chain that fails has one pair
    assert {r: one.num_pairs for r, one in found.rounds.items()} == {0: 5, 1: 4, 2: 4}
    # One of five says nothing of its seed, the others say it again to the letter.
    assert found.rounds[0].metrics["bleu4"].mean == pytest.approx(0.8)
    assert found.rounds[0].metrics["rouge_l"].mean > found.rounds[1].metrics["rouge_l"].mean
    assert not found.truth
    text = describe_evaluation(found)
    assert "bleu4" in text
    assert "tok:13a" in text


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_references_may_come_from_a_file(story: StoryRun, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"references{suffix}"
    rows = [{"chain_id": story.chain_of(0), "reference": KEPT[0]}]
    if suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["chain_id", "reference"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    config = EvaluateConfig(metrics=QUICK, references=str(path))
    found = evaluate_run(str(story.folder), config)
    assert found.num_pairs - found.num_without_reference == 3
    assert found.rounds[0].metrics["bleu4"].mean == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"chain_id": "x", "reference": "nobody"}'], "has a reference for none"),
        (['{"chain_id": "x", "text": "a"}'], "must have 'reference'"),
        (['{"chain_id": "x", "reference": " "}'], "a row without text"),
        (
            [f'{{"chain_id": "x", "reference": "{text}"}}' for text in ("a", "b")],
            "two references for 'x'",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    story: StoryRun, tmp_path: Path, lines: list[str], message: str
) -> None:
    path = tmp_path / "references.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        evaluate_run(str(story.folder), EvaluateConfig(metrics=QUICK, references=str(path)))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("metrics=[bleu5]", "bleu5"),
        ("references=caption", "one of"),
        ("bert.model=/nowhere", "no folder"),
        ("references=prompt metrics=[]", "nothing is compared"),
        ("bert.device=tpu", "'device'"),
        ("bert.batch_size=0", "1 or more"),
    ],
)
def test_a_wrong_word_is_refused(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_files.from_dict(EvaluateConfig, {}, "of the test", word.split())


def grow_scene(folder: Path) -> Path:
    """A run of the embedded world, one seed and two rounds, whose captioner says no scene."""
    output, seeds = folder / "run", folder / "seeds.txt"
    seeds.write_text("a small red star at the top left on a grey background\n")
    words = [f"output={output}", f"seeds.path={seeds}", "num_rounds=2"]
    words += ["generator.backend=simulated", "captioner.backend=simulated"]
    grow_here(config_files.load(SynergyConfig, str(ROOT / "conf/synergy.yaml"), words))
    return output


def test_the_command_judges_a_run_of_the_embedded_world_by_truth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = grow_scene(tmp_path)
    assert cli.main(["evaluate", str(output), "metrics=[rouge_l]", "--json"]) == 0
    out = capsys.readouterr().out
    assert "truth of the descriptions" in out
    told = json.loads(out.splitlines()[-1])
    # The simulated captioner says no scene.
    assert told["truth"]["0"]["num_readable"] == 0
    assert told["truth"]["1"]["rates"]["seed_recall"]["value"] == 0.0
    assert cli.main(["evaluate", str(output), "has_truth=false"]) == 0
    assert "truth" not in capsys.readouterr().out


def test_truth_alone_needs_no_package_of_eval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = grow_scene(tmp_path)
    for name in ("sacrebleu", "rouge_score", "nltk", "bert_score"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    assert cli.main(["evaluate", str(output), "metrics=[]"]) == 0
    out = capsys.readouterr().out
    assert "truth of the descriptions" in out
    assert "bleu" not in out
    assert cli.main(["evaluate", str(output), "metrics=[]", "has_truth=false"]) == 2
    assert "nothing is left to measure" in capsys.readouterr().err


def test_a_run_without_pairs_is_an_error_whatever_is_asked(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = StoryRun(folder=tmp_path / "run")
    with pytest.raises(ValueError, match="no pair yet"):
        evaluate_run(str(run.folder), EvaluateConfig(metrics=QUICK))
