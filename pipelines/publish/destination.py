"""The place that a publish writes to: whose it is, what is there, what the manifest will say of it.

    publish.json     put first: the run, the config, the commits that this place is for, and what
                     they had cost by then
    manifest.json    put last: every file with its sha256, bytes and rows; proof of a whole publish

Every file is put whole and only if absent, so none is ever seen half or twice. A publish that was
cut off is gone on with from what its `publish.json` says, even if the run has grown.

Limits: a resume reads what is already there once, to hash it.
"""

import contextlib
import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, cast

from cluster.config import to_dict
from cluster.errors import CommitError, RunMismatchError
from cluster.ledger import Ledger
from cluster.receipts import Receipt, parse_object
from cluster.run_record import differences
from cluster.storage import is_local, local_path, open_store
from cluster.storage_base import PROBE_FOLDER, TEMP_FOLDER
from pipelines.budget import add_spent, read_spent
from pipelines.filters.report import digest_commits
from pipelines.publish.config import PublishConfig

CLAIM_KEY, MANIFEST_KEY, CARD_KEY = "publish.json", "manifest.json", "README.md"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file as the manifest states it; without a split it belongs to all."""

    file: str
    sha256: str
    size_bytes: int
    num_rows: int = 0
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a place is for.

    Attributes:
        gpu_s: what the run had spent by then, in GPU-seconds by pool.
    """

    receipts: list[Receipt]
    gpu_s: dict[str, float]


class Destination:
    """A folder or prefix under which one dataset is published."""

    def __init__(self, uri: str) -> None:
        """Shows that it can be written; `ValueError` if not."""
        self.uri = uri
        self.store = open_store(uri)
        self.store.check_writable()
        keys = self.store.list()
        # A kill may leave a probe; it is no file of anybody's.
        self._probes = [key for key in keys if key.startswith(f"{PROBE_FOLDER}/")]
        self._keys = set(keys) - set(self._probes)

    def claim(self, ledger: Ledger, receipts: list[Receipt], config: PublishConfig) -> Claim:
        """Makes the place that of this run and config; says what counts for it.

        Raises:
            ValueError: there are files of something else.
            RunMismatchError: it holds the publish of another run, or of another config.
            CommitError: a commit that it was begun with is gone, or another one now.
        """
        ours = _claim_of(ledger, receipts, config)
        if CLAIM_KEY not in self._keys:
            if self._keys:
                raise ValueError(
                    f"{self.uri} is not empty and no publish of pairloom ({min(self._keys)!r}): "
                    "give an empty or a new place"
                )
            self.store.put_if_absent(CLAIM_KEY, _to_json(ours))
        theirs = _read_claim(self.store.read(CLAIM_KEY), self.uri)
        _check_claim(self.uri, theirs, ours)
        cells = {(unit, r) for unit, rounds in theirs["commits"].items() for r in rounds}
        pinned = [one for one in receipts if (one.unit_id, one.round_index) in cells]
        if digest_commits(pinned) != theirs["commits_digest"]:
            raise CommitError(
                f"commits of the run that {self.uri} was begun with have been taken back or made "
                "anew since: publish to another place, and remove this one"
            )
        return Claim(receipts=pinned, gpu_s=theirs.get("gpu_s", {}))

    def manifest(self) -> dict[str, Any] | None:
        """What a publish that is whole says of itself, or None."""
        if MANIFEST_KEY not in self._keys:
            return None
        return parse_object(self.store.read(MANIFEST_KEY))

    def has(self, key: str) -> bool:
        """Whether an earlier attempt has written the file."""
        return key in self._keys

    def put(
        self, key: str, data: bytes, *, num_rows: int = 0, split: str | None = None
    ) -> FileEntry:
        """Writes a file, or finds that it is there with the same bytes.

        Raises:
            CommitError: it is there with other bytes.
        """
        digest = hashlib.sha256(data).hexdigest()
        if not self.store.put_if_absent(key, data):
            found = hashlib.sha256(self.store.read(key)).hexdigest()
            if found != digest:
                raise CommitError(
                    f"{key} in {self.uri} holds other bytes than this version of pairloom makes "
                    "of it: publish to another place, or remove this one"
                )
        return FileEntry(
            file=key, sha256=digest, size_bytes=len(data), num_rows=num_rows, split=split
        )

    def take(self, key: str, *, num_rows: int, split: str) -> FileEntry:
        """What an earlier attempt has written."""
        data = self.store.read(key)
        digest = hashlib.sha256(data).hexdigest()
        return FileEntry(
            file=key, sha256=digest, size_bytes=len(data), num_rows=num_rows, split=split
        )

    def claim_entry(self) -> FileEntry:
        """The entry of `publish.json`."""
        data = self.store.read(CLAIM_KEY)
        digest = hashlib.sha256(data).hexdigest()
        return FileEntry(file=CLAIM_KEY, sha256=digest, size_bytes=len(data))

    def finish(self, head: dict[str, Any], entries: Iterable[FileEntry]) -> dict[str, Any]:
        """Writes the manifest and returns it."""
        files = sorted((asdict(one) for one in entries), key=lambda one: one["file"])
        document = {"format": FORMAT, **head, "files": files}
        self.put(MANIFEST_KEY, _to_json(document))
        return document

    def tidy(self) -> None:
        """Removes what killed writers, and the probe, left beside the files of a whole publish."""
        for key in self._probes:
            self.store.delete(key)
        if is_local(self.uri):
            for name in (TEMP_FOLDER, PROBE_FOLDER):
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(local_path(self.uri) / name)


def _claim_of(ledger: Ledger, receipts: list[Receipt], config: PublishConfig) -> dict[str, Any]:
    commits: defaultdict[str, list[int]] = defaultdict(list)
    for one in receipts:
        commits[one.unit_id].append(one.round_index)
    return {
        "format": FORMAT,
        "fingerprint": ledger.fingerprint,
        "config": to_dict(config),
        "commits_digest": digest_commits(receipts),
        "commits": {unit: sorted(rounds) for unit, rounds in sorted(commits.items())},
        "gpu_s": add_spent(read_spent(ledger.store)),
    }


def _read_claim(data: bytes, uri: str) -> dict[str, Any]:
    try:
        claim = parse_object(data)
    except ValueError as error:
        raise RunMismatchError(f"{CLAIM_KEY} in {uri}: {error}") from error
    if claim.get("format") != FORMAT:
        raise RunMismatchError(f"{CLAIM_KEY} in {uri} has format {claim.get('format')!r}, not 1")
    return claim


def _check_claim(uri: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    if theirs["fingerprint"] != ours["fingerprint"]:
        raise RunMismatchError(
            f"{uri} holds a publish of the run {theirs['fingerprint']}, this is the run "
            f"{ours['fingerprint']}: give another place"
        )
    lines = differences(cast(dict[str, Any], theirs["config"]), ours["config"])
    if lines:
        raise RunMismatchError(
            f"{uri} holds a publish with another config. Give another place, or put back:\n"
            + "\n".join(f"  {line}" for line in lines)
        )


def _to_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"
