"""pipelines/publish: every format opens in its own tool, pictures included."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corrupt import RunWriter, draw
from PIL import Image
from publishing import publish_run
from scored import add_columns

from cluster.errors import CommitError
from pipelines.publish.rows import image_suffix, llava_record, plain_row

SCORES = [pa.field("clip_similarity", pa.float32()), pa.field("tags", pa.list_(pa.string()))]


@pytest.fixture
def scored(run: RunWriter) -> RunWriter:
    """With columns that this version does not know, in some of the files only."""
    add_columns(
        run.folder, SCORES, lambda row: {"clip_similarity": 0.25, "tags": ["a", row["chain_id"]]}
    )
    return run


def colour_of(run: RunWriter, row: dict[str, Any]) -> tuple[int, ...]:
    """Of the picture that the run drew for this pair."""
    chain_id, _, r = (row.get("pair_id") or row["__key__"]).rpartition("-")
    image = Image.open(io.BytesIO(draw(run.chain_ids.index(chain_id), int(r))))
    return image.getpixel((0, 0))


@pytest.mark.parametrize("is_streaming", [False, True])
def test_datasets_shows_pictures_and_splits(
    scored: RunWriter, tmp_path: Path, is_streaming: bool
) -> None:
    import datasets

    publish_run(scored, tmp_path / "out")
    splits = datasets.load_dataset(
        str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), streaming=is_streaming
    )
    assert set(splits) == {"train", "validation"}
    assert isinstance(splits["train"].features["image"], datasets.Image)
    rows = [row for split in splits.values() for row in split]
    assert len(rows) == 115
    for row in rows:
        assert row["image"].getpixel((0, 0)) == colour_of(scored, row)
        assert row["tags"] == ["a", row["chain_id"]]


def test_duckdb_and_polars_read_the_same_rows(scored: RunWriter, tmp_path: Path) -> None:
    import duckdb
    import polars

    publish_run(scored, tmp_path / "out")
    files = str(tmp_path / "out/data/*.parquet")
    counted = duckdb.sql(f"select count(distinct pair_id), avg(clip_similarity) from '{files}'")
    assert counted.fetchall() == [(115, 0.25)]
    frame = polars.read_parquet(files)
    assert frame.height == 115
    image = frame["image"].struct.field("bytes")[0]
    assert Image.open(io.BytesIO(image)).size == (4, 4)


def test_row_groups_are_small_and_have_a_page_index(run: RunWriter, tmp_path: Path) -> None:
    publish_run(run, tmp_path / "out", "shard_bytes=1000000")
    path = tmp_path / "out/data/train-00000-of-00001.parquet"
    metadata = pq.ParquetFile(path).metadata
    sizes = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    assert set(sizes[:-1]) == {10}
    assert 0 < sizes[-1] <= 10
    column = metadata.row_group(0).column(0)
    assert column.has_offset_index
    assert column.has_column_index
    assert json.loads(pq.read_schema(path).metadata[b"huggingface"])


def test_shards_are_about_as_large_as_asked(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = RunWriter(folder=tmp_path / "run", num_seeds=64, unit_size=64, image_bytes=5000)
    run.write_unit(0)
    publish_run(run, tmp_path / "out", "shard_bytes=200000", "validation_share=0")
    sizes = [path.stat().st_size for path in (tmp_path / "out/data").iterdir()]
    assert len(sizes) == 6  # of 192 pairs with 5,071 bytes of picture and 1,100 of the rest
    assert max(sizes) < 1.15 * 200000  # a footer names 39 columns, however small the file is
    assert min(sizes) > 0.9 * 200000


def test_a_file_of_an_older_version_has_null_where_it_had_no_column(
    run: RunWriter, tmp_path: Path
) -> None:
    later = run.folder / "data/round=2"
    hidden = tmp_path / "hidden"
    receipts = sorted(run.folder.glob("receipts/*/2.json"))
    texts = {path: path.read_text() for path in receipts}
    for path in receipts:
        path.unlink()
    later.rename(hidden)
    add_columns(run.folder, SCORES[:1], lambda row: {"clip_similarity": 0.5})
    hidden.rename(later)
    for path, text in texts.items():
        path.write_text(text)
    publish_run(run, tmp_path / "out")
    table = pa.concat_tables(pq.read_table(p) for p in (tmp_path / "out/data").iterdir())
    known = {row["round_index"]: row["clip_similarity"] for row in table.to_pylist()}
    assert known == {0: 0.5, 1: 0.5, 2: None}


def test_webdataset_reads_picture_text_and_columns(scored: RunWriter, tmp_path: Path) -> None:
    import webdataset

    publish_run(scored, tmp_path / "out", "format=webdataset", "shard_bytes=60000")
    paths = sorted(str(path) for path in (tmp_path / "out/data").glob("train-*.tar"))
    assert len(paths) > 1
    seen: list[str] = []
    for pair in webdataset.WebDataset(paths, shardshuffle=False).decode("pil"):
        assert tuple(round(255 * one) for one in _first_pixel(pair["png"])) == colour_of(
            scored, pair
        )
        assert pair["txt"] == pair["json"]["description"]
        assert pair["json"]["tags"][0] == "a"
        assert "image" not in pair["json"]
        seen.append(pair["__key__"])
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert len(set(seen)) == len(seen) == manifest["splits"]["train"]


def _first_pixel(image: Any) -> list[float]:
    """`decode("pil")` gives a picture; as shares of full colour."""
    return [one / 255 for one in image.convert("RGB").getpixel((0, 0))]


def test_datasets_reads_the_tars_too(run: RunWriter, tmp_path: Path) -> None:
    import datasets

    publish_run(run, tmp_path / "out", "format=webdataset")
    splits = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    rows = [row for split in splits.values() for row in split]
    assert len(rows) == 115
    assert rows[0]["png"].getpixel((0, 0)) == colour_of(run, rows[0])


def test_imagefolder_reads_the_folder(scored: RunWriter, tmp_path: Path) -> None:
    import datasets

    publish_run(scored, tmp_path / "out", "format=folder")
    for name, options in (
        ("imagefolder", {"data_dir": str(tmp_path / "out")}),
        (str(tmp_path / "out"), {}),
    ):
        splits = datasets.load_dataset(name, cache_dir=str(tmp_path / "cache"), **options)
        assert set(splits) == {"train", "validation"}
        rows = [row for split in splits.values() for row in split]
        assert len(rows) == 115
        for row in rows:
            assert row["image"].getpixel((0, 0)) == colour_of(scored, row)
            assert row["description"].startswith("what ")


def test_vectors_are_left_out_of_the_list_of_a_folder(run: RunWriter, tmp_path: Path) -> None:
    """A list is in memory whole: two vectors of 768 numbers are 32 kB a pair as texts."""
    vector = pa.field("image_embedding", pa.list_(pa.float32()))
    add_columns(run.folder, [vector], lambda row: {vector.name: [0.1] * 768})
    publish_run(run, tmp_path / "out", "format=folder")
    lines = (tmp_path / "out/train/metadata.jsonl").read_text().splitlines()
    assert max(map(len, lines)) < 2000
    assert all(vector.name not in json.loads(line) for line in lines)
    assert f"| `{vector.name}` |" not in (tmp_path / "out/README.md").read_text()
    publish_run(run, tmp_path / "tar", "format=webdataset")
    assert f"| `{vector.name}` |" in (tmp_path / "tar/README.md").read_text()


def test_llava_has_ids_pictures_and_conversations_in_the_trainers_form(
    run: RunWriter, tmp_path: Path
) -> None:
    """What `LazySupervisedDataset` and `preprocess_multimodal` of llava/train/train.py rely on."""
    publish_run(run, tmp_path / "out", "format=llava")
    ids: set[str] = set()
    for split in ("train", "validation"):
        for one in json.loads((tmp_path / f"out/llava_{split}.json").read_text()):
            human, gpt = one["conversations"]
            assert (human["from"], gpt["from"]) == ("human", "gpt")
            assert human["value"].count("<image>") == 1
            assert human["value"].startswith("<image>\n")
            assert gpt["value"].startswith("what ")
            image = Image.open(tmp_path / "out" / one["image"]).convert("RGB")
            assert image.getpixel((0, 0)) == colour_of(run, {"pair_id": one["id"]})
            ids.add(one["id"])
    assert len(ids) == 115


def test_a_text_cannot_ask_for_a_second_picture() -> None:
    row = {"pair_id": "p", "instruction": "See <image>?", "description": "an <image> tag"}
    human, gpt = llava_record(row, "i.png")["conversations"]
    assert human["value"] == "<image>\nSee (image)?"
    assert gpt["value"] == "an (image) tag"


def test_suffixes_come_from_the_bytes() -> None:
    for name, suffix in (("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")):
        sink = io.BytesIO()
        Image.new("RGB", (4, 4)).save(sink, name)
        assert image_suffix(sink.getvalue(), "p") == suffix
    with pytest.raises(CommitError, match="neither PNG"):
        image_suffix(b"GIF89a", "p")


def test_what_json_cannot_say_is_null() -> None:
    row = plain_row({"image": {"bytes": b""}, "score": float("nan"), "n": 1})
    assert json.loads(json.dumps(row, allow_nan=False)) == {"score": None, "n": 1}
