"""The format on disk as the verifier understands it: names, digests, run.json, seeds, receipts.

Written from the description of the format, not from the code that writes it: two implementations
that agree are evidence, one that is asked twice is not.

Limits: a receipt has no hash of its own, so its `versions` and its `committed_at` are only seen to
be well formed, and its `replaced_reasons` to add up. Of run.json the fingerprint covers what
decides the rows; the rest is not judged. Of the seed table `source` and what was noted of the
author are not covered by anything.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import pyarrow as pa

RUN_FORMAT, RECEIPT_FORMAT, PLAN_FORMAT = 1, 2, 1
RUN_KEY, SEEDS_KEY, FRESH_KEY = "run.json", "seeds/seeds.parquet", "seeds/fresh.parquet"
SEED_COLUMNS = ("chain_id", "seed", "error")

# A name of other characters is a file manager's copy, no unit.
_RECEIPT_KEY = re.compile(r"receipts/([A-Za-z0-9][A-Za-z0-9_.-]*)/(0|[1-9][0-9]*)\.json")
_PLAN_KEY = re.compile(r"replays/([1-9][0-9]*)\.json")
_FILE_KEY = re.compile(r"(?:data|dead_letter)/round=([0-9]+)/([^/]+)-[0-9a-f]{16}\.parquet")
_UNIT_ID = re.compile(r"([0-9]{7})-[0-9a-f]{8}(?:\.replay([1-9][0-9]*)r([0-9]+))?")
_RECEIPT_COUNTS = (
    "num_pairs",
    "num_error_rows",
    "num_stopped",
    "num_replaced_errors",
    "num_replaced_stopped",
)
_RECEIPT_FIELDS = {
    *("format", "unit_id", "round_index", "data", "dead_letter", *_RECEIPT_COUNTS),
    *("error_reasons", "replaced_reasons", "ids_digest", "fingerprint", "versions", "committed_at"),
}
Beginning = tuple[str, int, str]  # chain, round, text
# There where a rule ended chains with this commit's pairs, and nowhere else.
_STOP_REASONS = "stop_reasons"


@dataclass(frozen=True, kw_only=True)
class Inject:
    """How many rounds begin anew with a fresh description, and where these stand."""

    share: float
    from_round: int
    digest: str | None  # of the table of fresh descriptions; None: the seeds are these too


@dataclass(frozen=True, kw_only=True)
class Run:
    """What run.json says was asked for."""

    fingerprint: str
    num_rounds: int
    unit_size: int
    run_seed: int
    is_loop: bool
    seeds: dict[str, Any]  # how many, and the digest of those that came from a file
    inject: Inject | None  # None where no chain begins anew


@dataclass(frozen=True, kw_only=True)
class UnitName:
    """A unit, as its id tells it; one of a generation above 0 replays dead letters."""

    unit_id: str
    unit_index: int
    generation: int
    start_round: int


@dataclass(frozen=True, kw_only=True)
class FileRef:
    """A file that a receipt vouches for."""

    key: str
    sha256: str
    size_bytes: int
    num_rows: int
    is_pairs: bool  # else dead letters


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """One commit, as its receipt states it."""

    unit: UnitName
    round_index: int
    files: tuple[FileRef, ...]
    num_stopped: int
    num_replaced_errors: int
    num_replaced_stopped: int
    error_reasons: dict[str, int]
    stop_reasons: dict[str, int]
    ids_digest: str


def read_run(data: bytes) -> Run:
    """`ValueError`, with what is wrong, unless this is a run whose fingerprint is its own."""
    run = _object(data)
    if run.get("format") != RUN_FORMAT:
        raise ValueError(f"its format is {run.get('format')!r}: must be {RUN_FORMAT}")
    asked = _fields("fingerprint_of", run.get("fingerprint_of"))
    datetime.fromisoformat(_text("started_at", run.get("started_at")))
    canonical = json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()
    if hashlib.sha256(canonical).hexdigest()[:16] != run.get("fingerprint"):
        raise ValueError("its fingerprint is not that of what stands in fingerprint_of")
    names = ("num_rounds", "unit_size", "run_seed")
    if not all(type(asked.get(name)) is int for name in names):
        raise ValueError(f"fingerprint_of lacks one of {', '.join(names)}")
    record = _fields("record", run.get("record"))
    for name in (*names, "mode"):
        if record.get(name) != asked.get(name):
            raise ValueError(f"{name} is {record.get(name)!r} in the record, {asked.get(name)!r}")
    return Run(
        fingerprint=run["fingerprint"],
        num_rounds=asked["num_rounds"],
        unit_size=asked["unit_size"],
        run_seed=asked["run_seed"],
        is_loop=asked.get("mode") == "loop",
        seeds=asked.get("seeds") or {},
        inject=_read_inject(_fields("inject", asked["inject"])) if "inject" in asked else None,
    )


def _read_inject(asked: dict[str, Any]) -> Inject:
    if type(asked.get("share")) not in (int, float) or type(asked.get("from_round")) is not int:
        raise ValueError(f"its 'inject' is {asked}: must have a share and a from_round")
    of_table = None if asked.get("fresh") is None else _fields("fresh", asked["fresh"])
    return Inject(
        share=asked["share"],
        from_round=asked["from_round"],
        digest=None if of_table is None else _text("sha256", of_table.get("sha256")),
    )


def find_beginnings(
    chain_ids: Sequence[str], texts: Sequence[str], run: Run
) -> Iterator[Beginning]:
    """Every round in which one of these chains begins anew, with the text that it begins with."""
    if run.inject is None or not texts:  # nothing is committed before the texts are
        return
    limit = run.inject.share * 2**63
    for chain_id in chain_ids:
        for round_index in range(run.inject.from_round, run.num_rounds):
            drawn = digest("rng", run.run_seed, chain_id, round_index, "inject")
            number = int(drawn[:16], 16) >> 1
            if number < limit:
                yield chain_id, round_index, texts[number % len(texts)]


def check_seeds(table: pa.Table, run: Run) -> None:
    """`ValueError` unless the rows are the seeds that the run was started with, in their order."""
    chain_ids, seeds = (table.column(name).to_pylist() for name in ("chain_id", "seed"))
    asked = run.seeds
    expected = asked.get("num_seeds", asked.get("num_batches", 0) * asked.get("batch_size", 0))
    if len(seeds) != expected:
        raise ValueError(f"it has {len(seeds)} seeds, the run was started with {expected}")
    seen = Counter[str]()
    for position, (chain_id, seed) in enumerate(zip(chain_ids, seeds, strict=True)):
        if chain_id != digest("chain", run.run_seed, seed, seen[seed])[:20]:
            raise ValueError(
                f"row {position} (unit {position // run.unit_size}): the chain id {chain_id!r} is "
                f"not that of the seed {str(seed)[:60]!r}"
            )
        seen[seed] += 1
    if "sha256" in asked:
        check_digest(table, asked["sha256"])


def check_digest(table: pa.Table, expected: str) -> None:
    """`ValueError` unless the texts and their errors are those that the run was started with."""
    texts, errors = (table.column(name).to_pylist() for name in ("seed", "error"))
    rows = [list(row) for row in zip(texts, errors, strict=True)]
    if hashlib.sha256(json.dumps(rows).encode()).hexdigest() != expected:
        raise ValueError("its texts or their errors are not those that the run was started with")


def usable(table: pa.Table, name: str) -> list[str]:
    """A column of a table of seeds, without the rows that have an error."""
    columns = (table.column(one).to_pylist() for one in (name, "error"))
    return [value for value, error in zip(*columns, strict=True) if error is None]


def slice_units(chain_ids: Sequence[str], unit_size: int) -> dict[str, list[str]]:
    """The base units: id -> chain ids, from the seed table in its order."""
    units: dict[str, list[str]] = {}
    for index, start in enumerate(range(0, len(chain_ids), unit_size)):
        chains = list(chain_ids[start : start + unit_size])
        units[f"{index:07d}-{unit_digest(chains)}"] = chains
    return units


def parse_unit(unit_id: str) -> UnitName | None:
    """None for a name that no unit has."""
    match = _UNIT_ID.fullmatch(unit_id)
    if match is None:
        return None
    return UnitName(
        unit_id=unit_id,
        unit_index=int(match[1]),
        generation=int(match[2] or 0),
        start_round=int(match[3] or 0),
    )


def parse_receipt_key(key: str) -> tuple[str, int] | None:
    """(unit id, round) of the key of a receipt, None for any other."""
    match = _RECEIPT_KEY.fullmatch(key)
    return (match[1], int(match[2])) if match else None


def parse_file_key(key: str) -> tuple[str, int] | None:
    """(unit id, round) of the key of a file of rows, None for any other."""
    match = _FILE_KEY.fullmatch(key)
    return (match[2], int(match[1])) if match else None


def parse_plan_key(key: str) -> int | None:
    """The generation of the key of a plan of replays, None for any other."""
    match = _PLAN_KEY.fullmatch(key)
    return int(match[1]) if match else None


def read_plan(
    data: bytes, generation: int, run: Run, base: Sequence[Sequence[str]]
) -> dict[str, list[str]]:
    """The units of a plan with their chains; `ValueError`, with what is wrong.

    `base` are the chains of the base units, in order.
    """
    record = _object(data)
    if record.get("format") != PLAN_FORMAT or record.get("fingerprint") != run.fingerprint:
        raise ValueError(f"format {record.get('format')!r}, of {record.get('fingerprint')!r}")
    units = _fields("units", record.get("units"))
    for unit_id, chains in units.items():
        unit = parse_unit(unit_id)
        if unit is None or unit.generation != generation or unit.start_round >= run.num_rounds:
            raise ValueError(f"it plans {unit_id!r}, no unit of generation {generation}")
        named = {_text("chain", chain) for chain in _list(unit_id, chains)}
        is_known = unit.unit_index < len(base) and named <= set(base[unit.unit_index])
        if not is_known or unit_id.partition(".")[0].partition("-")[2] != unit_digest(chains):
            raise ValueError(f"the chains that it has for {unit_id} are not those of the name")
    return units


def read_receipt(data: bytes, unit: UnitName, round_index: int, fingerprint: str) -> Receipt:
    """`ValueError`, with what is wrong, unless this is the receipt that its name says."""
    record = _object(data)
    if record.get("format") != RECEIPT_FORMAT or record.keys() - {_STOP_REASONS} != _RECEIPT_FIELDS:
        odd = sorted(record.keys() ^ _RECEIPT_FIELDS)
        raise ValueError(f"format {record.get('format')!r}, fields that differ: {odd}")
    if (record["unit_id"], record["round_index"]) != (unit.unit_id, round_index):
        raise ValueError(f"it is that of {record['unit_id']!r} round {record['round_index']!r}")
    if record["fingerprint"] != fingerprint:
        raise ValueError(f"its fingerprint {record['fingerprint']!r} is not the run's")
    for name in _RECEIPT_COUNTS:
        _check_count(name, record[name])
    datetime.fromisoformat(_text("committed_at", record["committed_at"]))
    for version in _fields("versions", record["versions"]).values():
        _text("versions", version)
    reasons = _read_reasons("error_reasons", record, record["num_error_rows"])
    _read_reasons("replaced_reasons", record, record["num_replaced_errors"])
    stops = _fields(_STOP_REASONS, record.get(_STOP_REASONS, {}))
    _read_reasons(_STOP_REASONS, {_STOP_REASONS: stops}, sum(stops.values()))
    where = (unit.unit_id, round_index)
    files = [
        _read_ref(record["data"], "data", where, record["num_pairs"]),
        _read_ref(record["dead_letter"], "dead_letter", where, record["num_error_rows"]),
    ]
    return Receipt(
        unit=unit,
        round_index=round_index,
        files=tuple(file for file in files if file is not None),
        num_stopped=record["num_stopped"],
        num_replaced_errors=record["num_replaced_errors"],
        num_replaced_stopped=record["num_replaced_stopped"],
        error_reasons=reasons,
        stop_reasons=stops,
        ids_digest=record["ids_digest"],
    )


def ids_digest(ids: Iterable[str]) -> str:
    """What a receipt says of the ids of its rows."""
    return hashlib.sha256("".join(f"{one}\n" for one in sorted(ids)).encode()).hexdigest()


def unit_digest(chain_ids: Sequence[str]) -> str:
    """The part of a unit's id that stands for its chains."""
    return digest("unit", *chain_ids)[:8]


def digest(*parts: object) -> str:
    """sha256 in hex over the parts, each as its length in bytes, a colon and its text."""
    state = hashlib.sha256()
    for part in parts:
        text = str(part).encode(errors="surrogatepass")
        state.update(b"%d:" % len(text) + text)
    return state.hexdigest()


def _read_reasons(name: str, record: dict[str, Any], num_rows: int) -> dict[str, int]:
    reasons = _fields(name, record[name])
    for count in reasons.values():
        _check_count(name, count)
    if sum(reasons.values()) != num_rows:
        raise ValueError(f"its {name!r} are {reasons}, they should add up to {num_rows}")
    return reasons


def _read_ref(value: Any, name: str, where: tuple[str, int], num_rows: int) -> FileRef | None:
    if value is None and num_rows == 0:
        return None
    ref = _fields(name, value)
    if ref.keys() != {"file", "sha256", "size_bytes", "num_rows"}:
        raise ValueError(f"its {name!r} has the fields {sorted(ref)}")
    if ref["num_rows"] != num_rows or not num_rows:
        raise ValueError(f"its {name!r} has {ref['num_rows']!r} rows, it counts {num_rows}")
    _check_count("size_bytes", ref["size_bytes"])
    sha256 = _text("sha256", ref["sha256"])
    key = f"{name}/round={where[1]}/{where[0]}-{sha256[:16]}.parquet"
    if ref["file"] != key:
        raise ValueError(f"its {name!r} names {ref['file']!r}, by its sha256 it is {key}")
    return FileRef(
        key=key,
        sha256=sha256,
        size_bytes=ref["size_bytes"],
        num_rows=num_rows,
        is_pairs=name == "data",
    )


def _object(data: bytes) -> dict[str, Any]:
    try:
        return _fields("content", json.loads(data))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a JSON object ({error})") from error


def _fields(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"its {name!r} is {value!r}: must be an object")
    return cast(dict[str, Any], value)


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"its {name!r} is {value!r}: must be a list")
    return cast(list[Any], value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"its {name!r} is {value!r}: must be text")
    return value


def _check_count(name: str, value: Any) -> None:
    if type(value) is not int or value < 0:
        raise ValueError(f"its {name!r} is {value!r}: must be 0 or more")
