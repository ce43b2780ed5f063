"""A receipt: the proof that one unit finished one round, as strict JSON.

Limits: a receipt with a field more or less, or of another format number, is refused, not guessed
at: it decides what a resume leaves out.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How the chains of one unit came out of one round; rows = pairs + error rows.

    `error_reasons` says how many error rows have which reason, so that a summary needs no shard.
    """

    num_pairs: int
    num_error_rows: int
    num_stopped: int
    error_reasons: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        for name in ("num_pairs", "num_error_rows", "num_stopped"):
            if getattr(self, name) < 0:
                raise ValueError(f"field {name!r} is {getattr(self, name)}: must be 0 or more")


def check_reasons(reasons: object, num_error_rows: int) -> None:
    """`ValueError` unless every error row has exactly one reason, and every reason a row."""
    found = cast(dict[Any, Any], reasons) if isinstance(reasons, dict) else {}
    is_sound = isinstance(reasons, dict) and all(
        isinstance(name, str) and name and type(count) is int and count > 0
        for name, count in found.items()
    )
    if not is_sound or sum(found.values()) != num_error_rows:
        raise ValueError(
            f"error_reasons {reasons!r} do not add up to {num_error_rows} error rows: each needs "
            "a reason code and the number of its rows"
        )


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What one commit wrote; `file` is None (and sha256 "") when the unit has no rows left."""

    unit_id: str
    round_index: int
    file: str | None
    sha256: str
    size_bytes: int
    num_rows: int
    num_pairs: int
    num_error_rows: int
    num_stopped: int
    error_reasons: dict[str, int]
    ids_digest: str
    fingerprint: str
    versions: dict[str, str]
    committed_at: str

    def to_json(self) -> bytes:
        """One line of JSON with a format number, readable by hand."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> "Receipt":
        """The inverse of `to_json`; `ValueError` for anything else, down to a missing field."""
        record = parse_object(data)
        if record.pop("format", None) != FORMAT:
            raise ValueError(f"the receipt's format is not {FORMAT}: written by another pairloom?")
        names = {one.name for one in fields(cls)}
        if record.keys() != names:
            raise ValueError(f"the receipt's fields differ in {sorted(record.keys() ^ names)}")
        for name, value in record.items():
            if not _fits(name, value):
                raise ValueError(f"the receipt's field {name!r} is {value!r}")
        if (record["file"] is None) != (record["num_rows"] == 0):
            raise ValueError("the receipt has rows without a file, or a file without rows")
        try:
            check_reasons(record["error_reasons"], record["num_error_rows"])
        except ValueError as error:
            raise ValueError(f"the receipt's {error}") from None
        return cls(**record)


def ids_digest(ids: Iterable[Any]) -> str:
    """sha256 over the sorted ids, one a line: the same for the same set in any order."""
    ordered = list(ids)
    if any(not isinstance(one, str) or not one or "\n" in one for one in ordered):
        raise ValueError("ids must be non-empty strings of one line")
    if len(set(ordered)) != len(ordered):
        twice = next(one for one in ordered if ordered.count(one) > 1)
        raise ValueError(f"id {twice!r} stands more than once in one unit")
    return hashlib.sha256("".join(f"{one}\n" for one in sorted(ordered)).encode()).hexdigest()


def parse_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return cast(dict[str, Any], value)


def _fits(name: str, value: Any) -> bool:
    if name == "file":
        return value is None or isinstance(value, str)
    if name == "error_reasons":
        return isinstance(value, dict)  # what is in it: check_reasons
    if name == "versions":
        return isinstance(value, dict) and all(
            isinstance(one, str) for one in cast(dict[str, Any], value).values()
        )
    if name.startswith("num_") or name in ("round_index", "size_bytes"):
        return type(value) is int and value >= 0
    return isinstance(value, str)
