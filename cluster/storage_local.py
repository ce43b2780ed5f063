"""A folder as a store: put-if-absent by hard link, and durable when it returns.

obstore's LocalStore (0.12.1, by strace) stages ``x.parquet#1`` beside the final name and never
calls fsync: a reader's glob can meet the staged file, and a power cut can leave a receipt without
its rows. Here bytes are written under ``.tmp/`` of the prefix, synced, linked to the final name,
and the folder is synced too.

Limits: needs hard links within the prefix, and a POSIX folder that can be synced. A writer that
is killed leaves its temporary file; the next run's `check_writable` removes those a day old.
"""

import builtins
import contextlib
import errno
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from cluster.errors import ConditionalPutUnsupportedError, StoreError
from cluster.storage_base import TEMP_FOLDER, Store, check_key, check_prefix

# A put takes minutes at most: what is older was left by a writer that was killed.
STALE_TEMP_S = 24 * 3600.0
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class LocalStore(Store):
    """A folder, created when first written to."""

    _hint = "give a folder that can be written, on a disk with room"

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._root = Path(uri)

    def __reduce__(self) -> tuple[type["LocalStore"], tuple[str]]:
        return LocalStore, (self.uri,)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._place(key, data, _link)

    def put(self, key: str, data: bytes) -> None:
        self._place(key, data, _replace)

    def read(self, key: str) -> bytes:
        check_key(key)
        try:
            return (self._root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise FileNotFoundError(f"{self.uri}: no file {key!r}") from None
        except OSError as error:
            raise self._failure("read", key, error) from error

    def list(self, prefix: str = "") -> builtins.list[str]:
        top = self._root / check_prefix(prefix)

        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise self._failure("list", prefix, error) from error

        keys: builtins.list[str] = []
        for folder, subfolders, names in os.walk(top, onerror=refuse):
            if folder == str(self._root) and TEMP_FOLDER in subfolders:
                subfolders.remove(TEMP_FOLDER)
            where = os.path.relpath(folder, self._root).replace(os.sep, "/")
            keys += names if where == "." else [f"{where}/{name}" for name in names]
        return sorted(keys)

    def exists(self, key: str) -> bool:
        check_key(key)
        return (self._root / key).is_file()

    def delete(self, key: str) -> None:
        check_key(key)
        try:
            (self._root / key).unlink(missing_ok=True)
        except OSError as error:
            raise self._failure("delete", key, error) from error

    def _tidy(self) -> None:
        for temp in (self._root / TEMP_FOLDER).iterdir():
            with contextlib.suppress(OSError):
                if time.time() - temp.stat().st_mtime > STALE_TEMP_S:
                    temp.unlink()

    def _place(self, key: str, data: bytes, move: Callable[[Path, Path], bool]) -> bool:
        check_key(key)
        target = self._root / key
        temp = self._root / TEMP_FOLDER / uuid.uuid4().hex
        try:
            _make_folder(target.parent)
            _make_folder(temp.parent)
            try:
                _write_synced(temp, data)
                is_placed = move(temp, target)
            finally:
                temp.unlink(missing_ok=True)
            # Also when another writer was first: what its caller builds on it must not outlive it.
            _sync_folder(target.parent)
        except OSError as error:
            raise self._failure("write", key, error) from error
        return is_placed

    def _failure(self, verb: str, key: str, error: OSError) -> StoreError:
        return StoreError(f"{self.uri}: cannot {verb} {key!r}: {error.strerror or error}")


def _link(temp: Path, target: Path) -> bool:
    try:
        os.link(temp, target)
    except FileExistsError:
        # NFS repeats a link whose reply was lost; two names then show that ours was placed.
        return temp.stat().st_nlink > 1
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        raise ConditionalPutUnsupportedError(
            f"the file system of {target.parent} has no hard links ({error.strerror}), so "
            "put-if-absent cannot be had there: use another one, or an object store"
        ) from error
    return True


def _replace(temp: Path, target: Path) -> bool:
    temp.replace(target)
    return True


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder") from None
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
