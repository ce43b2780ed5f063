"""Real S3 servers for tests, and a proxy that fails on demand in front of them.

`moto_s3` is quick (1 s, memory only, takes any secret); `seaweed_s3` is durable and authenticates
(3-15 s to start). Both start once a session, each test gets a fresh prefix of one bucket and the
``AWS_*`` environment set for it. Every process started here is stopped here, by its own handle.

Limits: no TLS, one region; neither is Amazon's S3.
"""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from ports import free_ports

BIN = Path(sys.executable).parent
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class S3Server:
    """Where a server listens and how to log in."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str = "pairloom-tests"
    prefix: str = ""

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }

    def create_bucket(self) -> None:
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=5),
        )
        client.create_bucket(Bucket=self.bucket)

    def for_test(self, monkeypatch: pytest.MonkeyPatch) -> "S3Server":
        """The same server with a fresh prefix, and the environment that reaches it."""
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)
        return replace(self, prefix=uuid.uuid4().hex[:12])


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    (port,) = free_ports(1)
    command = [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    server = S3Server(f"http://127.0.0.1:{port}", "moto", "moto-secret")
    yield from _serve(command, server, tmp_path_factory.mktemp("moto"))


@pytest.fixture(scope="session")
def seaweed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    folder = tmp_path_factory.mktemp("seaweed")
    port, *ports = free_ports(8)
    server = S3Server(f"http://127.0.0.1:{port}", "seaweed", "seaweed-secret")
    keys = {"accessKey": server.access_key, "secretKey": server.secret_key}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identities = [{"name": "tests", "credentials": [keys], "actions": actions}]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    (folder / "data").mkdir()
    names = ["s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc"]
    names += ["filer.port", "filer.port.grpc"]
    command = [str(BIN / "weed"), f"-logdir={folder}", "server", f"-dir={folder / 'data'}"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.port={port}"]
    command += [f"-s3.config={folder / 's3.json'}", "-master.volumeSizeLimitMB=128"]
    command += ["-volume.max=20", "-master.telemetry=false"]
    command += [f"-{name}={number}" for name, number in zip(names, ports, strict=True)]
    yield from _serve(command, server, folder)


@pytest.fixture
def moto_s3(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    return moto_server.for_test(monkeypatch)


@pytest.fixture
def seaweed_s3(seaweed_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    return seaweed_server.for_test(monkeypatch)


@pytest.fixture(params=["local", "moto", "seaweed"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh prefix on each kind of store in turn."""
    if request.param == "local":
        return str(tmp_path / "run")
    server: S3Server = request.getfixturevalue(f"{request.param}_s3")
    return server.uri


class FaultProxy(ThreadingHTTPServer):
    """Forwards to `upstream`, asking `fault(method, path)` before each request what goes wrong.

    "error": 503 and nothing done; "conflict": 409 and nothing done; "reset": cut, nothing done;
    "lose": done, then cut; "truncate": half of the answer's body; "forget": done without the
    If-None-Match header.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _FaultHandler)
        self.upstream = urlsplit(upstream).netloc
        self.fault: Callable[[str, str], str | None] = lambda method, path: None
        self.num_faults = 0
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what these tests are about."""


class _FaultHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            fault = self.server.fault(self.command, self.path)
            self.server.num_faults += fault is not None
        if fault == "reset":
            self.close_connection = True
            return
        if fault == "error":
            self._answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
            return
        if fault == "conflict":
            self._answer(409, [], b"<Error><Code>ConditionalRequestConflict</Code></Error>")
            return
        dropped = {"if-none-match"} if fault == "forget" else set[str]()
        headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        if fault == "lose":
            self.close_connection = True
            return
        self._answer(answer.status, answer.getheaders(), data, is_cut=fault == "truncate")

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, *, is_cut: bool = False
    ) -> None:
        self.send_response_only(status)
        skipped = {"content-length", "transfer-encoding", "connection"}
        lengths = [value for name, value in headers if name.lower() == "content-length"]
        for name, value in headers:
            if name.lower() not in skipped:
                self.send_header(name, value)
        is_head = self.command == "HEAD" and bool(lengths)
        self.send_header("Content-Length", lengths[0] if is_head else str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if is_cut else data)
        self.close_connection = self.close_connection or is_cut

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Silent: a fault is not news here."""


@pytest.fixture
def fault_proxy(moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Stands in front of moto; stores opened in the test go through it."""
    proxy = FaultProxy(moto_s3.endpoint)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    yield proxy
    proxy.shutdown()
    proxy.server_close()
    thread.join()


def _serve(command: list[str], server: S3Server, folder: Path) -> Iterator[S3Server]:
    log = folder / "server.log"
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                server.create_bucket()
                break
            except (BotoCoreError, ClientError) as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    tail = log.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{command[0]} did not start: {error}\n{tail}") from error
                time.sleep(0.1)
        yield server
    finally:
        # Killed, because weed takes 10 s to say goodbye to data that nobody keeps.
        process.kill()
        process.wait()
