"""Grows units through the real stages in one process, without Ray: simulated engines as pools.

Limits: one unit at a time, no retries, no dispatcher.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from actors.backends.simulated import SimulatedConfig
from actors.image_to_text import ImageToTextConfig, build_image_to_text
from actors.records import CHAIN_SCHEMA, Row
from actors.scoring import build_scoring
from actors.scoring_config import ScorerConfig
from actors.text_to_image import TextToImageConfig, build_text_to_image
from cluster.dispatch import Poison
from cluster.ledger import Ledger
from pipelines.drift import StopConfig
from pipelines.inject import Fresh
from pipelines.record import Recording, record_to
from pipelines.sources import RawSeed, to_seed_table
from pipelines.stages import Stage, describe_with, draw_with, score_with, walk
from pipelines.units import Unit, start_chains, to_starts

NUM_ROUNDS = 4
# Noise of 16 dimensions: a third of all chains leaves at each round.
STOPS = StopConfig(drifted_image_below=-0.1)
# What may differ between two attempts at the same pair.
CHANCE = ("created_at", "draw_s", "describe_s", "score_s")

Task = Callable[[list[Row]], list[Row]]


class TaskPool:
    """A task as a pool; `see` is told of every row, and where it says no the process dies."""

    def __init__(self, task: Task, see: Callable[[Row], bool] = lambda row: True) -> None:
        self._task, self._see = task, see

    async def run(self, rows: list[Row], *, order: int = 0) -> list[Row | Poison]:
        return [
            self._task([row])[0]
            if self._see(row)
            else Poison(kind="replica_died", message="SIGKILL", attempts=3)
            for row in rows
        ]


class Loop:
    """The loop over simulated engines; drawing the rows that `fails` names takes the process along,
    and every description ends in `marker`; chains begin anew as `fresh` has it."""

    def __init__(
        self,
        ledger: Ledger,
        stop: StopConfig = STOPS,
        fails: Callable[[Row], bool] = lambda row: False,
        marker: str = "",
        fresh: Fresh | None = None,
    ) -> None:
        self.ledger = ledger
        self._fresh = fresh
        self.stop = stop
        self.drawn: list[Row] = []
        simulated = SimulatedConfig(load_s=0.0)
        size: dict[str, Any] = {"width_px": 16, "height_px": 16}

        def see(row: Row) -> bool:
            self.drawn.append(row)
            return not fails(row)

        self._draws = TaskPool(
            build_text_to_image(
                TextToImageConfig(backend="simulated", simulated=simulated, **size)
            ),
            see,
        )
        describe = build_image_to_text(ImageToTextConfig(backend="simulated"))
        self._describes = TaskPool(lambda rows: _say(describe(rows), marker))
        self._scores = TaskPool(build_scoring(ScorerConfig(backend="simulated")))

    def grow(self, rows: list[Row], rounds: range) -> list[Row]:
        """Takes the chains of one unit through these rounds."""
        for r in rounds:
            is_last = r == NUM_ROUNDS - 1
            how = Recording(is_loop=True, has_memory=True, stop=None if is_last else self.stop)
            works = {
                "draw": draw_with(self._draws, r, 7),
                "describe": describe_with(self._describes, r, 7),
                "score": score_with(self._scores, r),
                "record": record_to(self.ledger, r, how),
            }
            for verb, work in works.items():
                stage = Stage(verb=verb, round_index=r, work=work)
                rows = asyncio.run(walk(rows, [stage]))
                # As between two operators: what is not in the schema is gone.
                rows = pa.Table.from_pylist(rows, schema=CHAIN_SCHEMA).to_pylist()
        return rows

    def start(self, unit: Unit, starts: pa.Table) -> list[Row]:
        """The chains of a unit at the round that it is due at."""
        return start_chains(
            unit, starts, True, self.ledger, has_memory=True, fresh=self._fresh
        ).to_pylist()


def _say(rows: list[Row], marker: str) -> list[Row]:
    return [row | {"description": f"{row['description']}{marker}"} for row in rows]


def make_starts(number: int) -> pa.Table:
    raw = [RawSeed(text=f"scene {i}", source=str(i)) for i in range(number)]
    return to_starts(to_seed_table(raw, run_seed=0, max_chars=99))


def read_pairs(ledger: Ledger) -> dict[tuple[str, int], Row]:
    """Every committed pair without what is left to chance, by (chain, round)."""
    rows = [row for one in ledger.receipts() for row in ledger.read_pairs(one).to_pylist()]
    return {
        (row["chain_id"], row["round_index"]): {
            name: value for name, value in row.items() if name not in CHANCE
        }
        for row in rows
    }
