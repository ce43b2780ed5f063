"""Publishes runs in tests, in this process or in one that dies at a chosen store call."""

import hashlib
import json
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from crash_attempt import CrashingStore

from cluster.config import from_dict
from cluster.storage import open_store
from pipelines.publish import PublishConfig, Published, destination, publish

WORDS = ("shard_bytes=20000", "validation_share=0.2", "rows_a_group=10")


def config_of(*words: str) -> PublishConfig:
    """Small shards and a validation split that is not empty, then `words`."""
    return from_dict(PublishConfig, {}, "of the test", [*WORDS, *words])


def publish_run(run: Any, dest: Path | str, *words: str) -> Published:
    """Of a `RunWriter`."""
    return publish(str(run.folder), str(dest), config_of(*words))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def check_manifest(files: dict[str, bytes]) -> dict[str, Any]:
    """The manifest names every file but itself, with its hash and size; returns it."""
    manifest = json.loads(files["manifest.json"])
    stated = {one["file"]: (one["sha256"], one["size_bytes"]) for one in manifest["files"]}
    assert stated == {
        name: (hashlib.sha256(data).hexdigest(), len(data))
        for name, data in files.items()
        if name != "manifest.json"
    }
    return manifest


def die_publishing(output: str, dest: str, words: tuple[str, ...], crash_at: int, mode: str) -> int:
    """Publishes in a process of its own that dies at a store call; returns its exit code."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["publishing"])
    child = context.Process(target=_publish_and_die, args=(output, dest, words, crash_at, mode))
    child.start()
    child.join(60)
    assert child.exitcode is not None
    return child.exitcode


def _publish_and_die(
    output: str, dest: str, words: tuple[str, ...], crash_at: int, mode: str
) -> None:
    store = CrashingStore(open_store(dest), crash_at, mode)
    destination.open_store = lambda uri: store  # the one place where the destination is opened
    publish(output, dest, config_of(*words))
