"""Writes small well-formed runs by hand, and damages them.

The writer here is a second one, from the description of the format: rows, receipts and Delta log
are put together without `cluster.ledger` or `pipelines.stages`. Ids come from `actors.records`,
which the verifier has of its own.
"""

import hashlib
import io
import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from actors.records import (
    DEAD_LETTER_SCHEMA,
    PAIR_SCHEMA,
    SEED_SCHEMA,
    derive_chain_ids,
    derive_pair_id,
    derive_replay_id,
    derive_unit_id,
)

Row = dict[str, Any]
WHEN = datetime(2026, 1, 2, tzinfo=UTC)
DELTA_SCHEMA = {
    "type": "struct",
    "fields": [{"name": "pair_id", "type": "string", "nullable": True, "metadata": {}}],
}


@dataclass(kw_only=True)
class RunWriter:
    """One run in a folder. `failures` are (chain index, round), fatal in the base units;
    `refailures` are those that fail again in a replay."""

    folder: Path
    num_seeds: int = 10
    num_rounds: int = 3
    unit_size: int = 4
    mode: str = "loop"
    bad_seeds: frozenset[int] = frozenset()
    failures: frozenset[tuple[int, int]] = frozenset()
    stops: frozenset[tuple[int, int]] = frozenset()  # likewise: ended there by a rule
    fingerprint: str = ""
    refs: list[Row] = field(default_factory=list[Row])
    texts: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    plans: dict[int, Row] = field(default_factory=dict[int, Row])  # of replays, by generation
    image_bytes: int = 0  # of noise behind each picture, for benchmarks

    def __post_init__(self) -> None:
        self.seeds = [f"seed number {index}" for index in range(self.num_seeds)]
        self.chain_ids = derive_chain_ids(7, self.seeds)
        self._write_run()
        size = self.unit_size
        self.units = [
            range(at, min(at + size, self.num_seeds)) for at in range(0, self.num_seeds, size)
        ]

    def unit_id(self, index: int) -> str:
        """Of the base unit at this place."""
        return derive_unit_id(index, [self.chain_ids[chain] for chain in self.units[index]])

    def write_unit(self, index: int, until: int | None = None) -> None:
        """Commits the rounds of a base unit, up to `until`."""
        stopped = set[int]()
        for round_index in range(self.num_rounds if until is None else until):
            live = [chain for chain in self.units[index] if chain not in stopped]
            fails = {
                chain
                for chain in live
                if (chain, round_index) in self.failures
                or (round_index == 0 and chain in self.bad_seeds)
            }
            self.commit(self.unit_id(index), round_index, live, fails, num_stopped=len(stopped))
            stopped |= fails | {chain for chain in live if (chain, round_index) in self.stops}

    def write_replay(
        self,
        index: int,
        generation: int,
        start: int,
        chains: list[int],
        fail_at: int | None = None,
        until: int | None = None,
    ) -> str:
        """Plans and commits a replay of `chains`; all fail again in round `fail_at`."""
        ids = sorted(self.chain_ids[chain] for chain in chains)
        unit_id = derive_replay_id(index, ids, generation, start)
        self.plans.setdefault(generation, {})[unit_id] = ids
        plan = {"format": 1, "fingerprint": self.fingerprint, "units": self.plans[generation]}
        put_json(self.folder / f"replays/{generation}.json", plan)
        for r in range(start, self.num_rounds if until is None else until):
            is_over = fail_at is not None and r > fail_at
            live = [] if is_over else chains
            fails = set(chains) if r == fail_at else set[int]()
            self.commit(
                unit_id,
                r,
                live,
                fails,
                num_stopped=len(chains) - len(live),
                num_replaced_errors=len(chains) if r == start else 0,
                num_replaced_stopped=len(chains) if r > start else 0,
                replaced_reasons={"engine_error": len(chains)} if r == start else {},
            )
        return unit_id

    def commit(
        self, unit_id: str, round_index: int, live: list[int], fails: set[int], **counts: Any
    ) -> None:
        """Writes the files of one (unit, round) and its receipt."""
        rows = {chain: self._row(unit_id, chain, round_index) for chain in live}
        pairs = [
            self._pair(row, chain, round_index) for chain, row in rows.items() if chain not in fails
        ]
        dead = [self._dead_letter(row, chain) for chain, row in rows.items() if chain in fails]
        data = put_table(self.folder, "data", unit_id, round_index, pairs)
        dead_letter = put_table(self.folder, "dead_letter", unit_id, round_index, dead)
        if data:
            self.refs.append(data)
        receipt = {
            "format": 2,
            "unit_id": unit_id,
            "round_index": round_index,
            "data": data,
            "dead_letter": dead_letter,
            "num_pairs": len(pairs),
            "num_error_rows": len(dead),
            "num_replaced_errors": 0,
            "num_replaced_stopped": 0,
            "error_reasons": dict(Counter(row["reason"] for row in dead)),
            "replaced_reasons": {},
            "ids_digest": digest_ids([row["pair_id"] for row in (*pairs, *dead)]),
            "fingerprint": self.fingerprint,
            "versions": {"pairloom": "0"},
            "committed_at": WHEN.isoformat(timespec="microseconds"),
        }
        stops = dict(Counter(pair["stop_reason"] for pair in pairs if pair["stop_reason"]))
        receipt |= {"stop_reasons": stops} if stops else {}
        put_json(self.folder / f"receipts/{unit_id}/{round_index}.json", receipt | counts)

    def fold(self, refs: list[Row] | None = None) -> None:
        """Writes a Delta log of one version over these files, or over all."""
        log: list[Row] = [
            {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
            {
                "metaData": {
                    "id": "00000000-0000-0000-0000-000000000000",
                    "format": {"provider": "parquet", "options": {}},
                    "schemaString": json.dumps(DELTA_SCHEMA),
                    "partitionColumns": [],
                    "configuration": {},
                    "createdTime": 0,
                }
            },
        ]
        for ref in self.refs if refs is None else refs:
            add = {
                "path": ref["file"].removeprefix("data/"),
                "partitionValues": {},
                "size": ref["size_bytes"],
                "modificationTime": 0,
                "dataChange": True,
                "stats": json.dumps({"numRecords": ref["num_rows"]}),
            }
            log.append({"add": add})
        path = self.folder / "data/_delta_log/00000000000000000000.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(entry)}\n" for entry in log))

    def _write_run(self) -> None:
        errors = ["seed_empty: x" if i in self.bad_seeds else None for i in range(self.num_seeds)]
        rows = [list(row) for row in zip(self.seeds, errors, strict=True)]
        numbers = {"num_rounds": self.num_rounds, "unit_size": self.unit_size, "run_seed": 7}
        asked = numbers | {
            "mode": self.mode,
            "seeds": {
                "num_seeds": self.num_seeds,
                "sha256": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
            },
        }
        canonical = json.dumps(asked, sort_keys=True, separators=(",", ":"))
        self.fingerprint = hashlib.sha256(canonical.encode()).hexdigest()[:16]
        run = {"format": 1, "fingerprint": self.fingerprint, "fingerprint_of": asked}
        run |= {"record": numbers | {"mode": self.mode}, "started_at": WHEN.isoformat()}
        put_json(self.folder / "run.json", run)
        table = pa.Table.from_pylist(
            [
                {"chain_id": chain_id, "seed": seed, "source": "by hand", "error": error}
                for chain_id, seed, error in zip(self.chain_ids, self.seeds, errors, strict=True)
            ],
            schema=SEED_SCHEMA,
        )
        (self.folder / "seeds").mkdir()
        pq.write_table(table, self.folder / "seeds/seeds.parquet")

    def _row(self, unit_id: str, chain: int, round_index: int) -> Row:
        chain_id = self.chain_ids[chain]
        is_child = self.mode == "loop" and round_index > 0
        return {
            "pair_id": derive_pair_id(chain_id, round_index),
            "chain_id": chain_id,
            "unit_id": unit_id,
            "round_index": round_index,
            "parent_id": derive_pair_id(chain_id, round_index - 1) if is_child else None,
            "seed": self.seeds[chain],
            "prompt": self.texts[chain_id, round_index - 1] if is_child else self.seeds[chain],
            "created_at": WHEN,
        }

    def _pair(self, row: Row, chain: int, round_index: int) -> Row:
        image = draw(chain, round_index) + bytes(self.image_bytes)
        text = f"what {chain} looks like in round {round_index}"
        self.texts[row["chain_id"], round_index] = text
        return row | {
            "image": {"bytes": image, "path": None},
            "image_sha256": hashlib.sha256(image).hexdigest(),
            "description": text,
            "stop_reason": "converged" if (chain, round_index) in self.stops else None,
        }

    def _dead_letter(self, row: Row, chain: int) -> Row:
        is_seed = row["round_index"] == 0 and chain in self.bad_seeds
        reason = "seed_empty" if is_seed else "engine_error"
        return row | {"stage": "seed" if is_seed else "draw", "reason": reason, "attempts": 1}


def draw(chain: int, round_index: int) -> bytes:
    """A small PNG."""
    sink = io.BytesIO()
    Image.new("RGB", (4, 4), (chain % 256, round_index, chain // 256 % 256)).save(sink, "PNG")
    return sink.getvalue()


def digest_ids(ids: list[str]) -> str:
    """As in a receipt."""
    return hashlib.sha256("".join(f"{one}\n" for one in sorted(ids)).encode()).hexdigest()


def put_json(path: Path, value: Row) -> None:
    """One line of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value) + "\n")


def put_table(
    folder: Path, kind: str, unit_id: str, round_index: int, rows: list[Row]
) -> Row | None:
    """Writes rows under the name that their bytes give; returns what a receipt says of the file."""
    if not rows:
        return None
    sink = io.BytesIO()
    schema = PAIR_SCHEMA if kind == "data" else DEAD_LETTER_SCHEMA
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    data = sink.getvalue()
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"{kind}/round={round_index}/{unit_id}-{sha256[:16]}.parquet"
    (folder / key).parent.mkdir(parents=True, exist_ok=True)
    (folder / key).write_bytes(data)
    return {"file": key, "sha256": sha256, "size_bytes": len(data), "num_rows": len(rows)}
