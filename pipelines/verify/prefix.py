"""The files under one output, local or remote, read through pyarrow.

The writer goes through obstore and through links and renames of its own; this goes through
`pyarrow.fs`, so that a mistake of the one is not repeated by the other. Nothing is ever written.

Limits: `gs://` and `az://` are pyarrow's own, with the credentials that it finds; they have not
been run here. Plain http takes a loopback endpoint, or ``AWS_ALLOW_HTTP=true``.
"""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from cluster.errors import StoreError

TIMEOUT_S = 60.0
# Files that are read at a time, each whole in memory. On a disk Python itself is the limit: 10,000
# receipts took 15 s with 2 readers, 17 s with 1, 23 s with 8. On a bucket the waiting is.
NUM_LOCAL_READERS, NUM_REMOTE_READERS = 2, 16


class Prefix:
    """One output; keys are relative to it, with ``/``."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._files, self._base = _open(uri)

    @property
    def num_readers(self) -> int:
        """How many files are best read at a time."""
        is_local = isinstance(self._files, fs.LocalFileSystem)
        return NUM_LOCAL_READERS if is_local else NUM_REMOTE_READERS

    def read(self, key: str) -> pa.Buffer:
        """The whole file; `FileNotFoundError` where there is none."""
        try:
            with self._files.open_input_file(f"{self._base}/{key}") as file:
                return file.read_buffer()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise FileNotFoundError(f"{self.uri}: no file {key!r}") from None
        except OSError as error:
            raise StoreError(f"{self.uri}: cannot read {key!r}: {error}") from error

    def list(self, folder: str) -> dict[str, int]:
        """Key and size of every file under `folder`, however deep."""
        selector = fs.FileSelector(f"{self._base}/{folder}", recursive=True, allow_not_found=True)
        try:
            found = self._files.get_file_info(selector)
        except OSError as error:
            raise StoreError(f"{self.uri}: cannot list {folder!r}: {error}") from error
        skip = len(self._base) + 1
        return {one.path[skip:]: one.size for one in found if one.type == fs.FileType.File}

    def delta_location(self, folder: str) -> tuple[str, dict[str, str]]:
        """Where deltalake finds `folder`, and the options that it needs for it."""
        if isinstance(self._files, fs.LocalFileSystem):
            return f"{self._base}/{folder}", {}
        options: dict[str, str] = {}
        if endpoint := _endpoint():
            options = {"AWS_ENDPOINT_URL": endpoint}
            if endpoint.startswith("http://"):
                options["AWS_ALLOW_HTTP"] = "true"
        return f"{self.uri.rstrip('/')}/{folder}", options


def _open(uri: str) -> tuple[fs.FileSystem, str]:
    scheme, separator, _ = uri.partition("://")
    parts = urlsplit(uri)
    if not separator:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    if scheme == "file":
        return fs.LocalFileSystem(), unquote(parts.path).rstrip("/")
    if scheme not in ("s3", "gs", "az") or not parts.netloc or "@" in parts.netloc or parts.query:
        raise ValueError(
            f"{scheme}://...: must be a local path or file://, s3://, gs:// or az:// with a bucket "
            "and a prefix, and without credentials: those belong in the environment"
        )
    base = f"{parts.netloc}{parts.path}".rstrip("/")
    if scheme == "s3":
        return _open_s3(), base
    if scheme == "gs":
        return fs.GcsFileSystem(), base
    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    if not account:
        raise ValueError(f"{uri!r}: set AZURE_STORAGE_ACCOUNT_NAME in the environment")
    key = os.environ.get("AZURE_STORAGE_ACCOUNT_KEY")
    return fs.AzureFileSystem(account_name=account, account_key=key), base


def _open_s3() -> fs.FileSystem:
    endpoint = urlsplit(_endpoint())
    host = endpoint.hostname or ""
    is_loopback = host in ("localhost", "::1") or host.startswith("127.")
    is_allowed = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
    if endpoint.scheme == "http" and not (is_loopback or is_allowed):
        raise ValueError(
            f"endpoint http://{endpoint.netloc}: plain http is for a loopback endpoint only; set "
            "AWS_ALLOW_HTTP=true if the network between is your own"
        )
    return fs.S3FileSystem(
        access_key=os.environ.get("AWS_ACCESS_KEY_ID"),
        secret_key=os.environ.get("AWS_SECRET_ACCESS_KEY"),
        session_token=os.environ.get("AWS_SESSION_TOKEN"),
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        endpoint_override=endpoint.netloc or None,
        scheme=endpoint.scheme or "https",
        connect_timeout=TIMEOUT_S,
        request_timeout=TIMEOUT_S,
    )


def _endpoint() -> str:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return next((os.environ[name] for name in names if os.environ.get(name)), "")
