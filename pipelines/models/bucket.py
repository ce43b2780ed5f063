"""Large files to and from the prefix of a bucket, in parts, through obstore.

`cluster.storage` puts and reads objects whole; a file of weights is up to 50 GB.
Limits: what obstore tries again by itself is all that is tried again; a file is put over what is
there, so two that fetch the same model to one place write the same bytes twice.
"""

import contextlib
import hashlib
from collections.abc import Generator, Iterator
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from cluster.errors import StoreError
from cluster.storage_remote import is_http_allowed

_PART_BYTES = 16 << 20  # S3 allows 10 000 parts: 160 GB


class Bucket:
    """A prefix, by the environment's endpoint and credentials."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client: ObjectStore = from_url(
            uri, client_options={"allow_http": is_http_allowed(), "timeout": "10m"}
        )

    def upload(self, path: Path, key: str) -> None:
        """Puts the file at `key`; raises StoreError."""
        with self._told("put", key):
            obstore.put(self._client, key, path, chunk_size=_PART_BYTES, max_concurrency=4)

    def download(self, key: str, target: Path, start: int = 0) -> None:
        """Appends the object's bytes from `start` on; raises StoreError."""
        with target.open("ab") as out:
            for part in self._parts(key, start):
                out.write(part)

    def measure(self, key: str) -> tuple[int, str]:
        """Size and sha256 of the object, all of it read; raises StoreError."""
        size, digest = 0, hashlib.sha256()
        for part in self._parts(key, 0):
            size += len(part)
            digest.update(part)
        return size, digest.hexdigest()

    def _parts(self, key: str, start: int) -> Iterator[bytes]:
        with self._told("get", key):
            total = obstore.head(self._client, key)["size"]
            while start < total:
                stop = min(start + _PART_BYTES, total)
                yield bytes(obstore.get_range(self._client, key, start=start, end=stop))
                start = stop

    @contextlib.contextmanager
    def _told(self, verb: str, key: str) -> Generator[None]:
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            # The first line only: the dump that follows may hold a session token.
            said = str(error).partition("\n")[0][:300]
            raise StoreError(f"{self._uri}: {verb} {key!r} failed: {said}") from None
