"""One output prefix as a key-value store with the one write that a commit needs: put-if-absent.

`open_store` takes a local path, ``file://``, ``s3://``, ``gs://`` or ``az://``; local and remote
behave alike, so everything above this module is written once. Keys are relative, with ``/``.
A store pickles as its URI and opens again where it lands, with the environment found there:
endpoints and credentials come from the environment only (``AWS_*``, ...), never from a config.
A store that ignores put-if-absent is refused by `Store.check_writable`, unless it is opened with
`is_single_writer`: see `cluster.storage_single` for what that gives up.

Limits: one request per put, so at most 5 GiB an object on S3. A local folder needs hard links
(ext4, xfs, NFS, APFS have them; FAT and some FUSE mounts do not and are refused). Listings read
all keys under a prefix into memory.
"""

import logging
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cluster.storage_base import Store
from cluster.storage_local import LocalStore
from cluster.storage_remote import RETRY_TIMEOUT_S, RemoteStore
from cluster.storage_single import SingleWriterStore

__all__ = [
    "LocalStore",
    "RemoteStore",
    "SingleWriterStore",
    "Store",
    "is_local",
    "local_path",
    "open_store",
]

logger = logging.getLogger(__name__)

REMOTE_SCHEMES = ("s3", "gs", "az")
_MISTYPED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def open_store(
    uri: str, *, retry_timeout_s: float = RETRY_TIMEOUT_S, is_single_writer: bool = False
) -> Store:
    """Opens the store under `uri` without touching it.

    `is_single_writer` is the caller's word that no second writer will be at work at any time: two
    drivers of one run could then both commit a unit, and one of them would be wrong. A folder needs
    no such word, and gets what it gets without: without hard links there is no Delta log either.

    Raises:
        ValueError: the scheme is unknown or mistyped, the bucket or path is missing from the URI,
            or it carries credentials or a query, which would end up in logs and in the dataset.
    """
    store = _open(uri, retry_timeout_s)
    if not is_single_writer or is_local(uri):
        return store
    logger.warning(
        "%s is used in single-writer mode: nothing keeps a second driver from committing the same "
        "units. Never run two at once on this output",
        uri,
    )
    return SingleWriterStore(store)


def is_local(uri: str) -> bool:
    """Whether the store under `uri` is a folder; `ValueError` as for `open_store`."""
    return _check(uri) not in REMOTE_SCHEMES


def local_path(uri: str) -> Path:
    """The folder behind a local `uri`; relative where a plain path is."""
    if _check(uri) == "file":
        return Path(unquote(urlsplit(uri).path))
    return Path(uri).expanduser()


def _open(uri: str, retry_timeout_s: float) -> Store:
    if not is_local(uri):
        return RemoteStore(uri, retry_timeout_s)
    return LocalStore(str(local_path(uri).absolute()))


def _check(uri: str) -> str:
    """The scheme of `uri`, empty for a plain path; `ValueError` unless a store can lie there."""
    scheme, separator, rest = uri.partition("://")
    if separator and ("@" in rest.partition("/")[0] or "?" in rest):
        # Not echoed: what stands there may be a secret.
        raise ValueError(
            f"storage uri {scheme}://...: credentials (before an '@') and a query (after a '?') do "
            "not belong in it. Put keys, tokens and endpoints into the environment (AWS_*, "
            "GOOGLE_*, AZURE_*), and give scheme://bucket/prefix only"
        )
    if not separator and _MISTYPED.match(uri):
        raise ValueError(
            f"storage uri {uri!r} looks like a scheme with one slash instead of two: write :// for "
            "a store, or ./ before the path if a folder really has that name"
        )
    if not uri or (separator and scheme not in (*REMOTE_SCHEMES, "file")):
        raise ValueError(
            f"storage uri {uri!r}: must be a local path or start with file://, "
            + ", ".join(f"{known}://" for known in REMOTE_SCHEMES)
        )
    if not separator:
        return ""
    parts = urlsplit(uri)
    if scheme == "file" and (parts.netloc not in ("", "localhost") or not parts.path):
        raise ValueError(f"storage uri {uri!r}: must be file:///absolute/path, with three slashes")
    return scheme
