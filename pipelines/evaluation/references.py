"""The reference text of every pair: a column of the pairs themselves, or a file.

Limits: a file is local and read whole; of a pair that it does not name there is no measurement.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from actors.records import Row
from pipelines.evaluation.config import COLUMNS

KEYS = ("pair_id", "chain_id")
# pyarrow annotates its readers for the simplest call only.
_read_csv: Any = pa_csv.read_csv
_convert: Any = pa_csv.ConvertOptions

Find = Callable[[Row], str | None]


def find_references(references: str) -> Find:
    """What tells the reference of a pair's row, or None where there is none.

    Raises:
        ValueError: the file is missing or not readable, lacks a column, or says two things of one
            key.
    """
    if references in COLUMNS:
        return lambda row: row[references]
    key, texts = _read(references)
    return lambda row: texts.get(row[key])


def _read(path: str) -> tuple[str, dict[str, str]]:
    table = _read_table(path)
    key = next((name for name in KEYS if name in table.schema.names), None)
    if key is None or "reference" not in table.schema.names:
        raise ValueError(
            f"field 'references' is {path!r}: has columns {table.schema.names}, must have "
            "'reference' and 'pair_id' or 'chain_id'"
        )
    return key, _index(path, table.select([key, "reference"]).to_pylist(), key)


def _read_table(path: str) -> pa.Table:
    file = Path(path).expanduser()
    try:
        match file.suffix:
            case ".jsonl":
                return pa_json.read_json(file)
            case ".csv":
                # ids of digits only would become numbers
                types = dict.fromkeys((*KEYS, "reference"), pa.string())
                return _read_csv(file, convert_options=_convert(column_types=types))
            case _:
                return pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"field 'references' is {path!r}: not readable ({error})") from None


def _index(path: str, rows: Iterable[Row], key: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for row in rows:
        name, text = row[key], row["reference"]
        if not isinstance(name, str) or not isinstance(text, str) or not text.strip():
            raise ValueError(f"field 'references' is {path!r}: has a row without text, {row}")
        if texts.setdefault(name, text) != text:
            raise ValueError(f"field 'references' is {path!r}: has two references for {name!r}")
    return texts
