"""The Ray that pairloom starts answers nobody without its token, and nobody from the network.

It is started as by accident: RAY_AUTH_MODE is there, and empty, which Ray takes for `disabled`.
"""

import http.client
import ipaddress
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from guarded_ray import GuardedRay, guarded_ray

ROOT = Path(__file__).parents[2]
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")
# Open in Ray by design; each tells that something lives, or what is in its wheel, and no more.
OPEN_DASHBOARD = {
    "/": "the page that asks for the token",
    "/favicon.ico": "its icon",
    "/api/authenticate": "takes the token",
    "/api/authentication_mode": "that a token is needed",
    "/api/healthz": "ok",
    "/api/gcs_healthz": "ok",
    "/api/local_raylet_healthz": "ok",
    "/-/healthz": "ok, if Serve runs",
}
OPEN_AGENT = {"/api/healthz": "ok", "/api/local_raylet_healthz": "ok"}


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedRay]:
    with guarded_ray({"RAY_AUTH_MODE": ""}) as one:
        yield one


def _ask(port: int, method: str, path: str, headers: dict[str, str] | None = None) -> int:
    """The status of a request whose path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", "0")
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


def _dashboard_port(guarded: GuardedRay) -> int:
    port = urlsplit(guarded.dashboard).port
    assert port
    return port


def _filled(path: str) -> str:
    return path.replace("{", "").replace("}", "")


def test_everything_listens_on_the_loopback(guarded: GuardedRay) -> None:
    guarded.routes("dashboard.log")
    guarded.port("metrics_export_port")
    found = guarded.listening()
    assert len(found) >= 6, found
    assert _dashboard_port(guarded) in [port for _, port in found]
    for address, port in found:
        ip = ipaddress.ip_address(address)
        is_mapped = isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None
        assert (ip.ipv4_mapped if is_mapped else ip).is_loopback, (address, port)


def test_every_route_of_the_dashboard_wants_the_token(guarded: GuardedRay) -> None:
    port = _dashboard_port(guarded)
    routes = guarded.routes("dashboard.log")
    paths = {path for _, path in routes}
    assert {
        "/api/jobs/",
        "/api/v0/actors",
        "/nodes",
        "/api/packages/{protocol}/{package_name}",
    } <= (paths)
    assert len(paths) >= 50
    tries = {(method, _filled(path)) for path in paths for method in METHODS}
    answers = {
        (method, path): _ask(port, method, path)
        for method, path in tries
        if path not in OPEN_DASHBOARD
    }
    assert {one: status for one, status in answers.items() if status != 401} == {}
    wrong = {"Authorization": "Bearer " + "0" * 64}
    answers = {
        one: _ask(port, *one, headers=wrong) for one in routes if one[1] not in OPEN_DASHBOARD
    }
    assert {one: status for one, status in answers.items() if status != 403} == {}


@pytest.mark.parametrize("path", sorted(OPEN_DASHBOARD))
def test_what_is_open_can_only_be_read(guarded: GuardedRay, path: str) -> None:
    port = _dashboard_port(guarded)
    assert _ask(port, "GET", path) in (200, 404, 405, 503)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert _ask(port, method, path) in (401, 404, 405), method


@pytest.mark.parametrize(
    "path",
    [
        "//api/jobs/",
        "/api//jobs/",
        "/API/JOBS/",
        "/static/../api/jobs/",
        "/static/%2e%2e/api/jobs/",
        "/static/..%2fapi%2fjobs/",
        "/static//../../api/jobs/",
        "/api/healthz/../jobs/",
        "/api/healthz;/../jobs/",
        "/?/api/jobs/",
        "/static/../../../dashboard.py",
        "/static/%2e%2e/%2e%2e/%2e%2e/dashboard.py",
    ],
)
def test_no_spelling_of_a_path_leads_past_the_token(guarded: GuardedRay, path: str) -> None:
    port = _dashboard_port(guarded)
    is_index = path.startswith("/?")  # the query is no path: this is the page again
    assert (
        _ask(port, "GET", path) == 200 if is_index else _ask(port, "GET", path) in (401, 403, 404)
    )
    assert _ask(port, "POST", path) in (401, 403, 404, 405)


def test_the_token_opens_the_dashboard(guarded: GuardedRay) -> None:
    """So it is the token that was missing."""
    headers = {"Authorization": f"Bearer {guarded.token}"}
    for path in ("/api/version", "/nodes?view=summary", "/api/jobs/"):
        assert _ask(_dashboard_port(guarded), "GET", path, headers) == 200


def test_every_route_of_the_agents_wants_the_token(guarded: GuardedRay) -> None:
    runtime_env = guarded.port("runtime_env_agent_port")
    for path in ("get_or_create_runtime_env", "delete_runtime_env_if_possible"):
        assert _ask(runtime_env, "POST", f"/{path}") == 401
    assert _ask(runtime_env, "POST", "/get_runtime_envs_info") == 401
    port = guarded.port("dashboard_agent_listen_port")
    assert port > 0
    paths = {path for _, path in guarded.routes("dashboard_agent.log")} | {"/logs/", "/logs"}
    assert "/api/job_agent/jobs/" in paths
    for path in paths - OPEN_AGENT.keys():
        for method in METHODS:
            assert _ask(port, method, _filled(path)) == 401, (method, path)


JOIN = """
import sys
import ray
ray.init(address=sys.argv[1], logging_level="ERROR")
print("JOINED", flush=True)
"""
READ_KEYS = """
import sys
from ray._raylet import GcsClient
print("KEYS", GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None))
"""


def _call(
    guarded: GuardedRay, code: str, mode: str, token: str
) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env |= {"HOME": "/nonexistent", "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": mode}
    env |= {"RAY_TMPDIR": str(guarded.session.parents[1]), "RAY_AUTH_TOKEN": token}
    env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return subprocess.run(
        [sys.executable, "-c", code, guarded.gcs],
        env={key: value for key, value in env.items() if value},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.mark.parametrize(
    ("mode", "token"), [("disabled", ""), ("token", "0" * 64)], ids=["no token", "wrong token"]
)
def test_a_client_without_the_token_reads_nothing(
    guarded: GuardedRay, mode: str, token: str
) -> None:
    refused = _call(guarded, READ_KEYS, mode, token)
    assert refused.returncode != 0
    assert "KEYS" not in refused.stdout
    assert "uthenticat" in refused.stderr, refused.stderr
    assert guarded.token not in refused.stderr


def test_a_client_with_the_token_reads(guarded: GuardedRay) -> None:
    done = _call(guarded, READ_KEYS, "token", guarded.token)
    assert done.stdout.startswith("KEYS"), done.stderr


@pytest.mark.faults
def test_a_driver_joins_with_the_token_only(guarded: GuardedRay) -> None:
    refused = _call(guarded, JOIN, "disabled", "")
    assert (refused.returncode != 0, refused.stdout) == (True, ""), refused.stderr
    wrong = _call(guarded, JOIN, "token", "0" * 64)
    assert (wrong.returncode != 0, wrong.stdout) == (True, ""), wrong.stderr
    joined = _call(guarded, JOIN, "token", guarded.token)
    assert joined.stdout == "JOINED\n", joined.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_another_user_of_the_machine_reads_neither_token_nor_logs(guarded: GuardedRay) -> None:
    def can_read(path: Path) -> bool:
        looked = subprocess.run(["ls", path], user=65534, capture_output=True, check=False)
        return looked.returncode == 0

    token = guarded.home / ".ray" / "auth_token"
    assert can_read(guarded.home / "err"), "the way there is open"
    assert not can_read(guarded.session)
    assert not can_read(guarded.session / "sockets")
    copied = subprocess.run(["cat", token], user=65534, capture_output=True, check=False)
    assert (copied.returncode != 0, copied.stdout) == (True, b"")
