"""pipelines/past.py and record.py: a resume, a rival and a replay score and stop alike."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from scored_loop import NUM_ROUNDS, Loop, make_starts, read_pairs

from actors.records import Row
from cluster.ledger import Ledger
from cluster.receipts import Receipt
from cluster.storage import open_store
from pipelines.record import Recording, catch_up_with
from pipelines.replay import claim_replays
from pipelines.run_totals import Spent, reconcile
from pipelines.units import Unit, slice_units

NUM_CHAINS = 12
STARTS = make_starts(NUM_CHAINS)
(UNIT,) = slice_units(STARTS, NUM_CHAINS)


def _ledger(folder: Path) -> Ledger:
    return Ledger(open_store(str(folder)), "f" * 16)


def _grow_all(loop: Loop, unit: Unit = UNIT) -> None:
    loop.grow(loop.start(unit, STARTS), range(unit.next_round, NUM_ROUNDS))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    ledger = _ledger(tmp_path_factory.mktemp("undisturbed"))
    _grow_all(Loop(ledger))
    return ledger


def test_a_chain_ends_with_the_pair_that_has_the_reason(undisturbed: Ledger) -> None:
    pairs = read_pairs(undisturbed)
    last = {chain: max(r for c, r in pairs if c == chain) for chain, _ in pairs}
    stopped = {key for key, pair in pairs.items() if pair["stop_reason"]}
    assert 3 <= len(stopped) < NUM_CHAINS
    assert stopped == {(chain, r) for chain, r in last.items() if r < NUM_ROUNDS - 1}
    assert all(pairs[key]["image_similarity_first"] < -0.1 for key in stopped)
    going_on = [pair for (_, r), pair in pairs.items() if r > 0 and not pair["stop_reason"]]
    assert all(
        pair["image_similarity_first"] >= -0.1
        for pair in going_on
        if pair["round_index"] < NUM_ROUNDS - 1
    )


def test_seeds_times_rounds_add_up_and_the_receipts_say_why(undisturbed: Ledger) -> None:
    spent = {"generator": Spent(num_loads=1, num_rows=10, busy_s=20.0, num_gpus=0.5)}
    totals = reconcile(
        undisturbed.receipts(), set(), output="x", num_chains=NUM_CHAINS, num_rounds=NUM_ROUNDS,
        spent=spent, started_at=0.0, ended_at=1.0,
    )  # fmt: skip
    pairs = read_pairs(undisturbed)
    assert totals.num_pairs == len(pairs)
    assert totals.num_stopped == NUM_CHAINS * NUM_ROUNDS - len(pairs) == totals.saved.num_rows
    stopped = [pair for pair in pairs.values() if pair["stop_reason"]]
    assert totals.stop_reasons == {"drifted": len(stopped)}
    assert totals.saved.num_chains == len(stopped)
    assert totals.saved.model_s == 2.0 * totals.num_stopped
    assert totals.saved.gpu_s == totals.num_stopped


@pytest.mark.parametrize("cut", range(1, NUM_ROUNDS))
def test_a_resume_scores_and_stops_as_if_nothing_had_been_cut_off(
    cut: int, undisturbed: Ledger, tmp_path: Path
) -> None:
    ledger = _ledger(tmp_path)
    first = Loop(ledger)
    first.grow(first.start(UNIT, STARTS), range(cut))
    _grow_all(Loop(ledger), replace(UNIT, next_round=cut))
    assert read_pairs(ledger) == read_pairs(undisturbed)


def test_a_unit_that_catches_up_remembers_what_it_did_not_see(undisturbed: Ledger) -> None:
    loop = Loop(undisturbed)
    how = Recording(is_loop=True, has_memory=True, stop=loop.stop)
    for due in range(1, NUM_ROUNDS):
        resumed = loop.start(replace(UNIT, next_round=due), STARTS)
        before = Loop(_Until(undisturbed, due)).start(UNIT, STARTS)
        caught_up = asyncio.run(catch_up_with(_Until(undisturbed, due), how)(before))
        names = [name for name in resumed[0] if name not in ("stop_reason", "seed", "error_stage")]
        live = [place for place, row in enumerate(resumed) if not row["is_stopped"]]
        assert [row["is_stopped"] for row in caught_up] == [row["is_stopped"] for row in resumed]
        for place in live:
            assert [caught_up[place][name] for name in names] == [
                resumed[place][name] for name in names
            ]


class _Until(Ledger):
    """A ledger as it was when only rounds below `until` were committed."""

    def __init__(self, ledger: Ledger, until: int) -> None:
        super().__init__(ledger.store, ledger.fingerprint)
        self._until = until

    def receipt(self, unit_id: str, round_index: int) -> Receipt | None:
        return super().receipt(unit_id, round_index) if round_index < self._until else None


def test_who_loses_a_commit_stops_what_the_winner_stopped(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    winner, loser = Loop(ledger), Loop(ledger, marker="other words")
    ours = winner.grow(winner.start(UNIT, STARTS), range(1))
    theirs = loser.grow(ours, range(1, 2))
    # Its own scores would have stopped other chains: what it described was drawn otherwise.
    late = winner.grow(ours, range(1, 2))
    assert [row["is_stopped"] for row in late] == [row["is_stopped"] for row in theirs]
    assert [row["prompt"] for row in late] == [row["prompt"] for row in theirs]
    assert [row["past"] for row in late] == [row["past"] for row in theirs]
    assert any(row["is_stopped"] for row in late)


def _fails_in_round(r: int, chains: set[str]) -> Callable[[Row], bool]:
    def fails(row: Row) -> bool:
        at = 0 if row["parent_id"] is None else int(row["parent_id"][-3:]) + 1
        return row["chain_id"] in chains and at == r

    return fails


@pytest.mark.parametrize("failed_round", [0, 1, 2])
def test_a_replay_remembers_the_rounds_before_and_wakes_no_stopped_chain(
    failed_round: int, undisturbed: Ledger, tmp_path: Path
) -> None:
    ledger = _ledger(tmp_path)
    expected = read_pairs(undisturbed)
    alive = sorted(chain for chain, r in expected if r == failed_round)
    _grow_all(Loop(ledger, fails=_fails_in_round(failed_round, set(alive[:3]))))
    assert read_pairs(ledger) != expected
    replays = claim_replays(ledger, (), NUM_ROUNDS, offset=0)
    loop = Loop(ledger)
    for unit in replays.units:
        loop.grow(loop.start(unit, replays.starts), range(unit.next_round, NUM_ROUNDS))
    found = read_pairs(ledger)
    assert {row["chain_id"] for row in loop.drawn} == set(alive[:3])
    assert found.keys() == expected.keys()
    differing = {
        (name, key[1])
        for key, pair in found.items()
        for name in pair
        if name != "unit_id" and pair[name] != expected[key][name]
    }
    assert differing == set()
    assert claim_replays(ledger, (), NUM_ROUNDS, offset=0).units == []
    reconcile(
        ledger.receipts(), set(), output="x", num_chains=NUM_CHAINS, num_rounds=NUM_ROUNDS,
        spent={}, started_at=0.0, ended_at=1.0,
    )  # fmt: skip
