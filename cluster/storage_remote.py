"""A bucket prefix as a store, through obstore (S3, GCS, Azure).

obstore's client repeats reads, listings and overwrites by itself. A conditional put is repeated
here instead, because a repeat of one whose reply was lost is refused by our own bytes: after a
try whose fate is unknown, a refusal is settled by reading the object back.

Limits: plain http is allowed to a loopback endpoint only; anywhere else it takes
``AWS_ALLOW_HTTP=true``. Credentials are those obstore finds: environment, web identity, instance
or container metadata, not the profiles of ``~/.aws``.
"""

import builtins
import contextlib
import itertools
import logging
import os
import random
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError
from obstore.store import from_url

from cluster.errors import StoreError
from cluster.storage_base import PROBE_TIMEOUT_S, Store, check_key, check_prefix

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Longer than the outages of a store that must not end a run (120 s), shorter than credentials live.
RETRY_TIMEOUT_S = 300.0
MAX_BACKOFF_S = 10.0


class RemoteStore(Store):
    """A bucket prefix, through obstore."""

    _hint = "check the bucket, and the endpoint and credentials in the environment"

    def __init__(self, uri: str, retry_timeout_s: float = RETRY_TIMEOUT_S) -> None:
        self.uri = uri
        self._retry_timeout_s = retry_timeout_s
        if not urlsplit(uri).netloc:
            raise ValueError(f"storage uri {uri!r}: must name a bucket, e.g. s3://bucket/prefix")
        self._client = _connect(uri, retry_timeout_s, max_retries=1000)
        self._single_try = _connect(uri, retry_timeout_s, max_retries=0)

    def __reduce__(self) -> tuple[type["RemoteStore"], tuple[str, float]]:
        return RemoteStore, (self.uri, self._retry_timeout_s)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        check_key(key)
        deadline = time.monotonic() + self._retry_timeout_s
        is_unsure = False  # an earlier try may have taken effect
        for attempt in itertools.count():
            try:
                obstore.put(self._single_try, key, data, mode="create")
                return True
            except AlreadyExistsError as error:
                cause: Exception = error
                held = self._held(key, is_whole=is_unsure)
                if held is not None:
                    return is_unsure and held == data
                # S3 answers 409 while another conditional put is under way: nothing there yet.
            except GenericError as error:
                cause, is_unsure = error, True
            except (BaseError, OSError) as error:
                raise self._failure("put", key, error) from error
            delay_s = _backoff_s(attempt)
            if not _is_transient(cause) or time.monotonic() + delay_s > deadline:
                raise self._failure("put", key, cause) from cause
            # A probe has seconds and says itself what is wrong.
            level = logging.INFO if self._retry_timeout_s > PROBE_TIMEOUT_S else logging.DEBUG
            logger.log(level, "put of %s at %s is tried again: %s", key, self.uri, _brief(cause))
            time.sleep(delay_s)
        raise AssertionError("unreachable")

    def put(self, key: str, data: bytes) -> None:
        check_key(key)
        try:
            obstore.put(self._client, key, data, use_multipart=False)
        except (BaseError, OSError) as error:
            raise self._failure("put", key, error) from error

    def read(self, key: str) -> bytes:
        return self._get(key, lambda: bytes(obstore.get(self._client, key).bytes()))

    def list(self, prefix: str = "") -> builtins.list[str]:
        folder = check_prefix(prefix)
        try:
            found = obstore.list(self._client, folder or None, chunk_size=1000).collect()
        except (BaseError, OSError) as error:
            raise self._failure("list", prefix, error) from error
        return sorted(entry["path"] for entry in found)

    def exists(self, key: str) -> bool:
        try:
            self._get(key, lambda: obstore.head(self._client, key))
        except FileNotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        check_key(key)
        try:
            obstore.delete(self._client, key)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise self._failure("delete", key, error) from error

    def _held(self, key: str, *, is_whole: bool) -> bytes | None:
        """What is at `key`: its bytes, or b"" for "something" where the bytes are not asked for."""
        if not is_whole:
            return b"" if self.exists(key) else None
        with contextlib.suppress(FileNotFoundError):
            return self.read(key)
        return None

    def _get(self, key: str, get: Callable[[], T]) -> T:
        check_key(key)
        try:
            return get()
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.uri}: no object {key!r}") from None
        except (BaseError, OSError) as error:
            raise self._failure("get", key, error) from error

    def _failure(self, verb: str, key: str, error: Exception) -> StoreError:
        return StoreError(f"{self.uri}: {verb} {key!r} failed: {_brief(error)}")

    def _impatient(self) -> Store:
        return RemoteStore(self.uri, PROBE_TIMEOUT_S * 0.6)


def _connect(uri: str, retry_timeout_s: float, *, max_retries: int) -> "ObjectStore":
    options: ClientConfig = {
        "allow_http": _is_http_allowed(),
        "connect_timeout": timedelta(seconds=min(5.0, retry_timeout_s)),
        # For one whole request: 512 MB at 5 MB/s still pass.
        "timeout": timedelta(seconds=min(120.0, retry_timeout_s)),
    }
    try:
        return from_url(
            uri,
            client_options=options,
            retry_config={
                "max_retries": max_retries,
                "retry_timeout": timedelta(seconds=retry_timeout_s),
                "backoff": {"max_backoff": timedelta(seconds=MAX_BACKOFF_S)},
            },
        )
    except (BaseError, ValueError) as error:
        raise ValueError(f"storage uri {uri!r}: {_brief(error)}") from error


def _is_http_allowed() -> bool:
    if os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes"):
        return True
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    endpoint = next((os.environ[name] for name in names if os.environ.get(name)), "")
    host = urlsplit(endpoint).hostname or ""
    return host == "localhost" or host == "::1" or host.startswith("127.")


def _backoff_s(attempt: int) -> float:
    """Full jitter: racers that were refused together do not come back together."""
    return random.uniform(0.0, min(MAX_BACKOFF_S, 0.1 * 2 ** min(attempt, 10)))


def _is_transient(error: Exception) -> bool:
    """Everything but a plain refusal: an expired token does not get better by waiting."""
    status = re.search(r"status code: (4\d\d)", str(error))
    if not isinstance(error, GenericError) or status is None:
        return True
    return status[1] in ("408", "429") or "RequestTimeout" in str(error)


def _brief(error: Exception) -> str:
    """obstore appends a dump of its Rust error: the first paragraph is the message."""
    return " ".join(str(error).partition("\n\nDebug source")[0].split())[:500]
