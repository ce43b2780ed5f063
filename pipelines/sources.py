"""Reads seeds from a file into the seed table: one row per seed, the unusable ones with a reason.

txt (a seed a line), jsonl, csv and Parquet, from a folder or an object store. What one row holds
never ends a run: an empty, over-long, repeated or undecodable seed becomes a row with an `error`,
and so does one that a model would take for an order (`has_text_rules`).
A file that cannot be read at all, or lacks the column, is a `ValueError`.

Limits: the driver holds all seeds in memory (about a kilobyte each, as table and as read tasks).
A csv is read as a whole, so a quoted field may span lines; in txt and jsonl a seed is one line.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.prompts import clean_text
from actors.reasons import Reason, RowError
from actors.records import SEED_SCHEMA, derive_chain_ids
from actors.text_rules import SEED_RULES, find_rule
from cluster.errors import StoreError
from cluster.storage import open_store
from pipelines.author import AuthorConfig

# A seed file that cannot be reached is said within 5 s of the start.
READ_TIMEOUT_S = 4.0
SUFFIXES = (".txt", ".jsonl", ".csv", ".parquet")


@dataclass(frozen=True, kw_only=True)
class SeedsConfig:
    """Where the seeds come from: a file when `path` is set, else the author model."""

    path: str | None = None  # .txt .jsonl .csv .parquet, local or s3:// gs:// az://; before author
    column: str = "seed"  # of jsonl, csv and Parquet
    limit: int | None = None  # only the first so many seeds of the file
    max_chars: int = 2000  # a longer seed becomes an error row
    # a seed with a chat template's token, or an order to the model, becomes an error row
    has_text_rules: bool = True
    author: AuthorConfig = field(default_factory=AuthorConfig)

    def __post_init__(self) -> None:
        if self.path is not None and not self.path.endswith(SUFFIXES):
            raise ValueError(
                f"field 'seeds.path' is {self.path!r}: must end in one of {', '.join(SUFFIXES)}"
            )
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"field 'seeds.limit' is {self.limit}: must be 1 or more, or null")
        if self.max_chars < 1:
            raise ValueError(f"field 'seeds.max_chars' is {self.max_chars}: must be 1 or more")


@dataclass(frozen=True, kw_only=True)
class RawSeed:
    """A seed as it was found: its text, where it stood, and why it cannot be used, if so."""

    text: str
    source: str
    problem: RowError | None = None
    has_column: bool | None = None  # None where there is no row to look into


def read_file(config: SeedsConfig) -> bytes:
    """The bytes of the file that `config.path` names.

    Raises:
        ValueError: the file is missing or out of reach.
    """
    assert config.path is not None
    folder, _, name = config.path.rpartition("/")
    try:
        store = open_store(
            folder or ("." if name == config.path else "/"), retry_timeout_s=READ_TIMEOUT_S
        )
        return store.read(name)
    except (FileNotFoundError, StoreError, OSError) as error:
        raise ValueError(
            f"field 'seeds.path' is {config.path!r}: cannot be read: {error}"
        ) from None


def parse_seeds(config: SeedsConfig, data: bytes) -> list[RawSeed]:
    """The seeds in the bytes of a seed file, as its suffix says how to read it.

    Raises:
        ValueError: it is unreadable or empty, or has no such column.
    """
    assert config.path is not None
    name = config.path.rpartition("/")[2]
    readers = {
        ".txt": _read_txt,
        ".jsonl": _read_jsonl,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    reader = readers[PurePosixPath(name).suffix]
    try:
        seeds = list(reader(data, config.column, name))
    except (pa.ArrowException, csv.Error, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"field 'seeds.path' is {config.path!r}: not readable: {error}") from None
    if not seeds:
        raise ValueError(f"field 'seeds.path' is {config.path!r}: holds no seeds")
    seeds = seeds[: config.limit]
    return [_apply_rules(seed) for seed in seeds] if config.has_text_rules else seeds


def to_seed_table(seeds: list[RawSeed], *, run_seed: int, max_chars: int) -> pa.Table:
    """Cleans and checks seeds, names their chains, and lays them out in `SEED_SCHEMA`, in order."""
    texts: list[str] = []
    problems: list[RowError | None] = []
    seen: set[str] = set()
    for seed in seeds:
        text = clean_text(seed.text)
        texts.append(text)
        problem = seed.problem or _find_problem(text, seen, max_chars)
        problems.append(problem)
        if problem is None:
            seen.add(text)  # a seed is a repeat only of one that is used
    rows = [
        {
            "chain_id": chain_id,
            "seed": text,
            "source": seed.source,
            "error": problem.to_error() if problem else None,
        }
        for chain_id, text, seed, problem in zip(
            derive_chain_ids(run_seed, texts), texts, seeds, problems, strict=True
        )
    ]
    return pa.Table.from_pylist(rows, schema=SEED_SCHEMA)


def count_problems(table: pa.Table) -> Counter[str]:
    """How many seeds cannot be used, by reason code."""
    return Counter(e.partition(":")[0] for e in table.column("error").to_pylist() if e)


def _apply_rules(seed: RawSeed) -> RawSeed:
    rule = find_rule(seed.text, SEED_RULES)
    if seed.problem or rule is None:
        return seed
    message = f"{rule}: {seed.text[:80]!r}; seeds.has_text_rules=false lets it pass"
    return replace(seed, problem=RowError(Reason.SEED_RULE, message))


def _find_problem(text: str, seen: set[str], max_chars: int) -> RowError | None:
    if not text:
        return RowError(Reason.SEED_EMPTY, "no text is left once white space and controls are gone")
    if len(text) > max_chars:
        return RowError(Reason.SEED_TOO_LONG, f"{len(text)} characters, the limit is {max_chars}")
    if text in seen:
        return RowError(Reason.SEED_DUPLICATE, "an earlier seed has the same text")
    return None


def _decode(raw: bytes, source: str) -> RawSeed:
    try:
        return RawSeed(text=raw.decode(), source=source)
    except UnicodeDecodeError as error:
        problem = RowError(Reason.SEED_NOT_UTF8, str(error))
        text = raw.decode(errors="backslashreplace")
        return RawSeed(text=text, source=source, problem=problem)


def _lines(data: bytes, name: str) -> Iterator[RawSeed]:
    body = data.removeprefix(b"\xef\xbb\xbf")  # a byte order mark, as Windows editors write it
    lines = body.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()  # the end of the last line, not a seed
    for number, line in enumerate(lines, 1):
        yield _decode(line, f"{name}:{number}")


def _read_txt(data: bytes, column: str, name: str) -> Iterator[RawSeed]:
    return _lines(data, name)


def _read_jsonl(data: bytes, column: str, name: str) -> Iterator[RawSeed]:
    seeds = [_from_json(line, column) for line in _lines(data, name)]
    objects = [seed for seed in seeds if seed.has_column is not None]
    if objects and not any(seed.has_column for seed in objects):
        raise ValueError(
            f"field 'seeds.column' is {column!r}: no line of {name} has it; set seeds.column=..."
        )
    yield from seeds


def _from_json(line: RawSeed, column: str) -> RawSeed:
    if line.problem:
        return line
    try:
        value: Any = json.loads(line.text)
    except (ValueError, RecursionError) as error:
        return _unreadable(line, f"no JSON: {error}")
    if not isinstance(value, dict):
        return _unreadable(line, f"no JSON object but {type(value).__name__}")
    return _from_value(value, column, line.source)  # pyright: ignore[reportUnknownArgumentType]


def _from_value(row: dict[str, Any], column: str, source: str) -> RawSeed:
    value = row.get(column)
    if isinstance(value, str):
        return replace(_decode(_to_bytes(value), source), has_column=True)
    found = f"holds {type(value).__name__}" if column in row else "has no such column"
    seed = _unreadable(RawSeed(text=str(value), source=source), f"column {column!r} {found}")
    return replace(seed, has_column=column in row)


def _to_bytes(value: str) -> bytes:
    try:
        return value.encode(errors="surrogateescape")  # gives back the bytes that were no UTF-8
    except UnicodeEncodeError:
        return value.encode(errors="surrogatepass")  # half a pair: bytes that `_decode` refuses


def _unreadable(seed: RawSeed, message: str) -> RawSeed:
    return replace(seed, problem=RowError(Reason.SEED_UNREADABLE, message))


def _read_csv(data: bytes, column: str, name: str) -> Iterator[RawSeed]:
    # surrogateescape carries bytes that are no UTF-8 through the csv reader to `_decode`.
    text = data.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
    # An over-long field is `seed_too_long`, not a csv error that refuses the file.
    csv.field_size_limit(len(text) + 1)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(reader, [])
    _require(column, header, name)
    for cells in reader:
        # A blank line is a seed that is empty, in a csv as in a txt.
        row = dict(zip(header, cells, strict=False)) if cells else {column: ""}
        yield _from_value(row, column, f"{name}:{reader.line_num}")


def _read_parquet(data: bytes, column: str, name: str) -> Iterator[RawSeed]:
    file = pq.ParquetFile(pa.BufferReader(data))
    names = file.schema_arrow.names
    _require(column, names, name)
    if names.count(column) > 1:
        raise ValueError(f"field 'seeds.column' is {column!r}: {name} has it more than once")
    values = file.read(columns=[column]).column(column)
    kind: pa.DataType = values.type
    if pa.types.is_dictionary(kind):
        values = values.cast(kind.value_type)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        # As bytes: the first text that is no UTF-8 would refuse all the others.
        raw: list[bytes | None] = values.cast(pa.large_binary()).to_pylist()
        cells: list[object] = [_to_text(cell) for cell in raw]
    else:
        cells = values.to_pylist()
    for number, cell in enumerate(cells, 1):
        yield _from_value({column: cell}, column, f"{name}:{number}")


def _to_text(cell: bytes | None) -> str | None:
    """With surrogates for the bytes that are no UTF-8, as the other readers hand them on."""
    return None if cell is None else cell.decode(errors="surrogateescape")


def _require(column: str, present: list[str], name: str) -> None:
    if column not in present:
        raise ValueError(
            f"field 'seeds.column' is {column!r}: {name} has the columns {', '.join(present)}; "
            "set seeds.column=..."
        )
