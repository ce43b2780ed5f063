"""A disk that is full: the commit fails by name, leaves nothing half, and succeeds with room."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from commit_checker import check_run, folder_objects
from grow import DEAD_LETTERS, grow_round

from cluster.errors import StoreError
from cluster.ledger import Ledger
from cluster.storage import open_store

DISK_BYTES = 4 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 4 MiB, which only root may mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs a small tmpfs: {done.stderr.strip() or 'mount was refused'}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _fill(disk: Path, keep_free_bytes: int = 0) -> Path:
    ballast = disk / "ballast"
    room = os.statvfs(disk)
    ballast.write_bytes(b"\0" * (room.f_bavail * room.f_bsize - keep_free_bytes))
    return ballast


def _files(run: Path) -> list[str]:
    """Every file of the run, temporary ones too."""
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())


@pytest.mark.parametrize("keep_free_bytes", [0, 64 << 10])
def test_a_commit_on_a_full_disk_fails_whole_and_succeeds_with_room(
    small_disk: Path, keep_free_bytes: int
) -> None:
    """With nothing free at all, and with room for the half of a shard."""
    run = small_disk / "run"
    ledger = Ledger(open_store(str(run)), "f")
    ledger.commit("u0", 0, *grow_round("u0", 0, None, "a"))
    pairs, dead_letters, counts = grow_round("u1", 0, None, "a")
    ballast_column = pa.array([os.urandom(64 << 10) for _ in range(pairs.num_rows)])
    pairs = pairs.append_column("image", ballast_column)
    before = _files(run)
    ballast = _fill(small_disk, keep_free_bytes)
    for _ in range(2):
        with pytest.raises(StoreError, match="No space left on device") as failure:
            ledger.commit("u1", 0, pairs, dead_letters, counts)
        assert str(run) in str(failure.value)
        assert _files(run) == before, "no partial object, no temporary file"
    ballast.unlink()
    assert ledger.commit("u1", 0, pairs, dead_letters, counts).is_winner
    assert check_run(folder_objects(run), ["u0", "u1"], 1) == []


def test_a_disk_that_fills_between_the_shard_and_its_receipt_leaves_no_commit(
    small_disk: Path,
) -> None:
    run = small_disk / "run"
    store = open_store(str(run))
    ledger = Ledger(store, "f")
    ledger.commit("u0", 0, *grow_round("u0", 0, None, "a"))
    pairs, _, counts = grow_round("u1", 0, None, "a")

    class FullAfterTheShard(type(store)):
        """Fills the disk once the shard is there: what another process on it may do."""

        def put_if_absent(self, key: str, data: bytes) -> bool:
            if key.startswith("receipts/"):
                _fill(small_disk)
            return super().put_if_absent(key, data)

    filling = Ledger(FullAfterTheShard(str(run)), "f")
    with pytest.raises(StoreError, match=r"receipts/u1/0\.json.*No space left"):
        filling.commit("u1", 0, pairs, DEAD_LETTERS.empty_table(), counts)
    assert ledger.receipt("u1", 0) is None
    assert ledger.next_rounds(["u1"]) == {"u1": 0}
    (small_disk / "ballast").unlink()
    assert ledger.commit("u1", 0, pairs, DEAD_LETTERS.empty_table(), counts).is_winner
    assert check_run(folder_objects(run), ["u0", "u1"], 1) == []


def test_a_full_disk_is_found_before_a_run_begins(small_disk: Path) -> None:
    _fill(small_disk)
    with pytest.raises(ValueError, match="No space left on device"):
        open_store(str(small_disk / "run")).check_writable()
