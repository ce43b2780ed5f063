"""A service that hands out session tokens, as EKS and ECS run one beside each container."""

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class CredentialService(ThreadingHTTPServer):
    """Hands out `tokens` in turn, each good for an hour by its own date; the last one for ever."""

    daemon_threads = True

    def __init__(self, tokens: Sequence[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tokens = tokens
        self.num_asked = 0

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/credentials"


class _Handler(BaseHTTPRequestHandler):
    server: CredentialService

    def do_GET(self) -> None:
        token = self.server.tokens[min(self.server.num_asked, len(self.server.tokens) - 1)]
        self.server.num_asked += 1
        answer = {
            "AccessKeyId": "ASIATESTS",
            "SecretAccessKey": "service-secret",
            "Token": token,
            "Expiration": "2999-01-01T00:00:00Z",
        }
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@contextlib.contextmanager
def credential_service(tokens: Sequence[str]) -> Iterator[CredentialService]:
    """A running service."""
    service = CredentialService(tokens)
    thread = threading.Thread(target=service.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.shutdown()
        service.server_close()
        thread.join()
