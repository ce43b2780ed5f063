"""pipelines/budget.py: what is counted, what is on record, and when a run is stopped."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whole_runs import wait_for

from cluster.errors import BudgetSpentError, CommitError
from cluster.storage import Store, open_store
from pipelines.budget import (
    PUT_TIMEOUT_S,
    SAVE_INTERVAL_S,
    BudgetConfig,
    Meter,
    charged,
    read_spent,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def _meter(store: Store, gpu_s: float | None = None, grace_s: float = 0.0) -> Meter:
    return Meter(store, gpu_s, grace_s, now_s=0.0)


@pytest.mark.parametrize(
    ("budget", "price", "gpu_s"),
    [
        (BudgetConfig(), 2.0, None),
        (BudgetConfig(gpu_hours=2.0), None, 7200.0),
        (BudgetConfig(cost=3.0), 2.0, 5400.0),
        (BudgetConfig(cost=3.0, gpu_hours=1.0), 2.0, 3600.0),
    ],
)
def test_the_smaller_budget_holds(
    budget: BudgetConfig, price: float | None, gpu_s: float | None
) -> None:
    assert budget.gpu_s(price) == gpu_s


def test_a_cost_without_a_price_and_a_budget_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="say what a GPU-hour costs"):
        BudgetConfig(cost=1.0).gpu_s(None)
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="'gpu_hours'"):
            BudgetConfig(gpu_hours=value)


def test_idle_and_loading_replicas_cost_what_busy_ones_do(store: Store) -> None:
    meter = _meter(store)
    meter.see("generator", 4.0, 10.0)  # placed at some moment since 0: all of it counts
    meter.see("generator", 4.0, 20.0)
    meter.see("captioner", 0.5, 20.0)
    assert meter.spent_gpu_s == 80.0 + 10.0


@given(held=st.lists(st.tuples(st.floats(0, 8), st.floats(0.01, 10)), min_size=1, max_size=20))
def test_never_less_is_counted_than_was_held(held: list[tuple[float, float]]) -> None:
    """GPUs that come and go between two looks: at each look it is told what there is."""
    meter = Meter(_Nowhere(), None, 0.0, now_s=0.0)
    now = exact = 0.0
    for number, seconds in held:
        meter.see("generator", number, now)
        now += seconds
        exact += number * seconds
        meter.see("generator", number, now)
    assert meter.spent_gpu_s >= exact * (1 - 1e-9)


class _Nowhere(Store):
    """A store without anything in it."""

    uri = "nowhere"

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return True

    def put(self, key: str, data: bytes) -> None: ...

    def read(self, key: str) -> bytes:
        raise FileNotFoundError

    def list(self, prefix: str = "") -> list[str]:
        return []

    def exists(self, key: str) -> bool:
        return False

    def delete(self, key: str) -> None: ...


def test_a_run_ends_while_what_is_under_way_fits_into_the_budget(store: Store) -> None:
    meter = _meter(store, gpu_s=100.0, grace_s=10.0)
    meter.see("generator", 2.0, 39.0)
    meter.check()  # 78 spent, 20 for the grace time
    with pytest.raises(BudgetSpentError, match=r"0\.02167 of the 0\.02778 GPU-hours"):
        meter.check(interval_s=1.0)


def test_a_run_with_a_spent_budget_is_refused_before_it_holds_a_gpu(store: Store) -> None:
    first = _meter(store, gpu_s=100.0, grace_s=10.0)
    first.see("generator", 2.0, 40.0)
    with pytest.raises(BudgetSpentError):
        first.check()
    first.save(40.0, is_over=True)
    with pytest.raises(BudgetSpentError, match="by 1 earlier attempts"):
        _meter(store, gpu_s=100.0, grace_s=10.0).check(num_gpus=2.0)


def test_earlier_attempts_count(store: Store) -> None:
    first = _meter(store)
    first.see("generator", 2.0, 30.0)
    first.save(30.0, is_over=True)
    with charged(store, "author", 1.0):
        pass
    with pytest.raises(BudgetSpentError, match="of them by 2 earlier attempts") as told:
        _meter(store, gpu_s=60.0).check()
    assert told.value.exit_code == 4
    _meter(store, gpu_s=61.0).check()


def test_an_attempt_that_was_killed_is_charged_what_it_may_have_held_unseen(store: Store) -> None:
    killed = _meter(store)
    killed.see("generator", 2.0, 5.0)
    killed.save(5.0)
    assert _meter(store, gpu_s=1e6).spent_gpu_s == 10.0 + 2.0 * SAVE_INTERVAL_S


def test_an_author_that_is_killed_is_charged_as_well(store: Store) -> None:
    with charged(store, "author", 2.0):
        wait_for(lambda: bool(store.list("spent")))
        (killed_now,) = read_spent(store)
        assert killed_now.most_gpu_s >= 2.0 * SAVE_INTERVAL_S
    (ended,) = read_spent(store)
    assert 0 < ended.most_gpu_s < 2.0 * SAVE_INTERVAL_S


def test_an_author_begins_nothing_more_once_the_budget_is_spent(store: Store) -> None:
    with charged(store, "author", 2.0, gpu_s=0.2) as check:
        check()
        time.sleep(0.11)
        with pytest.raises(BudgetSpentError):
            check()
    with pytest.raises(BudgetSpentError), charged(store, "author", 2.0, gpu_s=0.2):
        pytest.fail("what the attempt before has spent is on record")


def test_the_record_is_put_again_only_when_it_is_due(store: Store) -> None:
    meter = _meter(store)
    for now_s in (1.0, 2.0, SAVE_INTERVAL_S):
        meter.see("generator", 1.0, now_s)
        meter.save(now_s)
    assert read_spent(store)[0].gpu_s == {"generator": 1.0}
    meter.see("generator", 1.0, 1.0 + SAVE_INTERVAL_S)
    meter.save(1.0 + SAVE_INTERVAL_S)
    assert read_spent(store)[0].gpu_s == {"generator": 1.0 + SAVE_INTERVAL_S}


def test_who_counts_does_not_wait_for_a_store_that_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "y"), ("REGION", "z")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    meter = _meter(open_store("s3://bucket/run"))
    meter.see("generator", 1.0, 1.0)
    started = time.monotonic()
    meter.save(1.0)
    assert time.monotonic() - started < 3 * PUT_TIMEOUT_S
    assert "not on record for now" in caplog.text


def test_a_run_without_gpus_leaves_no_record(store: Store) -> None:
    meter = _meter(store)
    meter.see("generator", 0.0, 100.0)
    meter.save(100.0, is_over=True)
    with charged(store, "author", 0.0):
        pass
    assert store.list("spent") == []


@pytest.mark.parametrize(
    "record",
    [
        "no json",
        json.dumps({"format": 2, "gpu_s": {}, "num_gpus": 0, "is_over": True}),
        json.dumps({"format": 1, "gpu_s": {"a": -5}, "num_gpus": 0, "is_over": True}),
        json.dumps({"format": 1, "gpu_s": [], "num_gpus": 0, "is_over": True}),
    ],
)
def test_a_damaged_record_is_not_guessed_at(store: Store, record: str) -> None:
    store.put("spent/x.json", record.encode())
    with pytest.raises(CommitError, match="no record of what an attempt spent"):
        read_spent(store)
