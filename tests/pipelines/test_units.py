"""pipelines/units.py: stable slices, and chains that continue from what is committed."""

from pathlib import Path

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from actors.records import DEAD_LETTER_SCHEMA, PAIR_SCHEMA, derive_pair_id
from cluster.ledger import Ledger
from cluster.receipts import Counts
from cluster.storage import open_store
from pipelines.sources import RawSeed, to_seed_table
from pipelines.units import (
    Unit,
    plan_remaining,
    slice_units,
    start_chains,
    to_starts,
)

NO_DEAD = DEAD_LETTER_SCHEMA.empty_table()


def _starts(number: int) -> pa.Table:
    raw = [RawSeed(text=f"scene {i}", source=str(i)) for i in range(number)]
    return to_starts(to_seed_table(raw, run_seed=0, max_chars=99))


def _commit(ledger: Ledger, unit: Unit, starts: pa.Table, failed: tuple[int, ...] = ()) -> None:
    """Round 0 of the unit, with the chains at the places `failed` in the dead letters."""
    rows = [
        {
            "pair_id": derive_pair_id(start["chain_id"], 0),
            "chain_id": start["chain_id"],
            "unit_id": unit.unit_id,
            "round_index": 0,
            "description": f"said of {start['seed']}",
        }
        for start in starts.to_pylist()
    ]
    pairs = [row for place, row in enumerate(rows) if place not in failed]
    dead = [rows[place] for place in failed]
    ledger.commit(
        unit.unit_id,
        0,
        pa.Table.from_pylist(pairs, schema=PAIR_SCHEMA),
        pa.Table.from_pylist(dead, schema=DEAD_LETTER_SCHEMA),
        Counts(
            num_pairs=len(pairs),
            num_error_rows=len(dead),
            num_stopped=0,
            error_reasons={"image_blank": len(dead)} if dead else {},
        ),
    )


@given(num_chains=st.integers(1, 60), unit_size=st.integers(1, 20))
def test_units_hold_every_chain_once_and_in_order(num_chains: int, unit_size: int) -> None:
    units = slice_units(_starts(num_chains), unit_size)
    places = [unit.offset + n for unit in units for n in range(unit.num_chains)]
    assert places == list(range(num_chains))
    assert len({unit.unit_id for unit in units}) == len(units)
    assert sorted(unit.unit_id for unit in units) == [unit.unit_id for unit in units]


def test_only_unfinished_units_remain_each_at_its_round() -> None:
    units = slice_units(_starts(6), 2)
    next_rounds = dict(zip([unit.unit_id for unit in units], [3, 1, 0], strict=True))
    assert [(u.unit_index, u.next_round) for u in plan_remaining(units, next_rounds, 3)] == [
        (1, 1),
        (2, 0),
    ]


def test_a_begun_unit_goes_on_from_its_committed_descriptions(tmp_path: Path) -> None:
    ledger = Ledger(open_store(str(tmp_path)), "f" * 16)
    starts = _starts(3)
    (unit,) = slice_units(starts, 3)
    first, _, third = starts.column("chain_id").to_pylist()
    _commit(ledger, unit, starts, failed=(1,))
    (due,) = plan_remaining([unit], ledger.next_rounds([unit.unit_id]), 3)
    rows = start_chains(due, starts, is_loop=True, ledger=ledger).to_pylist()
    assert [row["prompt"] for row in rows] == ["said of scene 0", "scene 1", "said of scene 2"]
    assert [row["parent_id"] for row in rows] == [f"{first}-000", None, f"{third}-000"]
    assert [row["is_stopped"] for row in rows] == [False, True, False]
    again = start_chains(due, starts, is_loop=False, ledger=ledger).to_pylist()
    assert [row["prompt"] for row in again] == ["scene 0", "scene 1", "scene 2"]


def test_a_chain_that_left_earlier_stays_stopped(tmp_path: Path) -> None:
    ledger = Ledger(open_store(str(tmp_path)), "f" * 16)
    starts = _starts(1)
    (unit,) = slice_units(starts, 1)
    _commit(ledger, unit, starts, failed=(0,))
    stopped = Counts(num_pairs=0, num_error_rows=0, num_stopped=1)
    ledger.commit(unit.unit_id, 1, PAIR_SCHEMA.empty_table(), NO_DEAD, stopped)
    (due,) = plan_remaining([unit], ledger.next_rounds([unit.unit_id]), 3)
    (row,) = start_chains(due, starts, is_loop=True, ledger=ledger).to_pylist()
    assert due.next_round == 2
    assert row["is_stopped"]
