"""The part of the Hugging Face hub's HTTP that its client uses to read a model, over folders.

A listing with LFS hashes (`/api/models/...?blobs=true`), files by commit with ranges
(`/resolve/`), large ones through a redirect to another address as on the hub, its error codes, and
faults: a closed repository, bytes that differ from the listing, a connection that breaks.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LFS_BYTES = 10_000  # a file of more is in LFS, as weights of any size are


@dataclass
class HubRepo:
    """One repository; `files` by path."""

    files: dict[str, bytes]
    gated: bool = False  # closed as models with terms are: anybody may list, not read
    token: str | None = None  # that opens it
    sends: dict[str, bytes] = field(default_factory=dict)  # other bytes than are listed
    breaks_after: dict[str, list[int]] = field(default_factory=dict)  # bytes, once each
    hangs_after: dict[str, int] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        listed = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.files.items())
        return hashlib.sha1(json.dumps(listed).encode()).hexdigest()

    def listing(self) -> list[dict[str, object]]:
        return [_sibling(path, data) for path, data in self.files.items()]


def repo_of(folder: Path, **more: bytes) -> HubRepo:
    """The files of a folder as a repository."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return HubRepo(files | more)


@dataclass
class Hub:
    """What is served, and what was asked."""

    repos: dict[str, HubRepo] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # verb, path, range
    tokens: list[tuple[str, str]] = field(default_factory=list)  # path, authorization
    endpoint: str = ""
    is_closing: threading.Event = field(default_factory=threading.Event)

    def downloads(self, path: str) -> list[str]:
        """The ranges that a file was asked for in, redirects left out."""
        return [r for verb, p, r in self.requests if verb == "GET" and p.endswith(f"/{path}")]


@contextmanager
def serve_hub() -> Iterator[Hub]:
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        hub.is_closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _is_lfs(path: str, data: bytes) -> bool:
    return path.endswith((".safetensors", ".bin")) or len(data) > LFS_BYTES


def _sibling(path: str, data: bytes) -> dict[str, object]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, object] = {"rfilename": path, "size": len(data), "blobId": blob}
    if _is_lfs(path, data):
        sha256 = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 133}
        entry["blobId"] = hashlib.sha1(sha256.encode()).hexdigest()  # of the pointer
    return entry


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range") or ""))
        self.hub.tokens.append((path, self.headers.get("Authorization") or ""))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._list("/".join(parts[2:4]), parts[5] if parts[4:5] == ["revision"] else "main")
        elif parts[2:3] == ["resolve"]:
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        elif parts[0] == "cdn":
            self._send_file("/".join(parts[1:3]), "/".join(parts[3:]))
        else:
            self._fail(404, "EntryNotFound")

    def _open(self, name: str, *, is_listing: bool = False) -> HubRepo | None:
        repo = self.hub.repos.get(name)
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if repo is None:
            # As the hub: it does not tell who is nobody what is private.
            self._fail(404 if given else 401, "RepoNotFound")
        elif repo.token and given != repo.token and not (is_listing and repo.gated):
            self._fail(403 if given else 401, "GatedRepo" if repo.gated else "RepoNotFound")
        else:
            return repo
        return None

    def _list(self, name: str, revision: str) -> None:
        repo = self._open(name, is_listing=True)
        if repo is None:
            return
        if revision not in ("main", repo.commit):
            self._fail(404, "RevisionNotFound")
            return
        info = {"id": name, "modelId": name, "sha": repo.commit, "siblings": repo.listing()}
        self._send(200, json.dumps(info | {"tags": [], "private": False}).encode())

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self._open(name)
        if repo is None:
            return
        if revision != repo.commit:
            self._fail(404, "RevisionNotFound")
        elif path not in repo.files:
            self._fail(404, "EntryNotFound")
        elif _is_lfs(path, repo.files[path]):
            # Another name of this machine is another host to a client.
            port = self.hub.endpoint.rpartition(":")[2]
            self._send(302, b"", {"Location": f"http://localhost:{port}/cdn/{name}/{path}"})
        else:
            self._send_file(name, path)

    def _send_file(self, name: str, path: str) -> None:
        repo = self.hub.repos[name]
        data = repo.sends.get(path, repo.files[path])
        start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        status = 206 if "Range" in self.headers else 200
        breaks = repo.breaks_after.get(path)
        stop = breaks.pop(0) if breaks else repo.hangs_after.get(path)
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        self._send(status, data[start:], headers, stop)
        if stop is not None and not breaks and path in repo.hangs_after:
            self.hub.is_closing.wait(60)

    def _fail(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        stop: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:stop])
        self.wfile.flush()
        self.close_connection = True
