"""What a store is, whatever is behind it: five verbs on bytes, and the probe of a prefix.

The contract that the commit rests on is `Store.put_if_absent`; `Store.check_writable` shows on the
real store, before a run starts, that it is kept.

Limits: the probe decides between two puts in sequence, not between racers; a store that orders
the one and not the other is not known.
"""

import builtins
import contextlib
import threading
import uuid
from abc import ABC, abstractmethod

from cluster.errors import ConditionalPutUnsupportedError, StoreError

PROBE_TIMEOUT_S = 4.5
TEMP_FOLDER = ".tmp"
PROBE_FOLDER = ".probe"


class Store(ABC):
    """Bytes under keys; failures past the retry budget are `StoreError`."""

    uri: str
    _hint = "check its uri"  # what to look at when it cannot be written

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Creates `key`; of any number of callers at any time exactly one gets True.

        False means that the key held an object before this call wrote anything. A put that took
        effect although its reply was lost is recognised by its bytes, and is True: then two
        callers that put *equal* bytes at one key may both be told True, never two with different
        bytes.
        """

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Writes `key` whole, over whatever was there."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The whole object; `FileNotFoundError` when there is none."""

    @abstractmethod
    def list(self, prefix: str = "") -> builtins.list[str]:
        """Every key under the folder `prefix`, recursive, sorted; empty when there is none."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether `key` holds an object."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Removes `key`; removing nothing is no error."""

    def check_writable(self) -> None:
        """Shows in 5 s that this prefix can be written, read, listed, and decides between writers.

        Raises:
            ValueError: it cannot be written (folder, bucket, credentials, endpoint); says which.
            ConditionalPutUnsupportedError: a second put-if-absent of a key was let through.
        """
        failures: builtins.list[Exception] = []

        def attempt() -> None:
            try:
                self._probe()
            except Exception as error:  # carried to the caller's thread, raised there
                failures.append(error)

        # A thread, because neither a dead NFS mount nor a credential service obeys a time limit.
        thread = threading.Thread(target=attempt, name="store-probe", daemon=True)
        thread.start()
        thread.join(PROBE_TIMEOUT_S)
        if thread.is_alive():
            raise ValueError(
                f"storage {self.uri!r} did not answer in {PROBE_TIMEOUT_S} s: {self._hint}"
            )
        if failures and isinstance(failures[0], ConditionalPutUnsupportedError):
            raise failures[0]
        if failures:
            raise ValueError(
                f"storage {self.uri!r} cannot be written: {failures[0]}: {self._hint}"
            ) from failures[0]
        self._tidy()

    def _probe(self) -> None:
        store = self._impatient()
        key = f"{PROBE_FOLDER}/{uuid.uuid4().hex}"
        store.put_if_absent(key, b"first")
        try:
            if store.put_if_absent(key, b"second") or store.read(key) != b"first":
                raise ConditionalPutUnsupportedError(
                    f"storage {self.uri!r} ignores put-if-absent (If-None-Match): two writers of "
                    "one unit could both commit. Use a store that honours it, a local folder, or "
                    "declare that only one writer will ever be at work (is_single_writer)"
                )
            if key not in store.list(PROBE_FOLDER):
                raise StoreError(f"a listing of {PROBE_FOLDER}/ does not show the key just put")
        finally:
            # The right to delete is not needed to write a dataset.
            with contextlib.suppress(StoreError):
                store.delete(key)

    def _impatient(self) -> "Store":
        """The same store with the patience of a probe."""
        return self

    def _tidy(self) -> None:  # noqa: B027 - most stores have nothing of the kind
        """Removes what killed writers left outside of any key."""


def check_key(key: str) -> None:
    segments = key.split("/")
    if any(segment in ("", ".", "..") for segment in segments) or segments[0] == TEMP_FOLDER:
        raise ValueError(f"key {key!r}: must be a relative path such as data/round=0/x.parquet")


def check_prefix(prefix: str) -> str:
    folder = prefix.removesuffix("/")
    if folder:
        check_key(folder)
    return folder
