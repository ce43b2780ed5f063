"""Reads what a run left behind, without the code that wrote it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

MakeConfig = Callable[..., Any]  # conf/synergy.yaml over simulated engines, with further words


def read_pairs(output: str | Path) -> list[dict[str, Any]]:
    """Every committed pair of a local run, by chain and round, found through its receipts."""
    return _read(Path(output), "data")


def read_dead_letters(output: str | Path) -> list[dict[str, Any]]:
    """Every committed row that failed, likewise; also those that a replay has replaced."""
    return _read(Path(output), "dead_letter")


def _read(output: Path, kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for receipt in sorted(output.glob("receipts/*/*.json")):
        shard = json.loads(receipt.read_text())[kind]
        if shard:
            rows += pq.read_table(output / shard["file"], partitioning=None).to_pylist()
    return sorted(rows, key=lambda row: (row["chain_id"], row["round_index"]))


def read_log(path: Path, event: str = "call") -> list[dict[str, Any]]:
    """What a simulated engine logged."""
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [entry for entry in entries if entry["event"] == event]
