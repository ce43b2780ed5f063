"""A bucket prefix as a store, through obstore (S3, GCS, Azure).

Every request is a single try of obstore's; what is tried again, and for how long, is decided in
one place here (`RemoteStore._retry`). obstore's own repeats would not do: it takes a conditional
put that its own lost try has won for a refusal, does not repeat a listing whose page was cut, and
signs with the credentials it began with. So here a refusal after a try of unknown fate is settled
by reading the object back, a listing goes on after the last page it got, and expired credentials
are read anew once.

Limits: plain http is allowed to a loopback endpoint only; anywhere else it takes
``AWS_ALLOW_HTTP=true``. Credentials are those obstore finds: environment, web identity, instance
or container metadata, not the profiles of ``~/.aws``. A call ends within its retry budget and the
timeout of one request (120 s).
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
# So a store that is back is noticed within this time.
MAX_BACKOFF_S = 5.0
# Google and Azure answer 401; S3 says it in a code, under 400 or 403.
_EXPIRED = re.compile(
    r"<Code>(ExpiredToken(Exception)?|InvalidToken|TokenRefreshRequired)<|status code: 401"
)


class RemoteStore(Store):
    """A bucket prefix, through obstore."""

    _hint = "check the bucket, and the endpoint and credentials in the environment"

    def __init__(self, uri: str, retry_timeout_s: float = RETRY_TIMEOUT_S) -> None:
        self.uri = uri
        self._retry_timeout_s = retry_timeout_s
        if not urlsplit(uri).netloc:
            raise ValueError(f"storage uri {uri!r}: must name a bucket, e.g. s3://bucket/prefix")
        self._client = _connect(uri, retry_timeout_s)

    def __reduce__(self) -> tuple[type["RemoteStore"], tuple[str, float]]:
        return RemoteStore, (self.uri, self._retry_timeout_s)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        check_key(key)
        is_unsure = False  # an earlier try may have taken effect
        is_refused = False

        def create() -> bool:
            nonlocal is_unsure, is_refused
            if not is_refused:
                try:
                    obstore.put(self._client, key, data, mode="create")
                    return True
                except AlreadyExistsError:
                    is_refused = True
                except GenericError as error:
                    is_unsure = is_unsure or _is_transient(error)
                    raise
            held = self._held(key, is_whole=is_unsure)
            if held is None:
                is_refused = False
                raise AlreadyExistsError("another conditional put is under way (409)")
            return is_unsure and held == data

        return self._retry("put", key, create)

    def put(self, key: str, data: bytes) -> None:
        check_key(key)
        self._retry("put", key, lambda: obstore.put(self._client, key, data, use_multipart=False))

    def read(self, key: str) -> bytes:
        return self._get(key, lambda: bytes(obstore.get(self._client, key).bytes()))

    def list(self, prefix: str = "") -> builtins.list[str]:
        folder = check_prefix(prefix)
        keys: builtins.list[str] = []

        def go_on() -> None:
            after = keys[-1] if keys else None
            for page in obstore.list(self._client, folder or None, offset=after, chunk_size=1000):
                keys.extend(entry["path"] for entry in page)

        self._retry("list", prefix, go_on)
        return sorted(set(keys))

    def exists(self, key: str) -> bool:
        try:
            # Not a HEAD: the refusal of one has no body, so it cannot say that a token expired.
            self._get(key, lambda: obstore.get(self._client, key))
        except FileNotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        check_key(key)
        with contextlib.suppress(FileNotFoundError):
            self._retry("delete", key, lambda: obstore.delete(self._client, key), is_found=True)

    def _held(self, key: str, *, is_whole: bool) -> bytes | None:
        """What is at `key`: its bytes, or b"" for "something" where the bytes are not asked for."""
        with contextlib.suppress(FileNotFoundError):
            found = obstore.get(self._client, key)
            return bytes(found.bytes()) if is_whole else b""
        return None

    def _get(self, key: str, get: Callable[[], T]) -> T:
        check_key(key)
        try:
            return self._retry("get", key, get, is_found=True)
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.uri}: no object {key!r}") from None

    def _retry(self, verb: str, key: str, call: Callable[[], T], *, is_found: bool = False) -> T:
        """`call` until it succeeds, is refused for good, or has used up the budget.

        No cause is chained: what obstore dumps may hold a session token (S3 repeats it in its
        answer to one that has expired), and a traceback would print it.
        """
        deadline = time.monotonic() + self._retry_timeout_s
        is_renewed = False
        for attempt in itertools.count():
            try:
                return call()
            except (BaseError, OSError) as error:
                if is_found and isinstance(error, FileNotFoundError):
                    raise
                cause = error
            if _is_expired(cause) and not is_renewed:
                logger.warning("%s: the credentials are read anew: %s", self.uri, _brief(cause))
                is_renewed = True
                self._client = _connect(self.uri, self._retry_timeout_s)
                continue
            delay_s = _backoff_s(attempt)
            if not _is_transient(cause) or time.monotonic() + delay_s > deadline:
                raise self._failure(verb, key, cause)
            # A probe has seconds and says itself what is wrong.
            level = logging.INFO if self._retry_timeout_s > PROBE_TIMEOUT_S else logging.DEBUG
            logger.log(
                level, "%s of %s at %s is tried again: %s", verb, key, self.uri, _brief(cause)
            )
            time.sleep(delay_s)
        raise AssertionError("unreachable")

    def _failure(self, verb: str, key: str, error: Exception) -> StoreError:
        failed = f"{self.uri}: {verb} {key!r} failed: "
        if _is_expired(error):
            return StoreError(
                f"{failed}the credentials have expired, and those found now are no better: renew "
                "them in the environment (or in the file it names) and give the same command "
                f"again, it resumes after what is committed ({_brief(error)})"
            )
        return StoreError(f"{failed}{_brief(error)}")

    def _impatient(self) -> Store:
        return RemoteStore(self.uri, PROBE_TIMEOUT_S * 0.6)


def _connect(uri: str, retry_timeout_s: float) -> "ObjectStore":
    """A client that tries once; it reads the environment, and files that it names, now."""
    options: ClientConfig = {
        "allow_http": is_http_allowed(),
        "connect_timeout": timedelta(seconds=min(5.0, retry_timeout_s)),
        # For one whole request: 512 MB at 5 MB/s still pass.
        "timeout": timedelta(seconds=min(120.0, retry_timeout_s)),
    }
    try:
        return from_url(uri, client_options=options, retry_config={"max_retries": 0})
    except (BaseError, ValueError) as error:
        raise ValueError(f"storage uri {uri!r}: {_brief(error)}") from None


def is_http_allowed() -> bool:
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
    """Everything but a plain refusal, which does not get better by waiting."""
    if isinstance(error, AlreadyExistsError):
        return True
    if not isinstance(error, GenericError):
        return False
    status = re.search(r"status code: (4\d\d)", str(error))
    return status is None or status[1] in ("408", "429") or "RequestTimeout" in str(error)


def _is_expired(error: Exception) -> bool:
    return isinstance(error, BaseError) and bool(_EXPIRED.search(str(error)))


def _brief(error: Exception) -> str:
    """The message without the dump of the Rust error that obstore appends, and without secrets.

    Of S3's answer only code and message are kept: the rest repeats session tokens and what was
    signed. A query is dropped because it may hold a signature.
    """
    text = str(error).partition("\n\nDebug source")[0]
    text = re.sub(r"(https?://[^\s?]+)\?\S+", r"\1?...", text)
    head, answered, body = text.partition("<?xml") if "<?xml" in text else text.partition("<Error>")
    if answered:
        said = re.findall(r"<(?:Code|Message)>([^<]*)", body)
        text = f"{head}{': '.join(said)}"
    return " ".join(text.split())[:500]
