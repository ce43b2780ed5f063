"""pipelines/drift.py: when a chain stops, and that it is a matter of its own past alone."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.records import Row
from pipelines.drift import (
    REASONS,
    StopConfig,
    facts_of,
    judge,
    mean_cumulative_drift,
)


def _pair(text: str, **columns: Any) -> Row:
    similarities = {
        f"{kind}_similarity_{of}": None
        for kind in ("image", "text")
        for of in ("first", "previous")
    }
    return {"description": text, "phash": None, **similarities} | columns


def _past(*pairs: Row) -> list[Row]:
    return [facts_of(pair) for pair in pairs]


def _still(value: float, **columns: Any) -> Row:
    previous = {"image_similarity_previous": value, "text_similarity_previous": value}
    return _pair(f"a text {sorted(columns.items())}", **previous, **columns)


def test_without_rules_no_chain_stops() -> None:
    assert not StopConfig().is_on
    assert judge(_past(_pair("a"), _pair("a")), StopConfig()) is None


def test_a_description_or_a_picture_of_an_earlier_round_is_a_loop() -> None:
    config = StopConfig(is_looping=True)
    assert judge(_past(_pair("a"), _pair("b"), _pair("a")), config) == "looping"
    seen = _past(_pair("a", phash="0" * 16), _pair("b", phash="1" * 16), _pair("c", phash="0" * 16))
    assert judge(seen, config) == "looping"
    assert judge(seen[:2], config) is None
    assert judge(_past(_pair("a"), _pair("b")), config) is None  # no phash is not an equal one


def test_a_description_that_lost_its_words_has_collapsed() -> None:
    config = StopConfig(collapsed_below=0.5)
    long = _pair("a red star and a blue square on a white ground")
    assert judge(_past(long, _pair("a red star red star red star")), config) == "collapsed"
    assert judge(_past(long, _pair("a red star and blue square")), config) is None


def test_either_side_that_left_the_first_round_has_drifted() -> None:
    config = StopConfig(drifted_image_below=0.5, drifted_text_below=0.6)
    near = {"image_similarity_first": 0.5, "text_similarity_first": 0.6}
    assert judge(_past(_pair("a"), _pair("b", **near)), config) is None
    for name in near:
        far = near | {name: 0.4}
        assert judge(_past(_pair("a"), _pair("b", **far)), config) == "drifted"


def test_a_chain_has_converged_after_so_many_rounds_in_a_row() -> None:
    config = StopConfig(converged_from=0.9, converged_rounds=2)
    first, moved = _pair("first"), _still(0.8, phash="m")
    assert judge(_past(first, _still(0.95)), config) is None
    assert judge(_past(first, _still(0.95), _still(0.9, phash="x")), config) == "converged"
    assert judge(_past(first, _still(0.95), moved, _still(0.95, phash="y")), config) is None
    text_moved = _still(0.95, phash="z") | {"text_similarity_previous": 0.1}
    assert judge(_past(first, _still(0.95), text_moved), config) is None


def test_no_chain_stops_before_the_first_round_that_may() -> None:
    config = StopConfig(is_looping=True, first_round=2)
    assert judge(_past(_pair("a"), _pair("a")), config) is None
    assert judge(_past(_pair("a"), _pair("a"), _pair("a")), config) == "looping"


def test_bounds_that_cannot_be_are_refused() -> None:
    for fields in (
        {"converged_from": 1.5}, {"first_round": 0}, {"converged_rounds": 0},
        {"drifted_text_below": float("nan")},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(fields))):
            StopConfig(**fields)


SIMILARITIES = st.one_of(st.none(), st.floats(-1, 1, width=32))
PAIRS = st.builds(
    _pair,
    st.sampled_from(["a red star", "a star", "a blue square and a red star"]),
    phash=st.sampled_from([None, "0" * 16, "1" * 16]),
    image_similarity_first=SIMILARITIES,
    image_similarity_previous=SIMILARITIES,
    text_similarity_first=SIMILARITIES,
    text_similarity_previous=SIMILARITIES,
)
ALL_RULES = StopConfig(
    is_looping=True, collapsed_below=0.5, drifted_image_below=0.2, drifted_text_below=0.2,
    converged_from=0.5,
)  # fmt: skip


@given(pairs=st.lists(PAIRS, min_size=1, max_size=6))
def test_an_answer_is_a_reason_and_a_rule_alone_never_finds_more(pairs: list[Row]) -> None:
    past = _past(*pairs)
    reason = judge(past, ALL_RULES)
    alone = {
        judge(past, StopConfig(is_looping=True)),
        judge(past, StopConfig(collapsed_below=0.5)),
        judge(past, StopConfig(drifted_image_below=0.2, drifted_text_below=0.2)),
        judge(past, StopConfig(converged_from=0.5)),
    } - {None}
    assert reason in (*REASONS, None)
    assert (reason is None) == (not alone)
    assert reason is None or reason == min(alone, key=REASONS.index)


def test_mean_cumulative_drift_leaves_the_first_round_out() -> None:
    assert mean_cumulative_drift([1.0, 0.8, 0.6]) == pytest.approx(0.7)
    assert mean_cumulative_drift([1.0, None, 0.6]) == pytest.approx(0.6)
    assert mean_cumulative_drift([1.0]) is None
