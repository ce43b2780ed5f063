"""pipelines/stages.py and record.py without Ray: whole units, passing rows, winners of a commit."""

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from actors.records import CHAIN_SCHEMA, Row
from cluster.dispatch import Poison
from cluster.errors import DrainingError
from cluster.ledger import Ledger
from cluster.storage import open_store
from pipelines.record import Recording, catch_up_with, record_to
from pipelines.sources import RawSeed, to_seed_table
from pipelines.stages import Stage, check_whole, count_new_errors, describe_with, draw_with, walk
from pipelines.units import slice_units, start_chains, to_starts

HOW = Recording(is_loop=True, constants={"instruction": "Describe.", "instruction_id": "x"})


class WordPool:
    """Answers every row with a column made of its prompt; remembers what it was sent."""

    def __init__(self, tag: str = "") -> None:
        self.tag = tag
        self.sent: list[Row] = []

    async def run(self, rows: list[Row], *, order: int = 0) -> list[Row | Poison]:
        self.sent += rows
        return [
            row | {"description": f"{self.tag}of <{row['prompt']}>", "image": {"bytes": b"png"}}
            for row in rows
        ]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(open_store(str(tmp_path / "run")), "f" * 16)


def _chains(ledger: Ledger, texts: list[str]) -> pa.Table:
    raw = [RawSeed(text=text, source="x") for text in texts]
    starts = to_starts(to_seed_table(raw, run_seed=0, max_chars=99))
    (unit,) = slice_units(starts, 99)
    return start_chains(unit, starts, is_loop=True, ledger=ledger)


def _apply(verb: str, work: Any, chains: pa.Table, round_index: int = 0) -> pa.Table:
    stage = Stage(verb=verb, round_index=round_index, work=work)
    rows = asyncio.run(walk(chains.to_pylist(), [stage]))
    return pa.Table.from_pylist(rows, schema=CHAIN_SCHEMA)


def test_a_cut_or_reordered_unit_is_refused(ledger: Ledger) -> None:
    rows = _chains(ledger, ["a", "b", "c"]).to_pylist()
    check_whole(rows, "draw[r0]")
    for broken in (rows[:2], rows[::-1], [], rows + rows):
        with pytest.raises(AssertionError, match=r"draw\[r0\].*not one whole unit"):
            check_whole(broken, "draw[r0]")


def test_dead_chains_pass_the_models_untouched(ledger: Ledger) -> None:
    pool = WordPool()
    chains = _apply("draw", draw_with(pool, 0, 7), _chains(ledger, ["a", "", "c"]))
    assert [row["prompt"] for row in pool.sent] == ["a", "c"]
    assert chains.column("error").to_pylist()[1].startswith("seed_empty")
    assert [bool(seed) for seed in chains.column("rng_seed_draw").to_pylist()] == [
        True,
        False,
        True,
    ]


def test_a_committed_round_is_passed_through(ledger: Ledger) -> None:
    pool = WordPool()
    chains = _chains(ledger, ["a"])
    late = chains.set_column(
        chains.schema.get_field_index("next_round"), "next_round", pa.array([2], pa.int32())
    )
    assert _apply("draw", draw_with(pool, 1, 7), late, round_index=1) == late
    assert pool.sent == []


def test_record_drops_the_image_and_sets_the_next_prompt(ledger: Ledger) -> None:
    chains = _apply("describe", describe_with(WordPool(), 0, 7), _chains(ledger, ["a", "b"]))
    after = _apply("record", record_to(ledger, 0, HOW), chains)
    assert after.schema == CHAIN_SCHEMA
    assert after.column("image").to_pylist() == [None, None]
    assert after.column("prompt").to_pylist() == ["of <a>", "of <b>"]
    pairs = ledger.read_pairs(ledger.receipts()[0]).to_pylist()
    assert after.column("parent_id").to_pylist() == [pair["pair_id"] for pair in pairs]


def test_a_late_attempt_goes_on_with_the_winner_s_rows(ledger: Ledger) -> None:
    start = _chains(ledger, ["a", "b"])
    first = _apply("describe", describe_with(WordPool("winner "), 0, 7), start)
    second = _apply("describe", describe_with(WordPool("loser "), 0, 7), start)
    _apply("record", record_to(ledger, 0, HOW), first)
    after = _apply("record", record_to(ledger, 0, HOW), second)
    assert after.column("prompt").to_pylist() == ["winner of <a>", "winner of <b>"]
    assert len(ledger.receipts()) == 1


def test_a_late_attempt_follows_the_winner_into_errors_and_out_of_them(ledger: Ledger) -> None:
    start = _chains(ledger, ["a", "b"]).to_pylist()
    pool = WordPool()
    rows = asyncio.run(describe_with(pool, 0, 7)(start))
    failed = [dict(row) for row in rows]
    failed[0]["error"] = "image_blank: x"
    asyncio.run(record_to(ledger, 0, HOW)(failed))
    other = [dict(row) for row in rows]
    other[1]["error"] = "engine_error: y"
    after = asyncio.run(record_to(ledger, 0, HOW)(other))
    assert [row["is_stopped"] for row in after] == [True, False]
    own = [dict(row) for row in rows]
    own[0]["error"] = "engine_error: of the loser"
    after = asyncio.run(record_to(ledger, 0, HOW)(own))
    assert [row["is_stopped"] for row in after] == [True, False]
    assert after[1]["prompt"] == "of <b>"
    (dead,) = ledger.read_dead_letters(ledger.receipts()[0]).to_pylist()
    assert (dead["reason"], dead["message"]) == ("image_blank", "x")


def test_an_error_is_counted_once_where_it_happened(ledger: Ledger) -> None:
    start = _chains(ledger, ["a", "", "c"]).to_pylist()
    drawn = [dict(row) for row in start]
    drawn[2] |= {"error": "image_blank: x", "error_stage": "draw"}
    assert count_new_errors(start, drawn, "draw") == 1
    assert count_new_errors(start, drawn, "describe") == 0
    assert count_new_errors(drawn, drawn, "draw") == 0
    recorded = asyncio.run(record_to(ledger, 0, HOW)(drawn))
    assert count_new_errors(drawn, recorded, "record") == 2  # the rows that were written as errors
    again = asyncio.run(record_to(ledger, 1, HOW)(recorded))
    assert count_new_errors(recorded, again, "record") == 0


def test_stopped_chains_are_counted_not_written(ledger: Ledger) -> None:
    rows = _apply("describe", describe_with(WordPool(), 0, 7), _chains(ledger, ["a", ""]))
    rows = _apply("record", record_to(ledger, 0, HOW), rows)
    rows = _apply("describe", describe_with(WordPool(), 1, 7), rows, 1)
    _apply("record", record_to(ledger, 1, HOW), rows, 1)
    counts = [(r.num_pairs, r.num_error_rows, r.num_stopped) for r in ledger.receipts()]
    assert counts == [(1, 1, 0), (1, 0, 1)]


def test_a_row_that_a_pool_gave_up_on_is_a_dead_letter_and_the_others_go_on(ledger: Ledger) -> None:
    class Poisoned(WordPool):
        async def run(self, rows: list[Row], *, order: int = 0) -> list[Row | Poison]:
            answers = await super().run(rows)
            return [Poison(kind="replica_died", message="SIGKILL", attempts=3), *answers[1:]]

    rows = _apply("draw", draw_with(Poisoned(), 0, 7), _chains(ledger, ["a", "b"]))
    after = _apply("record", record_to(ledger, 0, HOW), rows)
    assert after.column("is_stopped").to_pylist() == [True, False]
    (dead,) = ledger.read_dead_letters(ledger.receipts()[0]).to_pylist()
    assert (dead["stage"], dead["reason"], dead["message"]) == ("draw", "replica_died", "SIGKILL")
    assert (dead["attempts"], dead["prompt"]) == (3, "a")


def test_a_unit_that_a_draining_pool_turns_away_passes_all_later_stages(ledger: Ledger) -> None:
    class Draining(WordPool):
        async def run(self, rows: list[Row], *, order: int = 0) -> list[Row | Poison]:
            raise DrainingError("the pool is draining")

    chains = _apply("draw", draw_with(Draining(), 0, 7), _chains(ledger, ["a", "b"]))
    pool = WordPool()
    for round_index in (0, 1):
        chains = _apply("describe", describe_with(pool, round_index, 7), chains, round_index)
        work = record_to(ledger, round_index, HOW)
        chains = _apply("record", work, chains, round_index)
    assert pool.sent == []
    assert ledger.receipts() == []


class GatedPool(WordPool):
    """Answers a batch when its turn comes: `gate` lists the prompts to be let through."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: dict[str, asyncio.Event] = {}

    async def run(self, rows: list[Row], *, order: int = 0) -> list[Row | Poison]:
        await self.gate.setdefault(rows[0]["prompt"], asyncio.Event()).wait()
        return await super().run(rows)


def _turn(draws: Any, describes: Any) -> list[Stage]:
    return [
        Stage(verb="draw", round_index=0, work=draw_with(draws, 0, 7)),
        Stage(verb="describe", round_index=0, work=describe_with(describes, 0, 7)),
    ]


def test_a_part_is_described_before_the_rest_of_its_unit_is_drawn(ledger: Ledger) -> None:
    rows = _chains(ledger, ["a", "b", "", "c", "d", "e"]).to_pylist()
    draws, describes = GatedPool(), WordPool()

    async def scenario() -> list[Row]:
        walking = asyncio.create_task(walk(rows, _turn(draws, describes), part_size=2))
        await asyncio.sleep(0)
        draws.gate.setdefault("c", asyncio.Event()).set()
        while not describes.sent:
            await asyncio.sleep(0.001)
        assert [row["prompt"] for row in describes.sent] == ["c", "d"]
        for prompt in ("a", "e"):
            draws.gate[prompt].set()
        return await walking

    done = asyncio.run(asyncio.wait_for(scenario(), 10))
    assert [row["prompt"] for row in done] == ["a", "b", "", "c", "d", "e"]
    assert [row["description"] for row in done if row["description"]] == [
        f"of <{prompt}>" for prompt in "abcde"
    ]


def test_a_unit_of_which_a_part_is_turned_away_is_parked_and_its_other_parts_end(
    ledger: Ledger,
) -> None:
    class Draining(GatedPool):
        async def run(self, rows: list[Row], *, order: int = 0) -> list[Row | Poison]:
            if rows[0]["prompt"] == "b":
                raise DrainingError("the pool is draining")
            return await super().run(rows)

    describes = WordPool()
    rows = _chains(ledger, ["a", "b"]).to_pylist()
    done = asyncio.run(asyncio.wait_for(walk(rows, _turn(Draining(), describes), 1), 10))
    assert {row["next_round"] for row in done} == {2**31 - 1}
    assert describes.sent == []


def test_a_unit_catches_up_with_what_was_committed_meanwhile(ledger: Ledger) -> None:
    start = _chains(ledger, ["a", "", "c"])
    for r in (0, 1):
        rows = _apply("describe", describe_with(WordPool(f"{r} "), r, 7), start, r)
        start = _apply("record", record_to(ledger, r, HOW), rows, r)
    stale = _chains(ledger, ["a", "", "c"]).to_pylist()
    fresh = asyncio.run(catch_up_with(ledger, HOW)(stale))
    assert {row["next_round"] for row in fresh} == {2}
    assert [row | {"next_round": 0} for row in fresh] == start.to_pylist()
    again = asyncio.run(catch_up_with(ledger, HOW)(fresh))
    assert again == fresh
