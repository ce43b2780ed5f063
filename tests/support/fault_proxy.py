"""A proxy that fails on demand, in front of a real S3 server.

The Host header goes through unchanged, because clients sign it: a server that authenticates
accepts what comes through here.
"""

import contextlib
import http.client
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Fault = Callable[[str, str], str | None]
SLOW_S = 0.5
EVERY_KIND = ("error", "internal", "reset", "lose", "truncate", "slow")
TOKEN_HEADER = "X-Amz-Security-Token"


def never(method: str, path: str) -> str | None:
    """No fault."""
    return None


def at_random(rng_seed: int, share: float, kinds: Sequence[str] = EVERY_KIND) -> Fault:
    """`share` of the requests fail, each in one of `kinds`; the schedule is that of the seed."""
    rng = random.Random(rng_seed)

    def fault(method: str, path: str) -> str | None:
        return rng.choice(kinds) if rng.random() < share else None

    return fault


class FaultProxy(ThreadingHTTPServer):
    """Forwards to `upstream`, asking `fault(method, path)` before each request what goes wrong.

    "error": 503 and nothing done; "internal": 500 and nothing done; "conflict": 409 and nothing
    done; "reset": cut, nothing done; "lose": done, then cut; "truncate": half of the answer's body;
    "slow": done after `SLOW_S`; "forget": done without the If-None-Match header. A request with a
    session token in `expired` is answered as S3 does, which repeats the token; one in `invalid`
    is answered 401.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.fault: Fault = never
        self.expired: set[str] = set()
        self.invalid: set[str] = set()
        self.num_faults = 0
        self.num_requests = 0
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            fault = self.server.fault(self.command, self.path)
            self.server.num_faults += fault is not None
            self.server.num_requests += 1
        token = self.headers.get(TOKEN_HEADER, "")
        if token in self.server.expired:
            said = "<Code>ExpiredToken</Code><Message>The provided token has expired.</Message>"
            self._refuse(400, f"{said}<Token-0>{token}</Token-0>")
        elif token in self.server.invalid:
            self._refuse(401, "<Code>Unauthorized</Code>")
        elif fault == "reset":
            self.close_connection = True
        elif fault == "error":
            self._refuse(503, "<Code>SlowDown</Code>")
        elif fault == "internal":
            self._refuse(500, "<Code>InternalError</Code>")
        elif fault == "conflict":
            self._refuse(409, "<Code>ConditionalRequestConflict</Code>")
        else:
            self._pass_on(body, fault)

    def _pass_on(self, body: bytes, fault: str | None) -> None:
        if fault == "slow":
            time.sleep(SLOW_S)
        dropped = {"if-none-match"} if fault == "forget" else set[str]()
        headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        try:
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            data = answer.read()
        except OSError:
            self.close_connection = True  # the server is away, and that is how it looks
            return
        finally:
            upstream.close()
        if fault == "lose":
            self.close_connection = True
            return
        self._answer(answer.status, answer.getheaders(), data, is_cut=fault == "truncate")

    def _refuse(self, status: int, said: str) -> None:
        data = b"" if self.command == "HEAD" else f"<Error>{said}</Error>".encode()
        self._answer(status, [], data)

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

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward  # noqa: N815 - what http.server calls

    def log_message(self, format: str, *args: object) -> None:
        """Silent: a fault is not news here."""


@contextlib.contextmanager
def proxy_before(endpoint: str) -> Iterator[FaultProxy]:
    """A running proxy before the server at `endpoint`."""
    proxy = FaultProxy(endpoint)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
