"""Reads the run once, file by file, and writes what is not there yet.

Every file of the run is checked against its receipt's hash. Those whose pairs all lie in files that
an earlier attempt has written are not read again.

Limits: two parts are open at a time, one of each split, and held in memory; three files of the run
are read ahead. The lists of `llava` and `folder` are one file a split, in memory as a whole: about
a kilobyte a pair.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from actors.records import Row
from cluster.ledger import Ledger
from pipelines.filters.columns import Columns, map_ahead
from pipelines.publish.config import PublishConfig
from pipelines.publish.destination import Destination, FileEntry
from pipelines.publish.parquet import ParquetPart
from pipelines.publish.plan import SPLITS, Numbers, Part, Plan
from pipelines.publish.rows import (
    image_folder,
    image_suffix,
    llava_record,
    plain_row,
    to_json,
)
from pipelines.publish.schema import conform
from pipelines.publish.tar import TarPart

NUM_AHEAD = 3
VECTOR_TYPE = pa.list_(pa.float32())
# Pictures that are put at a time: each waits for a disk or a network.
NUM_WRITERS = 16


class PartWriter(Protocol):
    """The file of one part, as it is made."""

    suffix: str

    def add(self, table: pa.Table) -> None: ...

    def finish(self) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be written, and where."""

    ledger: Ledger
    files: list[Columns]
    plan: Plan
    schema: pa.Schema
    config: PublishConfig
    place: Destination

    def rows_of(self, file: int) -> Numbers:
        """Which judged pairs lie in this file of the run and are kept."""
        start, end = np.searchsorted(self.plan.file_of, [file, file + 1])
        rows = np.arange(start, end)
        return rows[self.plan.part_of[rows] >= 0]


def published_columns(schema: pa.Schema, config: PublishConfig) -> list[str]:
    """The columns that the form of a publish has."""
    # As texts 768 numbers are 16 kB, and a list of a split is written, and read, all at once.
    is_bare = config.format == "folder"
    return [one.name for one in schema if not (is_bare and one.type == VECTOR_TYPE)]


def write_pairs(job: Job) -> list[FileEntry]:
    """Writes all pairs in the form that the config asks for."""
    return (
        _write_parts(job) if job.config.format in ("parquet", "webdataset") else _write_loose(job)
    )


def _write_parts(job: Job) -> list[FileEntry]:
    plan, place = job.plan, job.place
    make, suffix = _maker(job)
    keys = [part.stem + suffix for part in plan.parts]
    entries = {
        index: place.take(key, num_rows=plan.parts[index].num_rows, split=plan.parts[index].split)
        for index, key in enumerate(keys)
        if place.has(key)
    }
    missing = np.array([index not in entries for index in range(len(keys))])
    wanted = [one for one in range(len(job.files)) if missing[plan.part_of[job.rows_of(one)]].any()]
    left = [part.num_rows for part in plan.parts]
    opened: dict[int, PartWriter] = {}
    for rows, table in _read(job, wanted):
        of_row = plan.part_of[rows]
        for index in np.unique(of_row[missing[of_row]]).tolist():
            writer = opened.get(index) or opened.setdefault(index, make())
            mine = of_row == index
            writer.add(table if mine.all() else table.filter(pa.array(mine)))
            left[index] -= int(mine.sum())
            if not left[index]:
                entries[index] = _finish(place, keys[index], opened.pop(index), plan.parts[index])
    return [entries[index] for index in range(len(keys))]


def _finish(place: Destination, key: str, writer: PartWriter, part: Part) -> FileEntry:
    return place.put(key, writer.finish(), num_rows=part.num_rows, split=part.split)


def _maker(job: Job) -> tuple[Callable[[], PartWriter], str]:
    if job.config.format == "webdataset":
        return TarPart, TarPart.suffix
    return lambda: ParquetPart(job.schema, job.config.rows_a_group), ParquetPart.suffix


def _read(job: Job, wanted: list[int]) -> Iterator[tuple[Numbers, pa.Table]]:
    """The kept rows of each of these files, with the places of their pairs in the plan."""

    def read(file: int) -> tuple[Numbers, pa.Table]:
        rows = job.rows_of(file)
        table = job.ledger.read_pairs(job.files[file].receipt)
        places = job.plan.row_of[rows]
        if len(places) < table.num_rows:
            table = table.take(pa.array(places))
        return rows, conform(table, job.schema)

    return map_ahead(read, wanted, NUM_AHEAD)


def _write_loose(job: Job) -> list[FileEntry]:
    """Pictures as files of their own, and a list of the texts for each split."""
    entries: list[FileEntry] = []
    lines: defaultdict[str, list[str]] = defaultdict(list)
    wanted = [one for one in range(len(job.files)) if len(job.rows_of(one))]
    with ThreadPoolExecutor(NUM_WRITERS) as writers:
        for rows, table in _read(job, wanted):
            splits = [SPLITS[place] for place in job.plan.split_of[rows].tolist()]
            pairs = list(zip(splits, table.to_pylist(), strict=True))
            entries += writers.map(lambda pair: _put_image(job, *pair), pairs)
            for split, row in pairs:
                lines[split].append(_line(job, row))
    for split, texts in lines.items():
        key, data = _list_of(job, split, texts)
        entries.append(job.place.put(key, data, num_rows=len(texts), split=split))
    return entries


def _put_image(job: Job, split: str, row: Row) -> FileEntry:
    data = row["image"]["bytes"]
    folder = split if job.config.format == "folder" else "images"
    key = f"{folder}/{_image_name(row)}"
    if not job.place.has(key):
        return job.place.put(key, data, num_rows=1, split=split)
    # `read_pairs` has shown that these are the committed bytes, and a put is whole or not at all.
    return FileEntry(
        file=key, sha256=row["image_sha256"], size_bytes=len(data), num_rows=1, split=split
    )


def _image_name(row: Row) -> str:
    suffix = image_suffix(row["image"]["bytes"], row["pair_id"])
    return f"{image_folder(row['chain_id'])}/{row['pair_id']}.{suffix}"


def _line(job: Job, row: Row) -> str:
    if job.config.format == "llava":
        return to_json(llava_record(row, f"images/{_image_name(row)}"))
    # Without the split's name: `imagefolder` looks beside its metadata.
    plain, names = plain_row(row), published_columns(job.schema, job.config)
    told = {name: plain[name] for name in names if name in plain}
    return to_json({"file_name": _image_name(row), **told})


def _list_of(job: Job, split: str, lines: list[str]) -> tuple[str, bytes]:
    if job.config.format == "llava":
        return f"llava_{split}.json", ("[\n" + ",\n".join(lines) + "\n]\n").encode()
    return f"{split}/metadata.jsonl", "".join(f"{line}\n" for line in lines).encode()
