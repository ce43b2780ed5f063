"""pipelines/publish/plan.py: runs of about equal bytes, and a split by chains alone."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.publish import PublishConfig
from pipelines.publish.plan import cut_evenly, is_validation


@example(sizes=[48413125.895530105, 999999999.8955301, 0.0, 524206566.8955301], limit=1)
@given(sizes=st.lists(st.floats(0.0, 1e9), max_size=200), limit=st.integers(1, 10**9))
def test_rows_are_cut_into_runs_in_order_without_a_gap(sizes: list[float], limit: int) -> None:
    runs = cut_evenly(np.array(sizes), limit)
    assert len(runs) == len(sizes)
    if len(runs):
        assert runs[0] == 0
        assert set(np.diff(runs).tolist()) <= {0, 1}


def test_runs_are_of_about_equal_bytes() -> None:
    sizes = np.full(1000, 10.0)
    counts = np.bincount(cut_evenly(sizes, 3000))
    assert counts.tolist() == [250, 250, 250, 250]


def test_a_larger_share_takes_more_chains_and_leaves_none_out() -> None:
    chains = [f"chain {index}" for index in range(2000)]
    few, many = ({one for one in chains if is_validation(one, share)} for share in (0.05, 0.2))
    assert few < many
    assert 60 <= len(few) <= 140
    assert 320 <= len(many) <= 480
    assert not any(is_validation(one, 0.0) for one in chains)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shard_bytes", 10),
        ("rows_a_group", 0),
        ("validation_share", 1.0),
        ("licence", "not a licence"),
        ("language", ""),
        ("name", "two\nlines"),
    ],
)
def test_a_publish_that_cannot_be_meant_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"field '{field}'"):
        PublishConfig(**{field: value})
