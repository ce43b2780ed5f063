"""A store in memory that one scheduler drives call by call, and that fails as it is told.

`MemoryStore` holds the bytes and what it looked like earlier. Each writer has an `Attempt`: a
thread that stops before every store call until `advance` lets it make that one, with an outcome:

    "ok"           the call as it should be
    "crash before" the process is gone before the call
    "crash after"  the call takes effect, the process is gone
    "lost reply"   the call takes effect, the client gives up and raises StoreError
    "failed"       the call has no effect, the client gives up
    "repeated"     a put takes effect, its reply is lost, and the client settles it by a second try

Only one thread runs at any time, so a schedule is the same whenever it is played again.
"""

import builtins
import threading
from collections.abc import Callable
from typing import TypeVar

from cluster.errors import StoreError
from cluster.storage import Store

T = TypeVar("T")
OUTCOMES = ("ok", "crash before", "crash after", "lost reply", "failed", "repeated")


class CrashError(BaseException):
    """The process of an attempt is gone; no `except Exception` of it runs."""


class MemoryStore(Store):
    """Keys and bytes; `stale_by` answers the next listing as it was so many changes ago."""

    uri = "memory"

    def __init__(self, *, is_conditional: bool = True) -> None:
        self.objects: dict[str, bytes] = {}
        self.stale_by = 0
        self._is_conditional = is_conditional
        self._history: builtins.list[tuple[str, ...]] = [()]

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self._is_conditional and key in self.objects:
            return False
        self.put(key, data)
        return True

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data
        self._history.append(tuple(self.objects))

    def read(self, key: str) -> bytes:
        try:
            return self.objects[key]
        except KeyError:
            raise FileNotFoundError(f"memory: no object {key!r}") from None

    def list(self, prefix: str = "") -> builtins.list[str]:
        shown = self._history[max(0, len(self._history) - 1 - self.stale_by)]
        self.stale_by = 0
        return sorted(key for key in shown if key.startswith(f"{prefix}/" if prefix else ""))

    def exists(self, key: str) -> bool:
        return key in self.objects

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)
        self._history.append(tuple(self.objects))


class Attempt(Store):
    """The store as one writer sees it, and the thread of that writer."""

    uri = "memory"

    def __init__(self, memory: MemoryStore, work: Callable[[Store], None]) -> None:
        self.is_over = False
        self._memory = memory
        self._outcome = "ok"
        self._failure: BaseException | None = None
        self._go_on = threading.Semaphore(0)
        self._has_stopped = threading.Semaphore(0)
        threading.Thread(target=self._run, args=(work,), daemon=True).start()
        self._wait()

    def advance(self, outcome: str) -> None:
        """Lets the next call happen and the writer go on to the one after it."""
        assert not self.is_over
        self._outcome = outcome
        self._go_on.release()
        self._wait()

    def _wait(self) -> None:
        assert self._has_stopped.acquire(timeout=30)
        if self._failure is not None:
            raise self._failure

    def _run(self, work: Callable[[Store], None]) -> None:
        try:
            work(self)
        except (CrashError, StoreError):
            pass  # how attempts end
        except BaseException as error:  # carried to the scheduler, raised there
            self._failure = error
        self.is_over = True
        self._has_stopped.release()

    def _call(self, call: Callable[[], T]) -> T:
        self._has_stopped.release()
        self._go_on.acquire()
        if self._outcome == "crash before":
            raise CrashError
        if self._outcome == "failed":
            raise StoreError("the budget is spent")
        answer = call()
        if self._outcome == "crash after":
            raise CrashError
        if self._outcome == "lost reply":
            raise StoreError("the reply was lost and the budget is spent")
        return answer

    def put_if_absent(self, key: str, data: bytes) -> bool:
        is_ours = self._call(lambda: self._memory.put_if_absent(key, data))
        if self._outcome == "repeated":
            # What `RemoteStore` does about a try of unknown fate.
            return self._memory.objects.get(key) == data
        return is_ours

    def put(self, key: str, data: bytes) -> None:
        self._call(lambda: self._memory.put(key, data))

    def read(self, key: str) -> bytes:
        return self._call(lambda: self._memory.read(key))

    def list(self, prefix: str = "") -> builtins.list[str]:
        return self._call(lambda: self._memory.list(prefix))

    def exists(self, key: str) -> bool:
        return self._call(lambda: self._memory.exists(key))

    def delete(self, key: str) -> None:
        self._call(lambda: self._memory.delete(key))
