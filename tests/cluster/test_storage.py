"""The store on a real folder and on real S3 servers, with real races, kills and lost replies."""

import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.errors import ConditionalPutUnsupportedError, StoreError
from cluster.storage import LocalStore, RemoteStore, is_local, local_path, open_store
from tests.conftest import FaultProxy, S3Server


def test_put_if_absent_read_list_delete(store_uri: str) -> None:
    store = open_store(store_uri)
    assert store.list("data") == []
    assert store.put_if_absent("data/round=0/b c.parquet", b"first")
    assert not store.put_if_absent("data/round=0/b c.parquet", b"second")
    assert not store.put_if_absent("data/round=0/b c.parquet", b"first")
    store.put("data/round=0/a.parquet", b"")
    store.put("data/round=0/a.parquet", b"over")
    store.put("database/x", b"a neighbour with the same beginning")
    assert store.read("data/round=0/b c.parquet") == b"first"
    assert store.read("data/round=0/a.parquet") == b"over"
    assert store.list("data") == ["data/round=0/a.parquet", "data/round=0/b c.parquet"]
    assert store.list("data/") == store.list("data")
    assert "database/x" in store.list()
    assert store.exists("database/x")
    store.delete("database/x")
    store.delete("database/x")
    assert not store.exists("database/x")
    with pytest.raises(FileNotFoundError, match="database/x"):
        store.read("database/x")


def test_a_big_object_survives_whole(store_uri: str) -> None:
    store, data = open_store(store_uri), os.urandom(12 << 20)
    assert store.put_if_absent("data/big", data)
    store.put("data/over", data)
    assert store.read("data/big") == store.read("data/over") == data


def test_a_store_pickles_to_the_same_place(store_uri: str) -> None:
    store = open_store(store_uri)
    again = pickle.loads(pickle.dumps(store))
    again.put("k", b"v")
    assert (type(again), again.uri, store.read("k")) == (type(store), store.uri, b"v")


def test_one_of_eight_racing_threads_wins(store_uri: str) -> None:
    store = open_store(store_uri)
    for turn in range(5):
        with ThreadPoolExecutor(8) as racers:
            won = list(
                racers.map(lambda n, t=turn: store.put_if_absent(f"r/{t}", b"%d" % n), range(8))
            )
        assert won.count(True) == 1
        assert store.read(f"r/{turn}") == b"%d" % won.index(True)


def _race(uri: str, number: int) -> list[bool]:
    store = open_store(uri)
    return [store.put_if_absent(f"r/{turn}", b"%d" % number) for turn in range(20)]


def test_one_of_four_racing_processes_wins(tmp_path: Path) -> None:
    uri = str(tmp_path)
    with multiprocessing.get_context("spawn").Pool(4) as racers:
        won = racers.starmap(_race, [(uri, number) for number in range(4)])
        racers.close()
        racers.join()
    for turn in range(20):
        winners = [number for number in range(4) if won[number][turn]]
        assert len(winners) == 1
        assert open_store(uri).read(f"r/{turn}") == b"%d" % winners[0]


def test_check_writable_passes_and_leaves_nothing(store_uri: str) -> None:
    store = open_store(store_uri)
    store.check_writable()
    assert store.list() == []


def _refused(uri: str, *words: str) -> None:
    started = time.monotonic()
    with pytest.raises(ValueError) as refusal:
        open_store(uri).check_writable()
    assert time.monotonic() - started < 5
    assert all(word in str(refusal.value) for word in (uri, *words)), str(refusal.value)


def test_check_writable_refuses_a_missing_bucket(moto_s3: S3Server) -> None:
    _refused("s3://no-such-bucket/run", "NoSuchBucket")


def test_check_writable_refuses_a_wrong_secret(
    seaweed_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    _refused(seaweed_s3.uri, "SignatureDoesNotMatch")


def test_check_writable_refuses_a_closed_port(
    moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    _refused(moto_s3.uri, "127.0.0.1:9")


def test_check_writable_refuses_a_silent_server(
    moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        _refused(moto_s3.uri)


def test_plain_http_beyond_the_loopback_is_refused(
    moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://192.0.2.1:9000")
    _refused(moto_s3.uri)


def test_check_writable_refuses_a_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _refused(str(tmp_path / "file" / "run"), "is not a folder")


def test_check_writable_refuses_a_folder_that_cannot_be_made() -> None:
    _refused("/proc/pairloom-run")


def test_check_writable_refuses_a_store_that_ignores_conditions(
    fault_proxy: FaultProxy, moto_s3: S3Server
) -> None:
    fault_proxy.fault = lambda method, path: "forget" if method == "PUT" else None
    with pytest.raises(ConditionalPutUnsupportedError, match=moto_s3.uri):
        open_store(moto_s3.uri).check_writable()


def test_a_lost_reply_counts_as_success_only_for_our_own_bytes(
    fault_proxy: FaultProxy, moto_s3: S3Server
) -> None:
    store = open_store(moto_s3.uri)
    faults = ["lose", None, "lose", None]
    fault_proxy.fault = lambda method, path: faults.pop(0) if method == "PUT" and faults else None
    assert store.put_if_absent("r/0", b"ours")
    assert not store.put_if_absent("r/0", b"theirs")
    assert store.read("r/0") == b"ours"
    assert fault_proxy.num_faults == 2


def test_a_conflict_of_two_writers_in_flight_is_tried_again(
    fault_proxy: FaultProxy, moto_s3: S3Server
) -> None:
    """S3 answers 409 while another conditional put is under way: nothing need be there after."""
    store = open_store(moto_s3.uri)
    faults = ["conflict", "conflict", None, "conflict"]
    fault_proxy.fault = lambda method, path: faults.pop(0) if method == "PUT" and faults else None
    assert store.put_if_absent("r/0", b"ours")
    assert not store.put_if_absent("r/0", b"theirs")
    assert store.read("r/0") == b"ours"
    assert not faults


def test_errors_resets_and_lost_replies_are_ridden_out(
    fault_proxy: FaultProxy, moto_s3: S3Server
) -> None:
    store = open_store(moto_s3.uri, retry_timeout_s=20)
    schedule = ["error", "reset", None, "lose", "error", None, "truncate", None]
    turn = iter(range(10_000))

    def fault(method: str, path: str) -> str | None:
        chosen = schedule[next(turn) % len(schedule)]
        return None if chosen == "truncate" and method != "GET" else chosen

    fault_proxy.fault = fault
    for index in range(6):
        data = b"%d" % index * 50_000
        assert store.put_if_absent(f"r/{index:02}", data)
        assert not store.put_if_absent(f"r/{index:02}", b"other")
        assert store.read(f"r/{index:02}") == data
    assert len(store.list("r")) == 6
    assert fault_proxy.num_faults > 10


def test_a_cut_body_is_never_taken_for_the_object(
    fault_proxy: FaultProxy, moto_s3: S3Server
) -> None:
    store, data = open_store(moto_s3.uri, retry_timeout_s=10), os.urandom(1 << 20)
    store.put("k", data)
    faults = ["truncate", "truncate"]
    fault_proxy.fault = lambda method, path: faults.pop() if faults else None
    assert store.read("k") == data
    assert not faults


def test_a_store_that_stays_down_fails_at_the_end_of_the_budget(
    fault_proxy: FaultProxy, moto_s3: S3Server
) -> None:
    store = open_store(moto_s3.uri, retry_timeout_s=1.0)
    fault_proxy.fault = lambda method, path: "error"
    started = time.monotonic()
    with pytest.raises(StoreError, match="503"):
        store.put_if_absent("r/0", b"x")
    with pytest.raises(StoreError, match="503"):
        store.read("r/0")
    assert time.monotonic() - started < 6


def test_a_refusal_is_not_repeated(seaweed_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store, started = open_store(seaweed_s3.uri), time.monotonic()
    for call in (
        lambda: store.put_if_absent("k", b""),
        lambda: store.put("k", b""),
        lambda: store.read("k"),
        lambda: store.list("k"),
    ):
        with pytest.raises(StoreError, match=seaweed_s3.bucket):
            call()
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("uri", ["", "ftp://host/x", "s3://", "s3:///prefix", "file://host/x"])
def test_a_uri_that_names_no_store_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="storage uri"):
        open_store(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:hunter2@bucket/run",
        "s3://hunter2@bucket",
        "az://bucket/run?sig=hunter2",
        "s3://bucket?key=hunter2/x",
        "file://me:hunter2@localhost/x",
        "http://me:hunter2@host/x",
    ],
)
def test_a_uri_with_credentials_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(ValueError, match="environment") as refusal:
        open_store(uri)
    assert "hunter2" not in str(refusal.value)
    assert uri.partition(":")[0] in str(refusal.value)


@pytest.mark.parametrize("uri", ["s3:/bucket/run", "file:/data/run", "gcs:/b", "C:/data"])
def test_a_scheme_with_one_slash_is_no_local_path(uri: str) -> None:
    with pytest.raises(ValueError, match="one slash instead of two"):
        open_store(uri)


def test_odd_names_are_still_keys_and_folders(tmp_path: Path) -> None:
    assert open_store(f"{tmp_path}/a:/b?c").uri == f"{tmp_path}/a:/b?c"
    assert open_store("./s3:/run").uri.endswith("s3:/run")
    assert open_store("s3://bucket/me@home").uri == "s3://bucket/me@home"


def test_local_uris_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("out/run").uri == str(tmp_path / "out/run")
    assert open_store(f"file://{tmp_path}/a%20b").uri == str(tmp_path / "a b")
    assert isinstance(open_store("gs://bucket/run"), RemoteStore)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("uri", ["{}/a b", "file://{}/a%20b", "file://localhost{}/a%20b"])
def test_the_path_of_a_local_uri_is_where_its_store_writes(tmp_path: Path, uri: str) -> None:
    uri = uri.format(tmp_path)
    open_store(uri).put("x", b"1")
    assert is_local(uri)
    assert (local_path(uri) / "x").read_bytes() == b"1"


def test_a_plain_path_stays_relative_and_a_remote_uri_is_no_path() -> None:
    assert local_path("out/run") == Path("out/run")
    assert local_path("~/run") == Path.home() / "run"
    assert not is_local("s3://bucket/run")
    with pytest.raises(ValueError, match="must be a local path"):
        is_local("ftp://host/x")


@pytest.mark.parametrize("key", ["", "/etc/x", "a/../b", "a//b", "./a", ".tmp/x", "a/"])
def test_a_key_cannot_leave_the_prefix(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        LocalStore(str(tmp_path)).put(key, b"")


WRITER = """
import sys
from cluster.storage import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
for number in range(10**6):
    store.put_if_absent(f"data/{number:06}", bytes([number % 251]) * (8 << 20))
"""


def test_a_writer_killed_mid_put_leaves_no_half_file(tmp_path: Path) -> None:
    for number, wait_s in enumerate((0.02, 0.05, 0.11)):
        folder = tmp_path / str(number)
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, cwd=os.getcwd()
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(wait_s)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        store = open_store(str(folder))
        for key in store.list("data"):
            data = store.read(key)
            assert data == bytes([int(key[-6:]) % 251]) * (8 << 20)
        assert not [path for path in folder.glob("data/**/*") if path.stat().st_size != 8 << 20]


def test_what_a_killed_writer_left_is_hidden_and_removed_when_old(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.check_writable()
    old, young = tmp_path / ".tmp" / "old", tmp_path / ".tmp" / "young"
    for temp in (old, young):
        temp.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert store.list() == []
    store.check_writable()
    assert not old.exists()
    assert young.exists()


def test_a_file_system_without_hard_links_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    with pytest.raises(ConditionalPutUnsupportedError, match="hard links"):
        open_store(str(tmp_path)).check_writable()


def test_local_failures_are_store_errors(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where a folder should be")
    (tmp_path / "folder").mkdir()
    store = open_store(str(tmp_path))
    with pytest.raises(StoreError, match="data/x"):
        store.put_if_absent("data/x", b"")
    with pytest.raises(StoreError, match="delete"):
        store.delete("folder")
    with pytest.raises(FileNotFoundError):
        store.read("folder")
    assert store.list("data") == []
