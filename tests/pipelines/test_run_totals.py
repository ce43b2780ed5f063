"""pipelines/run_totals.py: a run whose counts do not add up is an error."""

from dataclasses import replace
from typing import Any

import pytest

from cluster.errors import ReconcileError
from cluster.receipts import Receipt
from pipelines.run_totals import reconcile


def _receipt(unit: str, round_index: int, pairs: int, errors: int, stopped: int) -> Receipt:
    return Receipt(
        unit_id=unit,
        round_index=round_index,
        data=None,
        dead_letter=None,
        num_pairs=pairs,
        num_error_rows=errors,
        num_stopped=stopped,
        num_replaced_errors=0,
        num_replaced_stopped=0,
        error_reasons={"image_blank": errors} if errors else {},
        replaced_reasons={},
        ids_digest="d",
        fingerprint="f",
        versions={},
        committed_at=f"2026-01-01T00:00:0{round_index}.000000+00:00",
    )


RECEIPTS = [_receipt("u", 0, 3, 1, 0), _receipt("u", 1, 3, 0, 1)]
START = 1767225600.0 - 10  # ten seconds before the first commit


def _reconcile(receipts: list[Receipt], before: list[Receipt], num_chains: int = 4) -> Any:
    return reconcile(
        receipts,
        {(one.unit_id, one.round_index) for one in before},
        output="o",
        num_chains=num_chains,
        num_rounds=2,
        spent={},
        started_at=START,
        ended_at=START + 20,
    )


def test_totals_count_pairs_errors_and_what_was_not_grown() -> None:
    totals = _reconcile(RECEIPTS, [])
    assert (totals.num_pairs, totals.num_error_rows, totals.num_stopped) == (6, 1, 1)
    assert totals.error_reasons == {"image_blank": 1}
    assert totals.first_commit_s == 10.0
    assert totals.pairs_per_s == 6 / 20
    assert totals.num_resumed == 0


def test_an_attempt_is_timed_by_its_own_commits() -> None:
    totals = _reconcile(RECEIPTS, RECEIPTS[:1])
    assert totals.first_commit_s == 11.0
    assert totals.pairs_per_s == 3 / 20
    assert totals.num_resumed == 4
    assert _reconcile(RECEIPTS, RECEIPTS).first_commit_s is None


@pytest.mark.parametrize("receipts", [RECEIPTS[:1], [*RECEIPTS, _receipt("v", 0, 1, 0, 0)]])
def test_a_lost_or_doubled_row_is_an_error(receipts: list[Receipt]) -> None:
    with pytest.raises(ReconcileError, match="4 chains x 2 rounds = 8"):
        _reconcile(receipts, [])


def test_rows_that_were_replayed_twice_are_an_error_although_the_sum_is_right() -> None:
    """Two replays of one chain, under two names: each takes the place of the same error row."""
    base = [_receipt("0000000-ab", r, 3, 1 - r, r) for r in range(2)]
    other = [_receipt("0000001-ab", r, 0, 4 - 4 * r, 4 * r) for r in range(2)]
    replayed = [
        replace(_receipt(f"0000000-{name}.replay1r0", 0, 1, 0, 0), num_replaced_errors=1)
        for name in "ab"
    ]
    later = [replace(_receipt(one.unit_id, 1, 1, 0, 0), num_replaced_stopped=1) for one in replayed]
    once = [*base, *other, replayed[0], later[0]]
    assert _reconcile(once, [], num_chains=8).num_pairs == 8
    with pytest.raises(ReconcileError, match=r"unit 0 round 0: .* replayed twice"):
        _reconcile([*once, replayed[1], later[1]], [], num_chains=8)
