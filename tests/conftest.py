"""Real S3 servers for tests, and a proxy that fails on demand in front of them.

`moto_s3` is quick (1 s, memory only, takes any secret); `seaweed_s3` is durable and authenticates
(3-15 s to start); `rclone_s3` ignores If-None-Match. Each starts once a session, each test gets a
fresh prefix of one bucket and the ``AWS_*`` environment set for it. Processes are those of
tests/support/s3_servers.py.
"""

from collections.abc import Iterator
from pathlib import Path

import cli
import pytest
from fault_proxy import FaultProxy, proxy_before
from s3_servers import S3Server, ServerProcess, moto_process, rclone_process, seaweed_process

__all__ = ["FaultProxy", "S3Server"]


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    yield
    cli.kill_leftovers()


def _serve(process: ServerProcess) -> Iterator[S3Server]:
    process.start()
    try:
        yield process.server
    finally:
        process.kill()


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    yield from _serve(moto_process(tmp_path_factory.mktemp("moto")))


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    yield from _serve(rclone_process(tmp_path_factory.mktemp("rclone")))


@pytest.fixture(scope="session")
def seaweed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    yield from _serve(seaweed_process(tmp_path_factory.mktemp("seaweed")))


@pytest.fixture
def moto_s3(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    return moto_server.for_test(monkeypatch)


@pytest.fixture
def rclone_s3(rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    return rclone_server.for_test(monkeypatch)


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


@pytest.fixture
def fault_proxy(moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Stands in front of moto; stores opened in the test go through it."""
    with proxy_before(moto_s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.fixture
def seaweed_proxy(seaweed_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Stands in front of seaweedfs, which checks signatures; likewise."""
    with proxy_before(seaweed_s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy
