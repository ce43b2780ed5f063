"""The pairs of one part as a Parquet file, for the hub, DuckDB, polars and everything else.

Small row groups, because a viewer or a shuffling reader fetches one whole; a page index; data
pages cut by content, so that two publishes that differ in a few rows share most of their bytes on
a store that deduplicates, as the hub's does. Pictures are compressed already and are stored as
they are.

Limits: equal rows give equal bytes within one pyarrow version. The file is in memory until it is
whole.
"""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PICTURES = frozenset({"image.bytes"})

# pyarrow annotates the writer for the simplest call only.
_open_writer: Any = pq.ParquetWriter


class ParquetPart:
    """Takes the rows of a part in order, and gives the file."""

    suffix = ".parquet"

    def __init__(self, schema: pa.Schema, rows_a_group: int) -> None:
        leaves = _leaf_paths(schema)
        packed = [leaf for leaf in leaves if leaf not in PICTURES]
        self._sink = pa.BufferOutputStream()
        self._writer = _open_writer(
            self._sink,
            schema,
            compression={leaf: "zstd" if leaf in packed else "none" for leaf in leaves},
            use_dictionary=packed,
            write_statistics=packed,
            write_page_index=True,
            use_content_defined_chunking=True,
        )
        self._rows_a_group = rows_a_group
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0

    def add(self, table: pa.Table) -> None:
        """Takes rows; writes them as soon as a row group is full."""
        self._waiting.append(table)
        self._num_waiting += table.num_rows
        if self._num_waiting >= self._rows_a_group:
            self._write(self._num_waiting // self._rows_a_group * self._rows_a_group)

    def finish(self) -> bytes:
        """The whole file; nothing may be added after it."""
        self._write(self._num_waiting)
        self._writer.close()
        return self._sink.getvalue().to_pybytes()

    def _write(self, num_rows: int) -> None:
        if not num_rows:
            return
        # One chunk a column: how the rows came must not reach the file.
        rows = pa.concat_tables(self._waiting).combine_chunks()
        size = self._rows_a_group
        for start in range(0, num_rows, size):
            group = rows.slice(start, min(size, num_rows - start))
            self._writer.write_table(group, row_group_size=size)
        self._waiting = [rows.slice(num_rows)]
        self._num_waiting -= num_rows


def _leaf_paths(schema: pa.Schema) -> list[str]:
    # Asked of Parquet itself, because the names inside lists are its own.
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    parquet = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [parquet.column(index).path for index in range(len(parquet.names))]
