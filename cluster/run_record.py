"""The run record: which config owns an output prefix.

The first attempt puts ``run.json``; any later one must have the same fingerprint, so that a resume
under another config is refused with the difference printed instead of mixing two datasets.

Limits: the fingerprint covers what the caller says decides the rows, nothing else.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from cluster.errors import RunMismatchError
from cluster.receipts import parse_object
from cluster.storage_base import Store

FORMAT = 1
RUN_KEY = "run.json"


def fingerprint(config: Mapping[str, Any]) -> str:
    """16 hex digits of the sha256 of the canonical JSON of `config`."""
    return hashlib.sha256(_canonical_json(config)).hexdigest()[:16]


def open_run(store: Store, record: Mapping[str, Any], fingerprint_of: Mapping[str, Any]) -> str:
    """Claims the prefix for a config, or finds it claimed by the same; returns the fingerprint.

    `fingerprint_of` is the part of the config that decides what the rows are: a resume may change
    anything else. `record` is kept for people and for `status`; the first attempt's stays.

    Raises:
        RunMismatchError: the prefix belongs to a run whose `fingerprint_of` differs, or to none
            that this version can read.
    """
    ours = fingerprint(fingerprint_of)
    document = {
        "format": FORMAT,
        "fingerprint": ours,
        "fingerprint_of": dict(fingerprint_of),
        "record": dict(record),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if store.put_if_absent(RUN_KEY, json.dumps(document, indent=1).encode() + b"\n"):
        return ours
    theirs = read_run(store)
    lines = differences(theirs["fingerprint_of"], json.loads(_canonical_json(fingerprint_of)))
    if lines or theirs["fingerprint"] != ours:
        raise RunMismatchError(
            f"{store.uri} belongs to a run with another config. Give another output, or put back:\n"
            + "\n".join(f"  {line}" for line in lines or ["fingerprint"])
        )
    return ours


def read_run(store: Store) -> dict[str, Any]:
    """The run record: format, fingerprint, fingerprint_of, record, started_at.

    Raises:
        ValueError: there is no run under this prefix.
        RunMismatchError: there is one, in a form that this version does not know.
    """
    try:
        data = store.read(RUN_KEY)
    except FileNotFoundError:
        raise ValueError(f"{store.uri} holds no run: it has no {RUN_KEY}") from None
    try:
        run = parse_object(data)
    except ValueError as error:
        raise RunMismatchError(f"{RUN_KEY} in {store.uri}: {error}") from error
    if run.get("format") != FORMAT or not isinstance(run.get("fingerprint_of"), dict):
        raise RunMismatchError(f"{RUN_KEY} in {store.uri} has format {run.get('format')!r}, not 1")
    return run


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """``key: old -> new`` for every leaf that differs, nested keys joined by dots."""
    was, now = dict(_flatten(old)), dict(_flatten(new))
    return [
        f"{key}: {was.get(key, 'absent')} -> {now.get(key, 'absent')}"
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key)
    ]


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flatten(cast(Mapping[str, Any], inner), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(inner)


def _canonical_json(value: Mapping[str, Any]) -> bytes:
    # No NaN: it is not equal to itself, so a run that has one could never be resumed.
    text = json.dumps(dict(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()
