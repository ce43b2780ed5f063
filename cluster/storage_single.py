"""Put-if-absent for a store that has none: look, then put, while one writer is at work.

For gateways that ignore If-None-Match (rclone's, JuiceFS's), where the user declares that no second
writer exists. A crash is survived as anywhere: what was put is found by the next attempt's look.

Limits: between look and put another writer can put too, and then the later one stays without
either knowing. So nothing here protects against two drivers of one run at once, nor against a
replica of this driver that was given up as dead and writes after all. What is already there is
never written over by a later attempt.
"""

import builtins

from cluster.storage_base import Store


class SingleWriterStore(Store):
    """Another store, with a put-if-absent that holds for a single writer only."""

    def __init__(self, inner: Store) -> None:
        self.uri = inner.uri
        self._inner = inner
        self._hint = inner._hint

    def __reduce__(self) -> tuple[type["SingleWriterStore"], tuple[Store]]:
        return SingleWriterStore, (self._inner,)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self._inner.exists(key):
            return False
        self._inner.put(key, data)
        return True

    def put(self, key: str, data: bytes) -> None:
        self._inner.put(key, data)

    def read(self, key: str) -> bytes:
        return self._inner.read(key)

    def list(self, prefix: str = "") -> builtins.list[str]:
        return self._inner.list(prefix)

    def exists(self, key: str) -> bool:
        return self._inner.exists(key)

    def delete(self, key: str) -> None:
        self._inner.delete(key)

    def _impatient(self) -> Store:
        return SingleWriterStore(self._inner._impatient())

    def _tidy(self) -> None:
        self._inner._tidy()
