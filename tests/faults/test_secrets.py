"""What stands in the environment of a run is found nowhere else: canaries, and a search everywhere.

A whole run over S3 in a process of its own; its Ray has a folder of its own. While it runs all that
its dashboard tells is fetched with the token; then its session token expires, so that S3 repeats
it in every answer, and the run fails. Then everything it wrote is searched.

Limits: the environment of a process is where secrets live: /proc is not searched, nor is what the
object store holds in memory.
"""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import cli
import psutil
import pyarrow.parquet as pq
import pytest
from fault_proxy import FaultProxy
from s3_servers import S3Server

CANARIES = {
    "AWS_SECRET_ACCESS_KEY": "canary-aws+secret/7c1f0a9e55",
    "AWS_SESSION_TOKEN": "canary-aws+session/b2d4471c90",
    "HF_TOKEN": "hf_canaryd3f6aa01e7",
    "RAY_AUTH_TOKEN": "canary0ray0token0f00d5eed",
    "GOOGLE_SERVICE_ACCOUNT_KEY": "canary-google-91ab33cd02",
    "AZURE_STORAGE_ACCOUNT_KEY": "Y2FuYXJ5LWF6dXJlLTQ0ZWYyMQ==",
}
TOLD_BY_THE_DASHBOARD = (
    "/api/jobs/",
    "/api/component_activities",
    "/api/cluster_status",
    "/api/v0/cluster_metadata",
    "/api/v0/actors?detail=1&limit=1000",
    "/api/v0/tasks?detail=1&limit=1000",
    "/api/v0/workers?detail=1&limit=1000",
    "/api/v0/jobs?detail=1",
    "/api/v0/nodes?detail=1",
    "/api/v0/objects?detail=1&limit=1000",
    "/api/v0/runtime_envs?detail=1",
    "/api/v0/placement_groups?detail=1",
    "/api/v0/cluster_events",
    "/api/v0/tasks/timeline",
    "/nodes?view=summary",
    "/logical/actors",
    "/events",
)


def _forms(secret: str) -> list[bytes]:
    """The secret as it is, quoted, in hex, and in base64 wherever in a longer text it begins."""
    raw = secret.encode()
    shifted = [base64.b64encode(b"\0" * shift + raw) for shift in range(3)]
    inner = [text[4 if shift else 0 : -4] for shift, text in enumerate(shifted)]
    return [raw, quote(secret, safe="").encode(), raw.hex().encode(), *inner]


def found_in(data: bytes) -> set[str]:
    """The names of the canaries that `data` holds in some form."""
    return {
        name for name, secret in CANARIES.items() if any(form in data for form in _forms(secret))
    }


def _opened(name: str, data: bytes) -> bytes:
    """Parquet is compressed: its values and its metadata as text besides."""
    if not name.endswith(".parquet"):
        return data
    table = pq.read_table(io.BytesIO(data))
    drop = [one for one in table.column_names if one == "image"]
    return data + repr((table.schema, table.drop_columns(drop).to_pylist())).encode()


@dataclass
class Searched:
    """What a run left and told, and where canaries were in it."""

    leaks: dict[str, set[str]] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)

    def search(self, place: str, data: bytes) -> None:
        self.places.append(place)
        if found := found_in(_opened(place, data)):
            self.leaks[place] = found

    def search_folder(self, folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                self.search(str(path.relative_to(folder)), path.read_bytes())


def test_a_leak_would_be_found() -> None:
    secret = CANARIES["HF_TOKEN"]
    for text in (secret, f"x{secret}y", quote(secret), secret.encode().hex()):
        assert found_in(text.encode()) == {"HF_TOKEN"}
    for shift in range(6):
        text = base64.b64encode(b"-" * shift + secret.encode() + b"-" * shift)
        assert found_in(text) == {"HF_TOKEN"}, shift
    assert found_in(b"nothing here") == set()


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))  # short: sockets have 107 characters
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _words(tmp_path: Path, server: S3Server, *more: str) -> list[str]:
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("".join(f"scene number {i}\n" for i in range(40)))
    words = [f"output={server.uri}/run", f"seeds.path={seeds}", "unit_size=2", *more]
    words += ["generator.backend=simulated", "captioner.backend=simulated"]
    return ["run", "conf/synergy.yaml", *words, "--json"]


def _env(ray_folder: Path, **more: str) -> dict[str, str]:
    own = {"RAY_AUTH_MODE": "token", "RAY_TMPDIR": str(ray_folder), "HOME": str(ray_folder)}
    return {**CANARIES, **own, **more}


def _fetch_dashboard(searched: Searched, ray_folder: Path) -> None:
    log = (ray_folder / "ray" / "session_latest" / "logs" / "dashboard.log").read_text()
    url = "http://" + log.partition("Dashboard head http address: ")[2].split()[0]
    headers = {"Authorization": f"Bearer {CANARIES['RAY_AUTH_TOKEN']}"}
    for path in TOLD_BY_THE_DASHBOARD:
        request = urllib.request.Request(url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                searched.search(f"GET {path}", answer.read())
        except urllib.error.HTTPError as error:
            if error.code in (401, 403, 404):
                raise
            searched.search(f"GET {path} {error.code}", error.read())


READ_KEYS = """
import sys
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
for space in (None, b"fun", b"job", b"session", b"dashboard", b"autoscaler", b"default", b"cluster",
              b"healthcheck", b"tracing", b"usage_stats", b"runtime_env"):
    for key in client.internal_kv_keys(b"", space):
        sys.stdout.buffer.write(key + b" " + (client.internal_kv_get(key, space) or b"") + b"\\n")
"""


def _fetch_processes(searched: Searched, ray_folder: Path, process: psutil.Process) -> None:
    (port,) = (ray_folder / "ray" / "session_latest").glob("gcs_server_port_*")
    env = {**os.environ, **_env(ray_folder), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    command = [sys.executable, "-c", READ_KEYS, f"127.0.0.1:{port.read_text()}"]
    keys = subprocess.run(command, env=env, capture_output=True, check=True, timeout=60).stdout
    assert b"\n" in keys
    searched.search("keys of the GCS", keys)
    for one in [process, *process.children(recursive=True)]:
        try:
            words = "\0".join(one.cmdline())
        except psutil.NoSuchProcess:
            continue
        searched.search(f"argv of {one.pid}", words.encode())
        for word in words.split():  # Ray packs its settings into base64
            searched.search(f"packed argv of {one.pid}", _unpacked(word))


def _unpacked(word: str) -> bytes:
    try:
        return base64.b64decode(word.partition("=")[2] or word, validate=True)
    except ValueError:
        return b""


def _wait_for(process: subprocess.Popen[str], server: S3Server, num_receipts: int) -> None:
    deadline = time.monotonic() + 120
    while sum("/receipts/" in f"/{key}" for key in server.objects()) < num_receipts:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no receipts"
        time.sleep(0.2)


@pytest.mark.faults
def test_a_run_that_fails_over_its_credentials_gives_no_secret_away(
    fault_proxy: FaultProxy, moto_s3: S3Server, tmp_path: Path, ray_folder: Path
) -> None:
    searched = Searched()
    words = _words(tmp_path, moto_s3, "generator.simulated.call_s=0.3")
    with cli.start(words, _env(ray_folder)) as process:
        _wait_for(process, moto_s3, 4)
        _fetch_dashboard(searched, ray_folder)
        _fetch_processes(searched, ray_folder, psutil.Process(process.pid))
        fault_proxy.expired.add(CANARIES["AWS_SESSION_TOKEN"])
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "credentials have expired" in err
    searched.search("standard output", out.encode())
    searched.search("standard error", err.encode())
    searched.search_folder(ray_folder)
    for key, data in moto_s3.objects().items():
        searched.search(key, data)
    for part in ("run.json", "receipts/", "_delta_log/", "seeds/", "logs/raylet", "logs/worker"):
        assert any(part in place for place in searched.places), part
    assert json.dumps({place: sorted(names) for place, names in searched.leaks.items()}) == "{}"


@pytest.mark.faults
def test_a_run_with_wrong_credentials_is_refused_without_naming_them(
    seaweed_s3: S3Server, tmp_path: Path, ray_folder: Path
) -> None:
    searched = Searched()
    env = _env(ray_folder)
    del env["AWS_SESSION_TOKEN"]
    done = cli.call(*_words(tmp_path, seaweed_s3), env=env)
    assert done.code == 2, done.err
    assert seaweed_s3.uri in done.err
    searched.search("standard output", done.out.encode())
    searched.search("standard error", done.err.encode())
    searched.search_folder(ray_folder)
    assert searched.leaks == {}


@pytest.mark.faults
def test_a_run_that_finishes_leaves_no_secret_behind(
    moto_s3: S3Server, tmp_path: Path, ray_folder: Path
) -> None:
    """With what workers print shown as well, and with failing rows, which are logged."""
    searched = Searched()
    faulty = ["generator.simulated.fault=raise", "generator.simulated.fault_marker=number 6"]
    words = _words(tmp_path, moto_s3, "cluster.has_worker_logs=true", *faulty)
    done = cli.call(*words, env=_env(ray_folder))
    assert done.code == 0, done.err
    searched.search("standard output", done.out.encode())
    searched.search("standard error", done.err.encode())
    searched.search_folder(ray_folder)
    for key, data in moto_s3.objects().items():
        searched.search(key, data)
    assert any("dead_letter/" in place for place in searched.places)
    assert searched.leaks == {}
