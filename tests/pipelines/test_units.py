"""pipelines/units.py: stable slices, and chains that continue from what is committed."""

from pathlib import Path

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from actors.records import PAIR_SCHEMA, derive_pair_id
from cluster.ledger import Ledger
from cluster.receipts import Counts
from cluster.storage import open_store
from pipelines.sources import RawSeed, to_seed_table
from pipelines.units import Unit, plan_remaining, skip_committed, slice_units, start_chains


def _seeds(number: int) -> pa.Table:
    raw = [RawSeed(text=f"scene {i}", source=str(i)) for i in range(number)]
    return to_seed_table(raw, run_seed=0, max_chars=99)


def _commit(ledger: Ledger, unit: Unit, round_index: int, errors: dict[str, str]) -> None:
    rows = [
        {
            "pair_id": derive_pair_id(seed["chain_id"], round_index),
            "chain_id": seed["chain_id"],
            "unit_id": unit.unit_id,
            "round_index": round_index,
            "description": f"said of {seed['seed']}",
            "error": errors.get(seed["chain_id"]),
        }
        for seed in unit.seeds
    ]
    counts = Counts(
        num_pairs=len(rows) - len(errors),
        num_error_rows=len(errors),
        num_stopped=0,
        error_reasons={"image_blank": len(errors)} if errors else {},
    )
    ledger.commit(unit.unit_id, round_index, pa.Table.from_pylist(rows, schema=PAIR_SCHEMA), counts)


@given(num_chains=st.integers(1, 60), unit_size=st.integers(1, 20))
def test_units_hold_every_chain_once_and_in_order(num_chains: int, unit_size: int) -> None:
    table = _seeds(num_chains)
    units = slice_units(table, unit_size)
    ids = [seed["chain_id"] for unit in units for seed in unit.seeds]
    assert ids == table.column("chain_id").to_pylist()
    assert len({unit.unit_id for unit in units}) == len(units)
    assert sorted(unit.unit_id for unit in units) == [unit.unit_id for unit in units]


def test_only_unfinished_units_remain_each_at_its_round() -> None:
    units = slice_units(_seeds(6), 2)
    next_rounds = dict(zip([unit.unit_id for unit in units], [3, 1, 0], strict=True))
    assert [(u.unit_index, u.next_round) for u in plan_remaining(units, next_rounds, 3)] == [
        (1, 1),
        (2, 0),
    ]


def test_a_begun_unit_goes_on_from_its_committed_descriptions(tmp_path: Path) -> None:
    ledger = Ledger(open_store(str(tmp_path)), "f" * 16)
    (unit,) = slice_units(_seeds(3), 3)
    first, second, third = (seed["chain_id"] for seed in unit.seeds)
    _commit(ledger, unit, 0, errors={second: "image_blank: nothing"})
    (due,) = plan_remaining([unit], ledger.next_rounds([unit.unit_id]), 3)
    rows = start_chains(due, is_loop=True, ledger=ledger).to_pylist()
    assert [row["prompt"] for row in rows] == ["said of scene 0", "scene 1", "said of scene 2"]
    assert [row["parent_id"] for row in rows] == [f"{first}-000", None, f"{third}-000"]
    assert [row["is_stopped"] for row in rows] == [False, True, False]
    again = start_chains(due, is_loop=False, ledger=ledger).to_pylist()
    assert [row["prompt"] for row in again] == ["scene 0", "scene 1", "scene 2"]


def test_a_repeated_read_skips_what_was_committed_meanwhile(tmp_path: Path) -> None:
    ledger = Ledger(open_store(str(tmp_path)), "f" * 16)
    (unit,) = slice_units(_seeds(2), 2)
    assert skip_committed(unit, ledger).next_round == 0
    _commit(ledger, unit, 0, errors={})
    assert skip_committed(unit, ledger).next_round == 1


def test_a_chain_that_left_earlier_stays_stopped(tmp_path: Path) -> None:
    ledger = Ledger(open_store(str(tmp_path)), "f" * 16)
    (unit,) = slice_units(_seeds(1), 1)
    _commit(ledger, unit, 0, errors={unit.seeds[0]["chain_id"]: "image_blank: nothing"})
    empty = pa.Table.from_pylist([], schema=PAIR_SCHEMA)
    ledger.commit(unit.unit_id, 1, empty, Counts(num_pairs=0, num_error_rows=0, num_stopped=1))
    (due,) = plan_remaining([unit], ledger.next_rounds([unit.unit_id]), 3)
    (row,) = start_chains(due, is_loop=True, ledger=ledger).to_pylist()
    assert due.next_round == 2
    assert row["is_stopped"]
    assert row["error"]
