"""An Arrow table as the bytes of one Parquet file, named by their hash.

Equal tables give equal bytes, in any process and however the table was chunked, so that a shard
computed twice is one object. A column that is compressed already (encoded images)
is stored as it is, without dictionary or statistics. Row groups are cut by bytes, not rows: a
reader that wants one row fetches at most `row_group_bytes`, or one row where that is larger.
Schema metadata stays, so Hugging Face `datasets` finds its Image features; the page index is on.

Limits: equal bytes hold within one pyarrow version (the writer puts its version into the file).
The whole file is in memory, twice for a moment. Row sizes are estimates: 8 bytes a number, and the
average of the column for lists.
"""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROW_GROUP_BYTES = 32 << 20

# pyarrow makes its compute functions at import and annotates the writer for the simplest call only.
_compute: Any = pc
_open_writer: Any = pq.ParquetWriter


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The file's bytes, their sha256 in hex, and how many rows they hold."""

    data: bytes
    sha256: str
    num_rows: int


def encode_shard(
    table: pa.Table,
    *,
    row_group_bytes: int = ROW_GROUP_BYTES,
    uncompressed: Collection[str] = frozenset(),
    codec: Literal["zstd", "snappy"] = "zstd",
) -> Shard:
    """Writes `table` as Parquet; `uncompressed` are leaf paths such as ``image.bytes``."""
    table = _canonical(table)
    leaves = _leaf_paths(table.schema)
    unknown = sorted(set(uncompressed) - set(leaves))
    if unknown:
        raise ValueError(f"uncompressed columns {unknown} are not in the table: it has {leaves}")
    packed = [leaf for leaf in leaves if leaf not in uncompressed]
    sink = pa.BufferOutputStream()
    with _open_writer(
        sink,
        table.schema,
        compression={leaf: codec if leaf in packed else "none" for leaf in leaves},
        use_dictionary=packed,
        write_statistics=packed,
        write_page_index=True,
    ) as writer:
        for start, length in cut_by_bytes(row_sizes(table), row_group_bytes):
            writer.write_table(table.slice(start, length), row_group_size=length)
    data: bytes = sink.getvalue().to_pybytes()
    return Shard(data=data, sha256=hashlib.sha256(data).hexdigest(), num_rows=table.num_rows)


def decode_shard(data: bytes, columns: Collection[str] | None = None) -> pa.Table:
    """Reads a shard back; `columns` are top-level names or leaf paths, in the file's order."""
    file = pq.ParquetFile(pa.BufferReader(data))
    if columns is None:
        return file.read()
    names: list[str] = file.schema_arrow.names
    missing = sorted(column for column in columns if column.partition(".")[0] not in names)
    if missing:
        # pyarrow leaves out what it does not find, which would surface far away.
        raise ValueError(f"columns {missing} are not in the shard: it has {names}")
    return file.read(columns=list(columns))


def cut_by_bytes(sizes: list[int], limit: int) -> Iterator[tuple[int, int]]:
    """(start, length) of runs of at most `limit` bytes, in order; a larger row stands alone."""
    start, total = 0, 0
    for index, size in enumerate(sizes):
        if index > start and total + size > limit:
            yield start, index - start
            start, total = index, 0
        total += size
    if sizes:
        yield start, len(sizes) - start


def row_sizes(table: pa.Table) -> list[int]:
    """The bytes of each row before encoding; from the values, not from how they lie in memory."""
    total = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        total += _column_sizes(column)
    return total.tolist()


def _column_sizes(column: Any) -> "np.ndarray[Any, np.dtype[np.int64]] | int":
    """A number where all rows are of one size: Arrow's kernels cost 3 ms a shard of 39 columns."""
    kind = column.type
    if pa.types.is_struct(kind):
        return sum(
            _column_sizes(_compute.struct_field(column, index)) for index in range(kind.num_fields)
        )
    if (
        pa.types.is_binary(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_large_string(kind)
    ):
        if column.null_count == len(column):
            return 0
        lengths = _compute.binary_length(column)
        filled = _compute.fill_null(lengths, 0) if column.null_count else lengths
        return filled.to_numpy().astype(np.int64)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _compute.list_flatten(column)
        return int(np.sum(np.broadcast_to(_column_sizes(inner), len(inner)))) // max(1, len(column))
    return 8


def _canonical(table: pa.Table) -> pa.Table:
    """The same table with one layout: chunks and the order of metadata keys reach the file."""
    metadata = table.schema.metadata
    ordered = dict(sorted(metadata.items())) if metadata else None
    return table.combine_chunks().replace_schema_metadata(ordered)


@lru_cache(maxsize=16)
def _leaf_paths(schema: pa.Schema) -> list[str]:
    # Asked of Parquet itself, because the names inside lists and maps are its own: 2 ms a schema.
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    parquet = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [parquet.column(index).path for index in range(len(parquet.names))]
