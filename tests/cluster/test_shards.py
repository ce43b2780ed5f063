"""Shards: equal tables are equal bytes, row groups are cut by bytes, images stay as they are."""

import hashlib
import subprocess
import sys
from pathlib import Path

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cluster.shards import cut_by_bytes, decode_shard, encode_shard, row_sizes

IMAGE = frozenset({"image.bytes"})


def _table(num_rows: int = 5, image_bytes: int = 1000) -> pa.Table:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "pair_id": pa.array([f"p{row:03}" for row in range(num_rows)]),
        "description": pa.array([f"a red cube, number {row}" for row in range(num_rows)]),
        "round_index": pa.array(range(num_rows), pa.int32()),
        "tags": pa.array([["a", "b"][: row % 3] for row in range(num_rows)]),
        "error": pa.array([None] * num_rows, pa.string()),
        "image": pa.array(
            [
                {"bytes": bytes([row % 256]) * image_bytes, "path": None} if row % 4 != 3 else None
                for row in range(num_rows)
            ],
            image,
        ),
    }
    return pa.table(columns).replace_schema_metadata({"b": "2", "a": "1"})


def test_a_shard_reads_back_equal_with_its_metadata() -> None:
    shard = encode_shard(_table(), uncompressed=IMAGE)
    again = decode_shard(shard.data)
    assert again.equals(_table())
    assert again.schema.metadata == _table().schema.metadata
    assert shard.num_rows == 5
    assert shard.sha256 == hashlib.sha256(shard.data).hexdigest()


def test_columns_are_chosen_by_name_or_leaf_and_a_missing_one_is_an_error() -> None:
    data = encode_shard(_table(), uncompressed=IMAGE).data
    assert decode_shard(data, ["pair_id", "image.path"]).column_names == ["pair_id", "image"]
    with pytest.raises(ValueError, match="picture"):
        decode_shard(data, ["pair_id", "picture"])


def test_bytes_do_not_depend_on_chunks_slices_or_metadata_order() -> None:
    table = _table(40)
    chunked = pa.concat_tables([table.slice(0, 7), table.slice(7, 1), table.slice(8)])
    longer = pa.concat_tables([_table(3), table, _table(2)]).slice(3, 40)
    swapped = table.replace_schema_metadata({"a": "1", "b": "2"})
    copied = pa.Table.from_pylist(table.to_pylist(), schema=table.schema)
    shards = {
        encode_shard(one, uncompressed=IMAGE, row_group_bytes=5000).sha256
        for one in (table, chunked, longer, swapped, copied)
    }
    assert len(shards) == 1
    assert encode_shard(_table(39), uncompressed=IMAGE).sha256 not in shards


def test_bytes_are_the_same_in_another_process() -> None:
    code = (
        "import runpy; from cluster.shards import encode_shard;"
        f"table = runpy.run_path({__file__!r})['_table'](20);"
        "print(encode_shard(table, uncompressed={'image.bytes'}).sha256)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == encode_shard(_table(20), uncompressed=IMAGE).sha256


def test_row_groups_are_bounded_by_bytes_and_images_are_plain() -> None:
    shard = encode_shard(_table(32, 10_000), row_group_bytes=50_000, uncompressed=IMAGE)
    file = pq.ParquetFile(pa.BufferReader(shard.data)).metadata
    assert file.num_row_groups > 4
    for group in range(file.num_row_groups):
        columns = [file.row_group(group).column(i) for i in range(file.num_columns)]
        assert sum(column.total_uncompressed_size for column in columns) < 52_000
        for column in columns:
            is_image = column.path_in_schema == "image.bytes"
            assert column.compression == ("UNCOMPRESSED" if is_image else "ZSTD")
            assert column.has_dictionary_page != is_image or column.physical_type == "BOOLEAN"
            assert column.has_offset_index
            assert column.is_stats_set != is_image


def test_a_row_over_the_bound_stands_alone() -> None:
    assert list(cut_by_bytes([1, 9, 50, 1, 1], 10)) == [(0, 2), (2, 1), (3, 2)]
    assert list(cut_by_bytes([], 10)) == []
    assert list(cut_by_bytes([50], 10)) == [(0, 1)]


def test_row_sizes_count_the_image() -> None:
    sizes = row_sizes(_table(4, 1000))
    assert all(1000 <= size < 1200 for size in sizes[:3])
    assert sizes[3] < 200


def test_an_empty_table_is_a_valid_shard() -> None:
    shard = encode_shard(_table(0), uncompressed=IMAGE)
    assert decode_shard(shard.data).schema.equals(_table(0).schema)
    assert shard.num_rows == 0


def test_a_misspelt_uncompressed_column_is_refused() -> None:
    with pytest.raises(ValueError, match=r"picture\.bytes"):
        encode_shard(_table(), uncompressed={"picture.bytes"})


def test_datasets_duckdb_and_polars_read_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pixel = datasets.Image().encode_example(Image.new("RGB", (3, 2), "red"))
    features = datasets.Features({"pair_id": datasets.Value("string"), "image": datasets.Image()})
    rows = [{"pair_id": "p0", "image": pixel}, {"pair_id": "p1", "image": pixel}]
    table = pa.Table.from_pylist(rows, schema=features.arrow_schema)
    path = tmp_path / "x.parquet"
    path.write_bytes(encode_shard(table, uncompressed=IMAGE).data)
    loaded = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded[1]["image"].size == (3, 2)
    found = duckdb.sql(f"select pair_id, octet_length(image.bytes) from '{path}'").fetchall()
    assert found == [("p0", len(pixel["bytes"])), ("p1", len(pixel["bytes"]))]
    assert polars.read_parquet(path)["pair_id"].to_list() == ["p0", "p1"]
