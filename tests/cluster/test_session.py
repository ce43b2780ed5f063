"""What a session changes, puts back, starts and leaves alone."""

import dataclasses
import os
import subprocess
import sys
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data

from cluster.errors import PoolError
from cluster.guard import LOCAL_ENVIRONMENT
from cluster.packing import Demand, Node
from cluster.session import (
    DATA_SETTINGS,
    ENVIRONMENT,
    SessionConfig,
    SessionInfo,
    _address_of,
    _probe,
    plan_session,
    prepared_environment,
    session,
    unwrapped,
)

NICENESS = "RAY_worker_niceness"


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    others = ("RAY_TMPDIR", "RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR")
    for key in (*ENVIRONMENT, *LOCAL_ENVIRONMENT, *others):
        monkeypatch.delenv(key, raising=False)
    return monkeypatch


def test_address_comes_from_the_config_the_environment_or_the_job(
    clean_environment: pytest.MonkeyPatch,
) -> None:
    assert _address_of(SessionConfig()) is None
    clean_environment.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert _address_of(SessionConfig()) == "auto"
    clean_environment.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert _address_of(SessionConfig()) == "10.0.0.1:6379"
    assert _address_of(SessionConfig(address="10.0.0.2:6379")) == "10.0.0.2:6379"


def test_environment_is_set_inside_and_gone_outside(clean_environment: pytest.MonkeyPatch) -> None:
    with prepared_environment(is_local=True):
        assert {key: os.environ[key] for key in ENVIRONMENT} == dict(ENVIRONMENT)
        assert {key: os.environ[key] for key in LOCAL_ENVIRONMENT} == dict(LOCAL_ENVIRONMENT)
        assert "RAY_TMPDIR" in os.environ
    assert not {*ENVIRONMENT, *LOCAL_ENVIRONMENT, "RAY_TMPDIR"} & os.environ.keys()


def test_environment_of_the_user_is_kept(clean_environment: pytest.MonkeyPatch) -> None:
    clean_environment.setenv(NICENESS, "7")
    with prepared_environment(is_local=False):
        assert os.environ[NICENESS] == "7"
        assert "RAY_AUTH_MODE" not in os.environ  # a joined cluster has its own
    assert os.environ[NICENESS] == "7"


@pytest.mark.parametrize(
    ("address", "message"),
    [("127.0.0.1:1", "refused"), ("http://127.0.0.1:8265", "for `ray job submit` only")],
)
def test_wrong_address_is_noticed_at_once(address: str, message: str) -> None:
    with pytest.raises(ConnectionError, match=message):
        _probe(address)


@pytest.mark.parametrize(
    ("address", "message"),
    [("ray://head:10001", "Ray Client.*host:port"), ("127.0.0.1:70000", "70000 is above 65535")],
)
def test_address_that_cannot_work_is_refused_before_ray_tries_it(
    clean_environment: pytest.MonkeyPatch, address: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _probe(address)


@pytest.mark.parametrize(
    ("field", "value"), [("num_cpus", 0), ("num_gpus", -1), ("object_store_bytes", 1000)]
)
def test_config_names_the_wrong_field_and_its_value(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"field '{field}' of the session is {value}"):
        SessionConfig(**{field: value})


def test_gpus_of_a_local_start_are_known_before_it(clean_environment: pytest.MonkeyPatch) -> None:
    assert plan_session(SessionConfig(num_cpus=3, num_gpus=8)).num_gpus == 8
    clean_environment.setenv("CUDA_VISIBLE_DEVICES", "")
    found = plan_session(SessionConfig())
    assert (found.is_started_here, found.num_gpus) == (True, 0)
    assert found.num_cpus >= 1


GENERATOR = Demand(name="generator", num_replicas=2, num_cpus=0.5, num_gpus=2)


def test_session_inside_a_running_ray_changes_only_the_context_and_leaves_it(
    local_ray: SessionInfo,
) -> None:
    before = ray.data.DataContext.get_current()
    before.execution_no_progress_timeout_s = 77
    with session(SessionConfig(num_gpus=1), demands=[GENERATOR]) as info:
        assert (info.is_started_here, info.num_cpus, info.num_gpus) == (False, 2, 4)
        assert info.nodes == (Node(num_cpus=2, num_gpus=4),)
        inside = ray.data.DataContext.get_current()
        assert {name: getattr(inside, name) for name in DATA_SETTINGS} == dict(DATA_SETTINGS)
    assert ray.data.DataContext.get_current() is before
    assert before.execution_no_progress_timeout_s == 77
    assert ray.is_initialized()
    three = dataclasses.replace(GENERATOR, num_replicas=3)
    with pytest.raises(ValueError, match="the machine has 4 GPUs, 2 CPUs: generator finds"):
        session(SessionConfig(), demands=[three]).__enter__()


@pytest.mark.parametrize("is_actor", [False, True])
def test_a_block_of_any_size_stays_one_block(local_ray: SessionInfo, is_actor: bool) -> None:
    """The block of three rows weighs more than the 192 MiB at which Ray Data would cut it."""

    def grow(batch: pa.Table) -> pa.Table:
        return pa.table({"id": batch["id"], "image": [b"x" * (70 << 20)] * batch.num_rows})

    class Grow:
        async def __call__(self, batch: pa.Table) -> pa.Table:
            return grow(batch)

    def count(batch: pa.Table) -> pa.Table:
        return pa.table({"num_rows": [batch.num_rows]})

    how: dict[str, Any] = {
        "batch_size": None,
        "batch_format": "pyarrow",
        "zero_copy_batch": True,
        "num_cpus": 0.1,
    }
    compute = ray.data.ActorPoolStrategy(size=1) if is_actor else ray.data.TaskPoolStrategy(1)
    with session(SessionConfig()):
        blocks = ray.data.range(3, override_num_blocks=1)
        grown = blocks.map_batches(Grow if is_actor else grow, compute=compute, **how)
        counted = grown.map_batches(count, **{**how, "num_cpus": 0.2})  # not fused
        assert [row["num_rows"] for row in counted.take_all()] == [3]


def test_pool_error_in_a_task_is_found_under_rays_wrapping(local_ray: SessionInfo) -> None:
    @ray.remote(num_cpus=0)
    def fail() -> None:
        raise PoolError("replicas exhausted")

    with pytest.raises(PoolError) as caught:
        ray.get(fail.remote())
    assert str(unwrapped(caught.value)) == "replicas exhausted"
    plain = OSError("no wrapping")
    assert unwrapped(plain) is plain


LOCAL = """
import os, sys, time
from cluster.errors import PoolError
from cluster.guard import LOCAL_ENVIRONMENT
from cluster.packing import Demand
from cluster.session import ENVIRONMENT, SessionConfig, session, unwrapped

generator = Demand(name="generator", num_replicas=2, num_cpus=0.5, num_gpus=1)
started_s = time.monotonic()
try:
    with session(SessionConfig(num_cpus=2, num_gpus=1), demands=[generator]):
        raise AssertionError
except ValueError as error:
    assert "the machine has 1 GPUs, 2 CPUs: generator finds" in str(error), error
assert time.monotonic() - started_s < 5, "a refusal must not wait for Ray"

config = SessionConfig(num_cpus=2, num_gpus=2, has_dashboard=False)
with session(config, demands=[generator]) as info:
    import ray
    assert (info.is_started_here, info.num_cpus, info.num_gpus) == (True, 2, 2), info
    assert os.path.isdir(info.logs_path) and info.dashboard_url == "", info
    from ray._raylet import AuthenticationMode, get_authentication_mode
    assert get_authentication_mode() == AuthenticationMode.TOKEN
    from ray.data._internal.planner import plan_udf_map_op
    assert plan_udf_map_op.DEFAULT_ASYNC_BATCH_UDF_MAX_CONCURRENCY == 64

    @ray.remote(num_cpus=0)
    def niceness():
        print("CHATTER")
        return os.nice(0)
    assert ray.get(niceness.remote()) == os.nice(0)

    def fail(batch):
        raise PoolError("replicas exhausted")
    try:
        ray.data.range(4).map_batches(fail).materialize()
    except PoolError as error:
        assert str(unwrapped(error)) == "replicas exhausted"
assert not ray.is_initialized()
assert ray.data.DataContext.get_current().enable_progress_bars
assert not set(ENVIRONMENT) & set(os.environ)
print("DONE")
"""


def test_started_ray_is_quiet_private_and_gone_afterwards(
    clean_environment: pytest.MonkeyPatch,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOCAL], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "DONE\n", done.stderr
    assert "Traceback" not in done.stderr
    assert "CHATTER" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2, done.stderr


SIGTERM = """
import signal
from cluster.session import SessionConfig, session

class ToldError(BaseException): pass  # Ray swallows an Exception

def tell(number, frame):
    raise ToldError

signal.signal(signal.SIGTERM, tell)
signal.setitimer(signal.ITIMER_REAL, 1.0)
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
try:
    with session(SessionConfig(num_cpus=1, has_dashboard=False)):
        raise AssertionError("Ray starts in more than a second")
except ToldError:
    print("STARTING")
with session(SessionConfig(num_cpus=1, has_dashboard=False)):
    try:
        signal.raise_signal(signal.SIGTERM)
    except ToldError:
        print("INSIDE")
assert signal.getsignal(signal.SIGTERM) is tell
print("DONE")
"""


def test_sigterm_stays_with_whom_it_belonged_to(clean_environment: pytest.MonkeyPatch) -> None:
    """Ray would take it, exit with 15, and not give it back."""
    done = subprocess.run(
        [sys.executable, "-c", SIGTERM], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "STARTING\nINSIDE\nDONE\n", done.stderr
