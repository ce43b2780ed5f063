"""Checks what a ledger left, from the bytes alone: json, hashlib and pyarrow, nothing of cluster.

Made for the rows of tests/support/grow.py; a whole run is checked by `pairloom verify`.
"""

import hashlib
import io
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from grow import FAILS_IN_ROUND, chain_ids

KINDS = {"data": "num_pairs", "dead_letter": "num_error_rows"}


def folder_objects(folder: Path) -> dict[str, bytes]:
    """Every file under `folder`, hidden ones of killed writers left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != ".tmp"
    }


def check_run(
    objects: Mapping[str, bytes], unit_ids: Collection[str], num_rounds: int
) -> list[str]:
    """Asserts that every round of every unit is there once and whole; returns the orphans."""
    receipts = {key: json.loads(objects[key]) for key in objects if key.startswith("receipts/")}
    wanted = {f"receipts/{unit}/{turn}.json" for unit in unit_ids for turn in range(num_rounds)}
    assert receipts.keys() == wanted, f"lost or too many: {sorted(receipts.keys() ^ wanted)}"
    pairs: dict[str, dict[str, Any]] = {}
    letters: dict[str, dict[str, Any]] = {}
    named: set[str] = set()
    for key, receipt in receipts.items():
        assert key == f"receipts/{receipt['unit_id']}/{receipt['round_index']}.json"
        ids: list[str] = []
        for (kind, count), rows in zip(KINDS.items(), (pairs, letters), strict=True):
            for row in _read(objects, receipt, kind, receipt[count]):
                assert row["pair_id"] not in rows, f"{row['pair_id']} is doubled"
                rows[row["pair_id"]] = row
                ids.append(row["pair_id"])
            named |= {receipt[kind]["file"]} if receipt[kind] else set()
        digest = hashlib.sha256("".join(f"{one}\n" for one in sorted(ids)).encode()).hexdigest()
        assert receipt["ids_digest"] == digest
        num_chains = len(chain_ids(receipt["unit_id"]))
        assert len(ids) + receipt["num_stopped"] == num_chains
    _check_rows(pairs, letters, unit_ids, num_rounds)
    files = {key for key in objects if key.partition("/")[0] in KINDS}
    return sorted(files - named)


def _read(
    objects: Mapping[str, bytes], receipt: Mapping[str, Any], kind: str, num_rows: int
) -> list[dict[str, Any]]:
    shard = receipt[kind]
    if shard is None:
        assert num_rows == 0
        return []
    data = objects[shard["file"]]
    assert shard["file"].startswith(f"{kind}/round={receipt['round_index']}/{receipt['unit_id']}-")
    assert hashlib.sha256(data).hexdigest() == shard["sha256"], f"{shard['file']} is corrupt"
    assert len(data) == shard["size_bytes"]
    rows = pq.ParquetFile(io.BytesIO(data)).read(use_threads=False).to_pylist()
    assert len(rows) == shard["num_rows"] == num_rows > 0
    return rows


def _check_rows(
    pairs: Mapping[str, dict[str, Any]],
    letters: Mapping[str, dict[str, Any]],
    unit_ids: Collection[str],
    num_rounds: int,
) -> None:
    wanted_pairs: set[str] = set()
    wanted_letters: set[str] = set()
    for unit_id in unit_ids:
        for chain_id in chain_ids(unit_id):
            is_failing = chain_id == chain_ids(unit_id)[-1]
            last = min(num_rounds, FAILS_IN_ROUND) if is_failing else num_rounds
            wanted_pairs |= {f"{chain_id}-{turn:03d}" for turn in range(last)}
            if is_failing and num_rounds > FAILS_IN_ROUND:
                wanted_letters.add(f"{chain_id}-{FAILS_IN_ROUND:03d}")
    assert pairs.keys() == wanted_pairs
    assert letters.keys() == wanted_letters
    for pair_id, row in [*pairs.items(), *letters.items()]:
        chain_id, _, turn = pair_id.rpartition("-")
        if int(turn) == 0:
            assert (row["parent_id"], row["prompt"]) == (None, f"seed of {chain_id}")
        else:
            parent = f"{chain_id}-{int(turn) - 1:03d}"
            assert row["parent_id"] == parent
            assert row["prompt"] == pairs[parent]["description"], f"{pair_id}: lineage is broken"
