"""A stage process that dies at one unit, again and again, ends the run: Ray Data would go on."""

import os
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from actors.records import Row
from cluster.ledger import Ledger
from cluster.storage import open_store
from cluster.telemetry import start_board
from pipelines.sources import RawSeed, to_seed_table
from pipelines.stages import MAX_TRIES, Stage, StagesConfig, lay_out
from pipelines.units import slice_units, start_chains, to_starts

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("local_ray")]


@pytest.mark.parametrize("kind", ["walker", "actor"])
def test_a_stage_that_dies_at_each_try_is_not_tried_for_ever(tmp_path: Path, kind: str) -> None:
    log = tmp_path / "tries"

    async def die(rows: list[Row]) -> list[Row]:
        with log.open("a") as out:
            out.write("x")
        os.abort()

    async def catch_up(rows: list[Row]) -> list[Row]:
        return rows

    with closing(start_board()) as board:
        stage = Stage(verb="record", round_index=0, work=die, is_by_row=False, board=board)
        chains = ray.data.from_arrow(_one_unit(tmp_path))
        laid_out = lay_out(chains, [stage], catch_up, StagesConfig(kind=kind), 8)
        with pytest.raises(ray.exceptions.RayError, match="lost its process 10 times at unit"):
            laid_out.materialize()
    assert len(log.read_text()) == MAX_TRIES


def _one_unit(tmp_path: Path) -> pa.Table:
    seeds = to_seed_table([RawSeed(text="a cup", source="x")], run_seed=0, max_chars=99)
    starts = to_starts(seeds)
    (unit,) = slice_units(starts, 99)
    ledger = Ledger(open_store(str(tmp_path / "run")), "f" * 16)
    return start_chains(unit, starts, is_loop=True, ledger=ledger)
