"""One output prefix as a key-value store with the one write that a commit needs: put-if-absent.

`open_store` takes a local path, ``file://``, ``s3://``, ``gs://`` or ``az://``; local and remote
behave alike, so everything above this module is written once. Keys are relative, with ``/``.
A store pickles as its URI and opens again where it lands, with the environment found there:
endpoints and credentials come from the environment only (``AWS_*``, ...), never from a config.

Limits: one request per put, so at most 5 GiB an object on S3. A local folder needs hard links
(ext4, xfs, NFS, APFS have them; FAT and some FUSE mounts do not and are refused). Listings read
all keys under a prefix into memory.
"""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from cluster.storage_base import Store
from cluster.storage_local import LocalStore
from cluster.storage_remote import RETRY_TIMEOUT_S, RemoteStore

__all__ = ["LocalStore", "RemoteStore", "Store", "open_store"]

REMOTE_SCHEMES = ("s3", "gs", "az")


def open_store(uri: str, *, retry_timeout_s: float = RETRY_TIMEOUT_S) -> Store:
    """Opens the store under `uri` without touching it.

    Raises:
        ValueError: the scheme is unknown, or the bucket or path is missing from the URI.
    """
    scheme, separator, _ = uri.partition("://")
    if not uri or (separator and scheme not in (*REMOTE_SCHEMES, "file")):
        raise ValueError(
            f"storage uri {uri!r}: must be a local path or start with file://, "
            + ", ".join(f"{known}://" for known in REMOTE_SCHEMES)
        )
    if scheme in REMOTE_SCHEMES and separator:
        return RemoteStore(uri, retry_timeout_s)
    if not separator:
        return LocalStore(str(Path(uri).expanduser().absolute()))
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise ValueError(f"storage uri {uri!r}: must be file:///absolute/path, with three slashes")
    return LocalStore(unquote(parts.path))
