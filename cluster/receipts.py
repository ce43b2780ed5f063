"""A receipt: the proof that one unit finished one round, as strict JSON.

Limits: a receipt with a field more or less, or of another format number, is refused, not guessed
at: it decides what a resume leaves out.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How the chains of one unit came out of one round.

    `error_reasons` says how many error rows have which reason, so that a summary needs no shard.
    A unit that replays failed chains takes the place of what an earlier unit counted for them:
    `num_replaced_errors` error rows (with `replaced_reasons`, as they were counted then), or
    `num_replaced_stopped` rows that were not grown. So at any moment pairs + (errors - replaced) +
    (stopped - replaced) over all receipts is what was asked for of the units that are committed.
    `stop_reasons` says how many of the pairs are the last of their chain by a rule, and by which:
    these chains count as stopped from the next round on.
    """

    num_pairs: int
    num_error_rows: int
    num_stopped: int
    num_replaced_errors: int = 0
    num_replaced_stopped: int = 0
    error_reasons: dict[str, int] = field(default_factory=dict[str, int])
    replaced_reasons: dict[str, int] = field(default_factory=dict[str, int])
    stop_reasons: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name.startswith("num_") and value < 0:
                raise ValueError(f"field {one.name!r} is {value}: must be 0 or more")


def check_stop_reasons(reasons: object, num_pairs: int) -> None:
    """`ValueError` unless these are counts of some of the pairs."""
    if not _are_counts(reasons) or sum(cast(dict[str, int], reasons).values()) > num_pairs:
        raise ValueError(f"stop_reasons {reasons!r} are no counts of {num_pairs} pairs")


def _are_counts(reasons: object) -> bool:
    return isinstance(reasons, dict) and all(
        isinstance(name, str) and name and type(count) is int and count > 0
        for name, count in cast(dict[Any, Any], reasons).items()
    )


def check_reasons(reasons: object, num_error_rows: int) -> None:
    """`ValueError` unless every error row has exactly one reason, and every reason a row."""
    if not _are_counts(reasons) or sum(cast(dict[str, int], reasons).values()) != num_error_rows:
        raise ValueError(
            f"reasons {reasons!r} do not add up to {num_error_rows} error rows: each needs "
            "a reason code and the number of its rows"
        )


@dataclass(frozen=True, kw_only=True)
class ShardRef:
    """A file that a receipt vouches for; `file` is its key in the store."""

    file: str
    sha256: str
    size_bytes: int
    num_rows: int


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What one commit wrote; `data` and `dead_letter` are None where there are no such rows."""

    unit_id: str
    round_index: int
    data: ShardRef | None
    dead_letter: ShardRef | None
    num_pairs: int
    num_error_rows: int
    num_stopped: int
    num_replaced_errors: int
    num_replaced_stopped: int
    error_reasons: dict[str, int]
    replaced_reasons: dict[str, int]
    ids_digest: str
    fingerprint: str
    versions: dict[str, str]
    committed_at: str
    stop_reasons: dict[str, int] = field(default_factory=dict[str, int])
    """Absent from the JSON where it is empty, as in every run without rules for stopping."""

    @property
    def files(self) -> list[str]:
        """The keys of all files that it vouches for."""
        return [shard.file for shard in (self.data, self.dead_letter) if shard is not None]

    @property
    def num_rows(self) -> int:
        """Pairs and error rows together."""
        return self.num_pairs + self.num_error_rows

    def to_json(self) -> bytes:
        """One line of JSON with a format number, readable by hand."""
        record = {"format": FORMAT, **asdict(self)}
        if not self.stop_reasons:
            del record["stop_reasons"]
        return json.dumps(record, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> "Receipt":
        """The inverse of `to_json`; `ValueError` for anything else, down to a missing field."""
        record = parse_object(data)
        if record.pop("format", None) != FORMAT:
            raise ValueError(f"the receipt's format is not {FORMAT}: written by another pairloom?")
        record.setdefault("stop_reasons", {})  # of a run without rules that stop chains
        _check_fields(cls, record)
        for name, count in (("data", "num_pairs"), ("dead_letter", "num_error_rows")):
            record[name] = _shard_ref(name, record[name], record[count])
        try:
            check_reasons(record["error_reasons"], record["num_error_rows"])
            check_reasons(record["replaced_reasons"], record["num_replaced_errors"])
            check_stop_reasons(record["stop_reasons"], record["num_pairs"])
        except ValueError as error:
            raise ValueError(f"the receipt's {error}") from None
        return cls(**record)


def _shard_ref(name: str, value: dict[str, Any] | None, num_rows: int) -> ShardRef | None:
    if value is not None:
        _check_fields(ShardRef, value)
    if (value["num_rows"] if value else 0) != num_rows or (value is not None and not num_rows):
        raise ValueError(f"the receipt's {name!r} is {value!r}, its count is {num_rows}")
    return ShardRef(**value) if value else None


def _check_fields(cls: type[Receipt | ShardRef], record: dict[str, Any]) -> None:
    names = {one.name for one in fields(cls)}
    if record.keys() != names:
        raise ValueError(f"the receipt's fields differ in {sorted(record.keys() ^ names)}")
    for name, value in record.items():
        if not _fits(name, value):
            raise ValueError(f"the receipt's field {name!r} is {value!r}")


def ids_digest(ids: Iterable[Any]) -> str:
    """sha256 over the sorted ids, one a line: the same for the same set in any order."""
    ordered = list(ids)
    if any(not isinstance(one, str) or not one or "\n" in one for one in ordered):
        raise ValueError("ids must be non-empty strings of one line")
    if len(set(ordered)) != len(ordered):
        twice = next(one for one in ordered if ordered.count(one) > 1)
        raise ValueError(f"id {twice!r} stands more than once in one unit")
    return hashlib.sha256("".join(f"{one}\n" for one in sorted(ordered)).encode()).hexdigest()


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those that are installed here, as a receipt names them.

    pairloom itself may not be: a Ray job brings it along as a folder.
    """
    found: dict[str, str] = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def parse_object(data: bytes) -> dict[str, Any]:
    """One JSON object; `ValueError` for anything else."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return cast(dict[str, Any], value)


def _fits(name: str, value: Any) -> bool:
    if name in ("data", "dead_letter"):
        return value is None or isinstance(value, dict)  # what is in it: _shard_ref
    if name in ("error_reasons", "replaced_reasons", "stop_reasons"):
        return isinstance(value, dict)  # what is in it: check_reasons, check_stop_reasons
    if name == "versions":
        return isinstance(value, dict) and all(
            isinstance(one, str) for one in cast(dict[str, Any], value).values()
        )
    if name.startswith("num_") or name in ("round_index", "size_bytes"):
        return type(value) is int and value >= 0
    return isinstance(value, str)
