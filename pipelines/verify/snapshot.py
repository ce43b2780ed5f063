"""The Delta log over the files of pairs, against the receipts: the same files, sizes and rows.

Limits: the log's newest version only, read by deltalake; older versions are not looked at, nor the
log's own history.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipelines.verify.layout import FileRef, parse_file_key
from pipelines.verify.prefix import Prefix
from pipelines.verify.report import Finding

TABLE = "data"
LOG = f"{TABLE}/_delta_log"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What the log names: key -> (bytes, rows); `error` is why it could not be read."""

    files: Mapping[str, tuple[int, int | None]]
    error: str = ""


def read_snapshot(prefix: Prefix) -> Snapshot:
    """The log as it is now; empty where there is none yet."""
    if not prefix.list(LOG):
        return Snapshot(files={})
    uri, options = prefix.delta_location(TABLE)
    try:
        actions = pa.table(DeltaTable(uri, storage_options=options).get_add_actions())
    except (DeltaError, OSError, ValueError) as error:
        return Snapshot(files={}, error=f"the Delta log cannot be read: {error}")
    rows = actions.select(["path", "size_bytes", "num_records"]).to_pylist()
    return Snapshot(
        files={
            f"{TABLE}/{unquote(row['path'])}": (row["size_bytes"], row["num_records"])
            for row in rows
        }
    )


def compare(
    snapshot: Snapshot, refs: Mapping[str, FileRef], unreadable: Collection[tuple[str, int]]
) -> tuple[int, list[Finding]]:
    """How many files are not in the log yet, and what in it does not fit.

    `refs` are the files of pairs that receipts name; for the (unit, round) in `unreadable` there is
    a receipt, but what it names is not known.
    """
    if snapshot.error:
        return 0, [Finding(kind="snapshot", sentence=snapshot.error, file=LOG)]
    findings: list[Finding] = []
    for key, (size_bytes, num_rows) in snapshot.files.items():
        where = parse_file_key(key)
        ref = refs.get(key)
        if ref is None and where not in unreadable:
            sentence = "the Delta log names a file that no receipt names"
        elif ref is not None and (size_bytes, num_rows) != (ref.size_bytes, ref.num_rows):
            sentence = f"the Delta log says {size_bytes} bytes and {num_rows} rows, the receipt "
            sentence += f"{ref.size_bytes} and {ref.num_rows}"
        else:
            continue
        unit_id, round_index = where or (None, None)
        findings.append(
            Finding(
                kind="snapshot",
                sentence=sentence,
                unit_id=unit_id,
                round_index=round_index,
                file=key,
            )
        )
    return len(refs.keys() - snapshot.files.keys()), findings
