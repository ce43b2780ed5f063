"""A mirror, in a folder or a bucket, as a source of files: how a node gets what lies in a bucket.

Limits: a folder's files are copied, not linked.
"""

import shutil
from pathlib import Path

from actors.models_manifest import MANIFEST, Manifest, parse_manifest
from cluster.storage import is_local, local_path, open_store
from pipelines.models.bucket import Bucket
from pipelines.models.choose import SourceFile
from pipelines.models.hub import Listing


def read_mirror(uri: str) -> Manifest | None:
    """What lies at `uri` by its manifest; None where there is none.

    Raises:
        ValueError: the manifest is none.
        StoreError: the store failed.
    """
    try:
        data = open_store(uri).read(MANIFEST)
    except FileNotFoundError:
        return None
    return parse_manifest(data, f"{uri.rstrip('/')}/{MANIFEST}")


class MirrorSource:
    """What `pairloom models fetch` made, elsewhere."""

    def __init__(self, uri: str, manifest: Manifest) -> None:
        self._uri = uri
        self._manifest = manifest
        self._bucket = None if is_local(uri) else Bucket(uri)

    def list_files(self) -> Listing:
        """What the manifest says."""
        manifest = self._manifest
        files = tuple(
            SourceFile(path=each.path, size_bytes=each.size_bytes, sha256=each.sha256)
            for each in manifest.files
        )
        return Listing(
            repo=manifest.repo,
            commit=manifest.commit,
            files=files,
            licence=manifest.licence,
            variant=manifest.variant,
        )

    def download(self, file: SourceFile, target: Path) -> None:
        """Writes the bytes to `target`; of a bucket after those that are already there.

        Raises:
            StoreError: the store failed.
        """
        if self._bucket is None:
            shutil.copyfile(local_path(self._uri) / file.path, target)
        else:
            start = target.stat().st_size if target.exists() else 0
            self._bucket.download(file.path, target, start)
