"""pipelines/limits.py: what is borne, and what stops a run."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ErrorShareError
from pipelines.limits import LimitsConfig, is_too_much


@pytest.mark.parametrize(
    ("num_errors", "num_judged", "verdict"),
    [
        (0, 0, False),
        (199, 199, False),  # too few rows for a verdict
        (100, 200, False),  # half of them is what is borne
        (101, 200, True),
        (500, 1001, False),
        (501, 1001, True),
    ],
)
def test_more_than_the_share_of_enough_rows_is_too_much(
    num_errors: int, num_judged: int, verdict: bool
) -> None:
    assert is_too_much(num_errors, num_judged, LimitsConfig()) is verdict


@given(num_judged=st.integers(0, 10_000), share=st.floats(0, 1))
def test_a_share_of_1_never_stops_a_run_and_no_errors_never_do(
    num_judged: int, share: float
) -> None:
    never = LimitsConfig(max_error_share=1.0, min_rows_judged=0)
    assert not is_too_much(num_judged, num_judged, never)
    assert not is_too_much(0, num_judged, LimitsConfig(max_error_share=share, min_rows_judged=0))


def test_a_share_of_0_stops_at_the_first_error_and_no_row_is_no_verdict() -> None:
    strict = LimitsConfig(max_error_share=0.0, min_rows_judged=0)
    assert is_too_much(1, 1, strict)
    assert is_too_much(1, 10_000, strict)
    assert not is_too_much(0, 0, strict)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_error_share", -0.1),
        ("max_error_share", 1.1),
        ("max_error_share", float("nan")),
        ("min_rows_judged", -1),
        ("no_progress_s", -1.0),
        ("no_progress_s", float("nan")),
        ("grace_s", -0.5),
        ("grace_s", float("nan")),
    ],
)
def test_an_impossible_limit_is_refused_by_name_and_value(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is {value}"):
        LimitsConfig(**{name: value})


def test_the_verdict_names_the_three_commonest_reasons_and_what_to_do() -> None:
    reasons = Counter(image_blank=3, task_error=90, caption_empty=12, replica_died=1)
    message = str(ErrorShareError(reasons, 200, 0.5))
    assert "106 of the 200 rows" in message
    assert "90 task_error, 12 caption_empty, 3 image_blank" in message
    assert "replica_died" not in message
    assert "limits.max_error_share = 0.5" in message
    assert "same command" in message
