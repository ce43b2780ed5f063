"""The store client against real S3 servers that fail: errors, outages, kills, expired tokens."""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from commit_checker import check_run
from credential_service import credential_service
from fault_proxy import FaultProxy, at_random, never
from grow import grow_unit
from s3_servers import S3Server, ServerProcess, seaweed_process
from whole_runs import wait_for

from cluster.errors import StoreError
from cluster.ledger import Ledger
from cluster.storage import Store, open_store

logger = logging.getLogger(__name__)

CALLS: dict[str, Callable[[Store], object]] = {
    "put_if_absent": lambda store: store.put_if_absent("new", b"data"),
    "put_if_absent of a held key": lambda store: store.put_if_absent("held", b"data"),
    "put": lambda store: store.put("over", b"data"),
    "read": lambda store: store.read("held"),
    "list": lambda store: store.list(),
    "exists": lambda store: store.exists("held"),
    "delete": lambda store: store.delete("held"),
}
OLD, NEW = "old-session-token-7f3a", "new-session-token-91bc"


@pytest.fixture
def expiring(
    fault_proxy: FaultProxy, moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> FaultProxy:
    """A proxy that knows the session token OLD as expired, once `expired` is filled."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", OLD)
    open_store(moto_s3.uri).put("held", b"held")
    return fault_proxy


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("answer", ["expired", "invalid"])
def test_credentials_renewed_in_the_environment_are_picked_up(
    expiring: FaultProxy,
    moto_s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    answer: str,
) -> None:
    store = open_store(moto_s3.uri)
    assert store.exists("held")
    getattr(expiring, answer).add(OLD)
    monkeypatch.setenv("AWS_SESSION_TOKEN", NEW)
    before = expiring.num_requests
    CALLS[call](store)
    CALLS["read" if call != "delete" else "list"](store)
    assert expiring.num_requests - before <= 4, "one refusal, then the new token is kept"


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("answer", ["expired", "invalid"])
def test_credentials_that_stay_expired_end_the_call_at_once_without_a_secret(
    expiring: FaultProxy,
    moto_s3: S3Server,
    caplog: pytest.LogCaptureFixture,
    call: str,
    answer: str,
) -> None:
    store = open_store(moto_s3.uri)
    getattr(expiring, answer).add(OLD)
    before, started = expiring.num_requests, time.monotonic()
    with caplog.at_level(logging.DEBUG), pytest.raises(StoreError) as failure:
        CALLS[call](store)
    assert time.monotonic() - started < 3
    assert expiring.num_requests - before == 2
    for words in (moto_s3.uri, "credentials have expired", "same command"):
        assert words in str(failure.value)
    told = caplog.text + "".join(traceback.format_exception(failure.value))
    for secret in (OLD, moto_s3.secret_key):
        assert secret not in told


@pytest.mark.faults
def test_a_token_that_a_credential_service_hands_out_is_fetched_anew(
    fault_proxy: FaultProxy, moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on EKS: the service is asked again although the old token's own date has not come."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    token_file = tmp_path / "token"
    token_file.write_text("pod-token")
    with credential_service([OLD, NEW]) as service:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", service.uri)
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token_file))
        store = open_store(moto_s3.uri)
        assert store.put_if_absent("a", b"1")
        fault_proxy.expired.add(OLD)
        assert store.put_if_absent("b", b"2")
        assert service.num_asked == 2
    assert moto_s3.objects() == {"a": b"1", "b": b"2"}


def _go_down(proxy: FaultProxy, outage_s: float) -> Callable[[], float]:
    """From now on nothing gets through; the return tells how long ago that ended."""
    kinds = at_random(1, 1.0, ["reset", "error", "internal"])
    end = time.monotonic() + outage_s
    proxy.fault = lambda method, path: kinds(method, path) if time.monotonic() < end else None
    return lambda: time.monotonic() - end


def _ride_out(proxy: FaultProxy, server: S3Server, outage_s: float) -> None:
    store = open_store(server.uri)
    store.put("held", b"held")
    since_end_s = _go_down(proxy, outage_s)
    with ThreadPoolExecutor(len(CALLS)) as callers:
        calls = [callers.submit(call, store) for name, call in CALLS.items() if name != "delete"]
        answers = [call.result() for call in calls]
    logger.info("all went on %.1f s after an outage of %.0f s", since_end_s(), outage_s)
    assert answers[:2] == [True, False]
    assert since_end_s() < 15
    assert server.objects() == {"held": b"held", "new": b"data", "over": b"data"}


@pytest.mark.faults
def test_an_outage_is_ridden_out(fault_proxy: FaultProxy, moto_s3: S3Server) -> None:
    _ride_out(fault_proxy, moto_s3, 8.0)


@pytest.mark.faults
def test_an_outage_of_two_minutes_is_ridden_out(
    seaweed_proxy: FaultProxy, seaweed_s3: S3Server
) -> None:
    _ride_out(seaweed_proxy, seaweed_s3, 120.0)


@pytest.mark.parametrize("kind", ["error", "internal", "reset"])
@pytest.mark.parametrize("call", CALLS)
def test_every_call_ends_with_its_budget(
    fault_proxy: FaultProxy, moto_s3: S3Server, call: str, kind: str
) -> None:
    store = open_store(moto_s3.uri, retry_timeout_s=0.6)
    store.put("held", b"held")
    fault_proxy.fault = lambda method, path: kind
    started = time.monotonic()
    with pytest.raises(StoreError, match=moto_s3.uri):
        CALLS[call](store)
    assert time.monotonic() - started < 2
    assert fault_proxy.num_faults > 1


def test_a_listing_whose_pages_are_cut_goes_on_after_the_last_good_one(
    fault_proxy: FaultProxy, moto_s3: S3Server
) -> None:
    client = moto_s3.client()
    keys = [f"receipts/u{number:04}/0.json" for number in range(1100)]
    with ThreadPoolExecutor(8) as writers:
        list(
            writers.map(
                lambda key: client.put_object(
                    Bucket=moto_s3.bucket, Key=f"{moto_s3.prefix}/{key}", Body=b""
                ),
                keys,
            )
        )
    store = open_store(moto_s3.uri, retry_timeout_s=20)
    faults = ["truncate", "reset", None, "error", "truncate", None]
    fault_proxy.fault = lambda method, path: faults.pop(0) if faults else None
    before = fault_proxy.num_requests
    assert store.list("receipts") == keys
    assert not faults
    assert fault_proxy.num_requests - before <= 2 + 4


@pytest.fixture
def own_seaweed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    """A seaweedfs that this test may kill."""
    process = seaweed_process(tmp_path)
    process.start()
    process.server = process.server.for_test(monkeypatch)
    yield process
    process.kill()


@pytest.mark.faults
def test_a_server_that_is_killed_and_started_again_is_waited_for(
    own_seaweed: ServerProcess,
) -> None:
    """Its disk keeps what it confirmed: nothing committed before, during or after is lost."""
    store = open_store(own_seaweed.server.uri)
    committed: list[str] = []
    is_over = threading.Event()

    def write() -> None:
        while not is_over.is_set():
            key = f"r/{len(committed):05}"
            assert store.put_if_absent(key, key.encode() * 1000)
            committed.append(key)

    with ThreadPoolExecutor(1) as writer:
        writing = writer.submit(write)
        # Not after half a second: on a busy machine the first put had not come back by then.
        wait_for(lambda: len(committed) >= 5)
        own_seaweed.kill()
        num_before = len(committed)
        own_seaweed.start()
        started = time.monotonic()
        while len(committed) < num_before + 20 and not writing.done():
            assert time.monotonic() - started < 60
            time.sleep(0.05)
        logger.info("went on %.1f s after the server's return", time.monotonic() - started)
        is_over.set()
        writing.result()
    found = own_seaweed.server.objects()
    assert found == {key: key.encode() * 1000 for key in committed}
    assert num_before >= 5


@pytest.mark.faults
@pytest.mark.parametrize("server", ["moto", "seaweed"])
def test_a_fifth_of_all_requests_fails_and_nothing_is_lost_or_doubled(
    request: pytest.FixtureRequest, server: str
) -> None:
    """Two attempts race for each unit; the result is read with boto3, pyarrow and json alone."""
    name = "fault_proxy" if server == "moto" else "seaweed_proxy"
    proxy: FaultProxy = request.getfixturevalue(name)
    upstream: S3Server = request.getfixturevalue(f"{server}_s3")
    num_units, num_rounds = 100, 3
    walls_s: dict[str, float] = {}
    for kind, fault in (("clean", never), ("faulty", at_random(20, 0.2))):
        proxy.fault, proxy.num_faults, proxy.num_requests = fault, 0, 0
        uri = f"{upstream.uri}/{kind}"
        started = time.monotonic()

        def grow(number: int, uri: str = uri) -> None:
            ledger = Ledger(open_store(uri, retry_timeout_s=60), "f")
            grow_unit(ledger, f"u{number % num_units}", num_rounds, f"attempt {number}")

        # Ten units are grown twice at about the same time.
        units = [n for n in range(num_units) for n in ([n, n + num_units] if n % 10 == 0 else [n])]
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(grow, units))
        walls_s[kind] = time.monotonic() - started
        share = proxy.num_faults / proxy.num_requests
        logger.info(
            "%s: %.1f s, %d requests, %d of them failed",
            kind,
            walls_s[kind],
            proxy.num_requests,
            proxy.num_faults,
        )
    assert share > 0.15
    found = replace(upstream, prefix=f"{upstream.prefix}/faulty").objects()
    orphans = check_run(found, [f"u{n}" for n in range(num_units)], num_rounds)
    slowdown = walls_s["faulty"] / walls_s["clean"]
    logger.info("slowed by %.2f, %d orphans", slowdown, len(orphans))
