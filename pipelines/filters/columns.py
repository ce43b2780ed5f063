"""A few columns of every committed pair of a run, file by file; pictures only where asked for.

Files come in the order of their units, rounds and generations of replays: the same one in every
process, however the commits came about.

Limits: the bytes that are read are not checked against the receipt's hash, which covers whole
files: `pairloom verify` and whoever reads a whole file do that. Of a file without a column, which
an earlier version wrote, the column is null.
"""

import io
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import BaseError
from obstore.store import from_url

from actors.records import parse_unit_id
from cluster.errors import CommitError, StoreError
from cluster.receipts import Receipt
from cluster.storage import is_local, local_path
from cluster.storage_remote import is_http_allowed

# Files read at a time: on a disk Python itself is the limit, on a bucket the waiting is.
NUM_LOCAL_READERS, NUM_REMOTE_READERS = 2, 16

PICTURES = "image.bytes"

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What was asked for of the pairs of one commit.

    Attributes:
        table: one row a pair, in the order of the file; the asked columns.
        row_bytes: of one pair as it lies in the file, compressed; the average.
        schema: of the whole file.
    """

    receipt: Receipt
    table: pa.Table
    row_bytes: float
    schema: pa.Schema


def in_order(receipts: Iterable[Receipt]) -> list[Receipt]:
    """Those that have pairs, by unit, round and generation."""

    def place(receipt: Receipt) -> tuple[int, int, int, str]:
        name = parse_unit_id(receipt.unit_id)
        return (name.unit_index, receipt.round_index, name.generation, receipt.unit_id)

    return sorted((one for one in receipts if one.data is not None), key=place)


def read_columns(
    output: str, receipts: Iterable[Receipt], names: Collection[str]
) -> Iterator[Columns]:
    """The columns `names` of each receipt's pairs, in the order of the receipts.

    Raises:
        CommitError: a file is missing, or is not the one that its receipt names.
        StoreError: the store failed.
    """
    num_readers = NUM_LOCAL_READERS if is_local(output) else NUM_REMOTE_READERS
    open_file = _opener(output)
    return map_ahead(lambda one: _read(one, names, open_file), receipts, num_readers)


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], num_ahead: int
) -> Iterator[Result]:
    """`map` on threads, in order, that is never more than `num_ahead` results ahead."""
    left = iter(items)
    with ThreadPoolExecutor(num_ahead) as threads:
        waiting: list[Future[Result]] = [
            threads.submit(function, one) for one in islice(left, num_ahead)
        ]
        while waiting:
            result = waiting.pop(0).result()
            waiting += [threads.submit(function, one) for one in islice(left, 1)]
            yield result


def _read(receipt: Receipt, names: Collection[str], open_file: Callable[[str], Any]) -> Columns:
    assert receipt.data is not None
    key = receipt.data.file
    try:
        with pq.ParquetFile(open_file(key), pre_buffer=True) as file:
            schema, metadata = file.schema_arrow, file.metadata
            there = [name for name in names if name in schema.names]
            table = file.read(columns=there, use_threads=False)
    except FileNotFoundError:
        raise CommitError(
            f"{key} is named by a receipt and is not there: `pairloom verify`"
        ) from None
    except pa.ArrowInvalid as error:
        raise CommitError(f"{key} cannot be read ({error}): `pairloom verify` says more") from error
    except (BaseError, OSError) as error:
        raise StoreError(f"{key} cannot be read: {str(error).partition(chr(10))[0]}") from None
    if metadata.num_rows != receipt.data.num_rows:
        raise CommitError(
            f"{key} has {metadata.num_rows} rows, its receipt says {receipt.data.num_rows}: "
            "`pairloom verify` says what else is damaged"
        )
    for name in names:
        if name not in there:
            table = table.append_column(name, pa.nulls(metadata.num_rows))
    return Columns(
        receipt=receipt,
        table=table.select(list(names)),
        row_bytes=_packed_bytes(metadata) / metadata.num_rows,
        schema=schema,
    )


def _packed_bytes(metadata: Any) -> int:
    """Pictures as they are, all else compressed: what they come to in another Parquet file."""
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    columns = (group.column(index) for group in groups for index in range(metadata.num_columns))
    return sum(
        one.total_uncompressed_size if one.path_in_schema == PICTURES else one.total_compressed_size
        for one in columns
    )


def _opener(output: str) -> Callable[[str], Any]:
    """Opens a key for reads at any place: of a file only the columns that are asked for travel."""
    if is_local(output):
        root = local_path(output)
        return lambda key: pa.memory_map(str(root / key))
    client = from_url(output, client_options={"allow_http": is_http_allowed()})
    return lambda key: _RemoteFile(client, key)


class _RemoteFile(io.RawIOBase):
    """An object as a file of which only what is asked for travels, one request a read."""

    def __init__(self, client: Any, key: str) -> None:
        self._client, self._key, self._at = client, key, 0
        self._size = int(obstore.head(client, key)["size"])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._at + size, self._size)
        if end <= self._at:
            return b""
        data = bytes(obstore.get_range(self._client, self._key, start=self._at, end=end))
        self._at += len(data)
        return data
