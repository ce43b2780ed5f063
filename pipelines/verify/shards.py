"""One commit against its receipt: the bytes, the Parquet file, the columns, the images, the ids.

What comes out is the small columns of its rows, for `rows.py` to compare with all others.

Limits: one file is in memory whole, once; its bytes are hashed and then parsed where they lie.
Images are hashed and the first bytes are looked at, they are not decoded: a picture that was broken
when it was committed stays unseen. A file whose hash is wrong is not read at all.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.verify.layout import FileRef, Receipt, ids_digest
from pipelines.verify.prefix import Prefix
from pipelines.verify.report import Finding, Kind

# pyarrow makes its compute functions at import.
_compute: Any = pc

_SHARED = {
    "pair_id": "string",
    "chain_id": "string",
    "unit_id": "string",
    "round_index": "int32",
    "parent_id": "string",
    "seed": "string",
    "prompt": "string",
    "image": "struct<bytes: binary, path: string>",
    "image_sha256": "string",
    "rng_seed_draw": "int64",
    "rng_seed_describe": "int64",
    "created_at": "timestamp[us, tz=UTC]",
}
_MODEL = "struct<id: string, revision: string, digest: string, licence: string, params: string>"
PAIR_COLUMNS = _SHARED | {
    "is_prompt_truncated": "bool",
    "width": "int32",
    "height": "int32",
    "description": "string",
    "instruction": "string",
    "instruction_id": "string",
    "instruction_sha256": "string",
    "generator": _MODEL,
    "captioner": _MODEL,
    "draw_s": "double",
    "describe_s": "double",
}
# What runs before version 2.2 of the format, or 2.1, do not have, and others have throughout.
NEWER_PAIR_COLUMNS = {
    "clip_similarity": "float",
    "clip_similarity_description": "float",
    "image_similarity_first": "float",
    "image_similarity_previous": "float",
    "text_similarity_first": "float",
    "text_similarity_previous": "float",
    "aesthetic": "float",
    "punsafe": "float",
    "pwatermark": "float",
    "phash": "string",
    "caption_flags": "list<string>",
    "image_embedding": "list<float>",
    "text_embedding": "list<float>",
    "score_s": "double",
    "scorer": _MODEL,
    "stop_reason": "string",
    "finish_reason": "string",
}
DEAD_LETTER_COLUMNS = _SHARED | {
    "stage": "string",
    "reason": "string",
    "message": "string",
    "traceback_sha256": "string",
    "attempts": "int32",
}
# What `rows.py` needs of every row. A pair has no stage, a dead letter no description.
ENTRY_SCHEMA = pa.schema(
    [
        ("unit_id", pa.string()),
        ("round_index", pa.int32()),
        ("is_pair", pa.bool_()),
        ("pair_id", pa.string()),
        ("chain_id", pa.string()),
        ("parent_id", pa.string()),
        ("seed", pa.string()),
        ("prompt", pa.string()),
        ("description", pa.string()),
        ("stage", pa.string()),
        ("stop_reason", pa.string()),
    ]
)


@dataclass
class Commit:
    """What lies behind one receipt."""

    receipt: Receipt
    findings: list[Finding] = field(default_factory=list[Finding])
    entries: list[pa.Table] = field(default_factory=list[pa.Table])
    num_bytes: int = 0

    @property
    def is_whole(self) -> bool:
        """All its files could be read as what was committed."""
        return len(self.entries) == len(self.receipt.files)

    def add(self, kind: Kind, sentence: str, file: str | None = None, num_rows: int = 1) -> None:
        """Notes a finding of this unit and round."""
        finding = Finding(
            kind=kind,
            sentence=sentence,
            unit_id=self.receipt.unit.unit_id,
            round_index=self.receipt.round_index,
            file=file,
            num_rows=num_rows,
        )
        self.findings.append(finding)


def check_commit(prefix: Prefix, receipt: Receipt) -> Commit:
    """Reads the files of a receipt, one after the other, and checks each."""
    commit = Commit(receipt)
    reasons, stops = Counter[str](), Counter[str]()
    for ref in receipt.files:
        table = _read(prefix, ref, commit)
        if table is None:
            continue
        _check_names(table, ref, commit)
        _check_images(table, ref, commit)
        if ref.is_pairs:
            stops.update(_stops(table).drop_null().to_pylist())
        else:
            reasons.update(table.column("reason").to_pylist())
        commit.entries.append(_entries(table, ref, receipt))
    if commit.is_whole:
        ids = [one for part in commit.entries for one in part.column("pair_id").to_pylist()]
        if ids_digest(str(one) for one in ids) != receipt.ids_digest:
            commit.add("corrupt", "the ids of its rows are not those of its receipt's digest")
        if reasons != receipt.error_reasons:
            commit.add("receipt", f"error_reasons differ from the dead letters, {dict(reasons)}")
        if stops != receipt.stop_reasons:
            commit.add("receipt", f"stop_reasons differ from the pairs, {dict(stops)}")
    return commit


def _read(prefix: Prefix, ref: FileRef, commit: Commit) -> pa.Table | None:
    try:
        data = prefix.read(ref.key)
    except FileNotFoundError:
        commit.add("lost", f"the file is gone, with {ref.num_rows} rows", ref.key, ref.num_rows)
        return None
    commit.num_bytes += data.size
    if data.size != ref.size_bytes or hashlib.sha256(data).hexdigest() != ref.sha256:
        sentence = f"not the bytes that were committed ({data.size} of {ref.size_bytes}, sha256)"
        commit.add("corrupt", sentence, ref.key, ref.num_rows)
        return None
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
        table.validate(full=True)  # text that is no UTF-8 would surface far away
    except (pa.ArrowException, OSError) as error:
        commit.add("corrupt", f"does not open as Parquet: {error}", ref.key, ref.num_rows)
        return None
    expected = PAIR_COLUMNS if ref.is_pairs else DEAD_LETTER_COLUMNS
    found = {column.name: _kind(column.type) for column in table.schema}
    odd = sorted(name for name, kind in expected.items() if found.get(name) != kind)
    newer = NEWER_PAIR_COLUMNS if ref.is_pairs else {}
    odd += sorted(name for name, kind in newer.items() if found.get(name, kind) != kind)
    if odd:
        commit.add("corrupt", f"columns {odd} are missing or of another type", ref.key)
        return None
    if table.num_rows != ref.num_rows:
        sentence = f"{table.num_rows} rows, its receipt says {ref.num_rows}"
        # Those that are there are judged; those that are not show as lost.
        commit.add("receipt", sentence, ref.key)
    return table


def _kind(kind: pa.DataType) -> str:
    # Parquet calls what is in a list otherwise than Arrow does.
    return f"list<{kind.value_type}>" if pa.types.is_list(kind) else str(kind)


def _stops(table: pa.Table) -> Any:
    """Why each pair is the last of its chain; null for one that is not."""
    if "stop_reason" in table.schema.names:
        return table.column("stop_reason")
    return pa.nulls(table.num_rows, pa.string())


def _check_names(table: pa.Table, ref: FileRef, commit: Commit) -> None:
    unit_id, round_index = commit.receipt.unit.unit_id, commit.receipt.round_index
    suffix = f"-{round_index:03d}"
    named = _compute.binary_join_element_wise(table.column("chain_id"), suffix, "")
    for column, expected in (
        ("unit_id", unit_id),
        ("round_index", pa.scalar(round_index, pa.int32())),
        ("pair_id", named),
    ):
        is_right = _compute.fill_null(_compute.equal(table.column(column), expected), False)
        num_wrong = table.num_rows - (_compute.sum(is_right).as_py() or 0)
        if num_wrong:
            sentence = f"{num_wrong} rows have a {column} that is not of this unit and round"
            commit.add("unexpected", sentence, ref.key, num_wrong)


def _check_images(table: pa.Table, ref: FileRef, commit: Commit) -> None:
    wrong: list[str] = []
    ids = table.column("pair_id")
    for index, (data, sha256) in enumerate(_images(table)):
        if data is None and sha256 is None and not ref.is_pairs:
            continue  # it failed before there was a picture
        # A dead letter may be there because its picture could not be read.
        is_image = data is not None and (not ref.is_pairs or _has_magic(data[:12].to_pybytes()))
        if not is_image or hashlib.sha256(data or b"").hexdigest() != sha256:
            wrong.append(str(ids[index].as_py()))
    if wrong:
        sentence = f"{len(wrong)} images are missing or not those of image_sha256, as of {wrong[0]}"
        commit.add("corrupt", sentence, ref.key, len(wrong))


def _images(table: pa.Table) -> Iterator[tuple[pa.Buffer | None, str | None]]:
    images = _compute.struct_field(table.column("image"), "bytes")
    for data, sha256 in zip(images, table.column("image_sha256"), strict=True):
        yield data.as_buffer(), sha256.as_py()  # a view: the bytes are not copied


def _has_magic(head: bytes) -> bool:
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return is_webp or head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))


def _entries(table: pa.Table, ref: FileRef, receipt: Receipt) -> pa.Table:
    length = table.num_rows
    columns: dict[str, Any] = {
        "unit_id": pa.repeat(receipt.unit.unit_id, length),
        "round_index": pa.repeat(pa.scalar(receipt.round_index, pa.int32()), length),
        "is_pair": pa.repeat(ref.is_pairs, length),
        "description": pa.nulls(length, pa.string()),
        "stage": pa.nulls(length, pa.string()),
        "stop_reason": _stops(table),
    }
    own = ["pair_id", "chain_id", "parent_id", "seed", "prompt"]
    own.append("description" if ref.is_pairs else "stage")
    columns |= {name: table.column(name) for name in own}
    return pa.table([columns[name] for name in ENTRY_SCHEMA.names], schema=ENTRY_SCHEMA)
