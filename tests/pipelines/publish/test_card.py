"""pipelines/publish/card.py: what a reader of the card is told, and that it is so."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from corrupt import RunWriter, put_json
from PIL import Image
from publishing import publish_run
from scored import add_columns

from actors.records import MODEL_TYPE
from pipelines.publish.card import size_category

MODELS = {
    "generator": {
        "id": "stabilityai/stable-diffusion-xl-base-1.0",
        "revision": "abc",
        "digest": "git:abc",
        "licence": "openrail++",
        "params": '{"num_steps": 30, "negative_prompt": "", "sdxl": {"scheduler": "own"}}',
    },
    "captioner": {
        "id": "llava-hf/llava-1.5-7b-hf",
        "revision": None,
        "digest": "sha256:00",
        "licence": "llama2",
        "params": "{}",
    },
}
FIELDS = [
    pa.field("generator", MODEL_TYPE),
    pa.field("captioner", MODEL_TYPE),
    pa.field("instruction", pa.string()),
    pa.field("draw_s", pa.float64()),
    pa.field("describe_s", pa.float64()),
    pa.field("clip_similarity", pa.float32()),
    pa.field("text_similarity_first", pa.float32()),
    pa.field("text_similarity_previous", pa.float32()),
]


def values_of(row: dict[str, Any]) -> dict[str, Any]:
    r = row["round_index"]
    scores = {"clip_similarity": 0.30 - 0.05 * r, "text_similarity_first": 1.0 - 0.2 * r}
    scores |= {"text_similarity_previous": 0.5} if r else {}
    times = {"draw_s": 36.0, "describe_s": 3.6}
    return MODELS | {"instruction": "Say | what you see."} | times | scores


@pytest.fixture
def whole(run: RunWriter) -> RunWriter:
    """With models, times, scores, and what a GPU-hour costs."""
    add_columns(run.folder, FIELDS, values_of)
    path = run.folder / "run.json"
    record = yaml.safe_load(path.read_text())
    pools = {"generator": {"num_gpus": 1.0}, "captioner": {"num_gpus": 0.5}}
    record["record"] |= {"pools": pools, "plan": {"gpu_hour_price": 2.0}}
    put_json(path, record)
    return run


def card_of(run: RunWriter, dest: Path, *words: str) -> tuple[dict[str, Any], str]:
    publish_run(run, dest, *words)
    match = re.match(r"---\n(.*?)\n---\n(.*)", (dest / "README.md").read_text(), re.DOTALL)
    assert match
    return yaml.safe_load(match[1]), match[2]


def test_the_front_matter_is_what_the_hub_reads(run: RunWriter, tmp_path: Path) -> None:
    words = ("licence=cc-by-4.0", "name='Scenes: drawn'", "format=webdataset")
    front, text = card_of(run, tmp_path / "out", *words)
    assert front["license"] == "cc-by-4.0"
    assert front["pretty_name"] == "Scenes: drawn"
    assert front["size_categories"] == ["n<1K"]
    assert {"synthetic", "webdataset"} <= set(front["tags"])
    assert front["task_categories"] == ["text-to-image", "image-to-text"]
    (config,) = front["configs"]
    assert {one["split"]: one["path"] for one in config["data_files"]} == {
        "train": "data/train-*.tar",
        "validation": "data/validation-*.tar",
    }
    assert text.strip().startswith("# Scenes: drawn")


def test_the_hub_itself_finds_the_card_in_order(whole: RunWriter, tmp_path: Path) -> None:
    from huggingface_hub import DatasetCard

    publish_run(whole, tmp_path / "out", "licence=apache-2.0")
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "apache-2.0"


def test_models_are_named_with_revision_digest_licence_and_citation(
    whole: RunWriter, tmp_path: Path
) -> None:
    _, text = card_of(whole, tmp_path / "out")
    assert (
        "[`stabilityai/stable-diffusion-xl-base-1.0`](https://huggingface.co/"
        "stabilityai/stable-diffusion-xl-base-1.0/tree/abc), licence `openrail++`, revision `abc`"
    ) in text
    assert "(num_steps 30, sdxl.scheduler own)" in text
    assert "`llava-hf/llava-1.5-7b-hf`, licence `llama2`, digest `sha256:00`" in text
    assert "2307.01952" in text
    assert "Improved Baselines with Visual Instruction Tuning" in text
    assert 'asked: "Say | what you see."' in text


def test_counts_add_up_for_every_round(whole: RunWriter, tmp_path: Path) -> None:
    words = ("filter.clip_similarity.min=0.22", "filter.words.max=9")
    _, text = card_of(whole, tmp_path / "out", *words)
    rows = re.findall(
        r"^\| (\d) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| \*\*(\d+)\*\* \|$", text, re.M
    )
    assert [tuple(map(int, row)) for row in rows] == [
        (0, 39, 1, 0, 0, 39),
        (1, 38, 1, 1, 0, 38),
        (2, 38, 0, 2, 38, 0),
    ]
    assert "| `clip_similarity_low` | 38 |" in text
    assert "- `clip_similarity`: at least 0.22" in text
    assert "| `engine_error` | 2 |" in text
    assert "dropped.parquet" in text


def test_drift_is_shown_where_there_are_scores(whole: RunWriter, tmp_path: Path) -> None:
    _, text = card_of(whole, tmp_path / "out")
    header = "| round | picture and its prompt | description and that of round 0 | description and"
    assert header in text
    assert "| 2 | 0.200 +- 0.000 | 0.600 +- 0.000 | 0.500 +- 0.000 |" in text
    assert "carry no scores" not in text


def test_the_cost_is_that_of_models_at_work(whole: RunWriter, tmp_path: Path) -> None:
    """115 pairs: 36 s on one GPU and 3.6 s on half of one, at 2 an hour."""
    _, text = card_of(whole, tmp_path / "out")
    hours = 115 * (36.0 + 1.8) / 3600
    assert f"{hours:.3g} GPU-hours, {2 * hours:.2f} at 2 a GPU-hour" in text
    assert "39.6 s a published pair" in text


def test_the_cost_is_that_of_all_gpus_held_where_it_is_on_record(
    whole: RunWriter, tmp_path: Path
) -> None:
    """Two attempts; 2 GPU-hours in all, of which models were at work for 1.2."""
    for name, gpu_s in (("a", {"generator": 5400.0, "captioner": 900.0}), ("b", {"author": 900.0})):
        record = {"format": 1, "gpu_s": gpu_s, "num_gpus": 0.0, "is_over": True}
        put_json(whole.folder / f"spent/{name}.json", record)
    _, text = card_of(whole, tmp_path / "out")
    assert "1.21 GPU-hours. All that GPUs are on record as held for" in text
    assert "came to 2 GPU-hours, 4.00 at 2 a GPU-hour: 0.0348 a published pair." in text


def test_the_scorer_is_named_cited_and_counted(whole: RunWriter, tmp_path: Path) -> None:
    scorer = {"id": "openai/clip-vit-large-patch14", "revision": "r", "digest": "git:r"}
    scorer |= {"licence": "mit", "params": '{"dtype": "float32"}'}
    fields = [pa.field("scorer", MODEL_TYPE), pa.field("score_s", pa.float64())]
    add_columns(whole.folder, fields, lambda row: {"scorer": scorer, "score_s": 0.4})
    _, text = card_of(whole, tmp_path / "out")
    assert "- what scored the pairs: [`openai/clip-vit-large-patch14`]" in text
    assert "licence `mit`, revision `r`, digest `git:r`\n  (dtype float32)" in text
    assert "Learning Transferable Visual Models" in text
    assert "on drawing, 6.9 min on describing, 46.0 s on scoring the 115 pairs" in text
    assert "40 s a published pair" in text


def test_chains_that_a_rule_stopped_are_told_with_the_rule(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    stops = frozenset({(0, 0), (1, 1)})
    run = RunWriter(folder=tmp_path / "run", num_seeds=8, unit_size=8, stops=stops)
    run.write_unit(0)
    path = run.folder / "run.json"
    record = yaml.safe_load(path.read_text())
    record["record"]["stop"] = {
        "converged_from": 0.98,
        "collapsed_below": None,
        "is_looping": False,
    }
    put_json(path, record)
    _, text = card_of(run, tmp_path / "out")
    assert "a rule has stopped (`converged_from` 0.98)" in text
    assert "| `converged` | 2 |" in text


def test_mean_cumulative_drift_is_that_of_published_chains(
    whole: RunWriter, tmp_path: Path
) -> None:
    _, text = card_of(whole, tmp_path / "out")
    # 1 - .2 r in rounds 1 and 2 of the 38 chains that got so far
    assert "Mean Cumulative Drift (1 is none): 0.700 of the texts (38 chains)." in text


def test_one_chain_is_shown_in_pictures_and_words(whole: RunWriter, tmp_path: Path) -> None:
    _, text = card_of(whole, tmp_path / "out")
    assert "](example.png)" in text
    assert "| round 2 | what 0 looks like in round 2 |" in text
    strip = Image.open(tmp_path / "out" / "example.png").convert("RGB")
    shown = {colour for _, colour in strip.getcolors(1 << 20) or []}
    assert {(0, r, 0) for r in range(3)} <= shown


def test_what_is_not_known_is_said(run: RunWriter, tmp_path: Path) -> None:
    _, text = card_of(run, tmp_path / "out", "validation_share=0.0001")
    assert "carry no scores" in text
    assert "Not recorded." in text
    assert "no validation split" in text
    assert "has not stated a licence" in text
    assert "Nothing was filtered" in text


@pytest.mark.parametrize(
    ("num_rows", "name"), [(999, "n<1K"), (1000, "1K<n<10K"), (2 * 10**9, "n>1B")]
)
def test_sizes_are_named_as_on_the_hub(num_rows: int, name: str) -> None:
    assert size_category(num_rows) == name
