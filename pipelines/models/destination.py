"""The place of a mirror: a folder that appears at once when it is whole, or a bucket's prefix.

A folder is filled beside its place, as `<name>.partial`, and renamed in the end. In a bucket the
manifest is put last, and `_fetched/` says until then which files are there; weights pass through a
folder of temporary files (TMPDIR), one at a time.
Limits: a folder's place must not be a mount point itself. Two fetches to one folder at once are not
kept apart.
"""

import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from actors.models_manifest import MANIFEST, Manifest, ModelFile
from actors.models_vetting import model_files
from cluster.storage import is_local, local_path, open_store
from pipelines.models.bucket import Bucket

PARTIAL = ".partial"
FETCHED = "_fetched"


class Destination(Protocol):
    """Where files are put once they are checked."""

    folder: Path
    """Where they are downloaded to; small files stay there until the end."""

    def find(self, path: str) -> ModelFile | None:
        """The file, if an earlier fetch has put it; None where its bytes are in `folder`."""
        ...

    def place(self, file: ModelFile) -> None:
        """Takes a file of weights that is whole."""
        ...

    def finish(self, manifest: Manifest) -> None:
        """Makes the mirror exist."""
        ...

    def close(self) -> None:
        """Lets go of what is only temporary."""
        ...


def open_destination(uri: str) -> Destination:
    """Raises ValueError if there is something else."""
    return FolderDestination(local_path(uri)) if is_local(uri) else BucketDestination(uri)


class FolderDestination:
    """A local folder."""

    def __init__(self, place: Path) -> None:
        self._place = place.absolute()
        if self._place.exists() and (not self._place.is_dir() or any(self._place.iterdir())):
            raise ValueError(
                f"{str(place)!r} is there and no mirror of pairloom: give an empty or a new folder"
            )
        self.folder = self._place.with_name(f"{self._place.name}{PARTIAL}")
        self.folder.mkdir(parents=True, exist_ok=True)

    def find(self, path: str) -> ModelFile | None:
        return None

    def place(self, file: ModelFile) -> None:
        pass

    def finish(self, manifest: Manifest) -> None:
        wanted = {file.path for file in manifest.files}
        for path in model_files(self.folder):  # of a fetch of something else that was cut off
            if path.relative_to(self.folder).as_posix() not in wanted:
                path.unlink()
        with (self.folder / MANIFEST).open("wb") as out:
            out.write(manifest.to_json())
            out.flush()
            os.fsync(out.fileno())
        try:
            self.folder.replace(self._place)
        except OSError as error:
            raise ValueError(
                f"{str(self._place)!r} cannot be replaced ({error.strerror}): give a folder below "
                f"it; what was fetched is in {str(self.folder)!r}"
            ) from error

    def close(self) -> None:
        pass


class BucketDestination:
    """A prefix of a bucket."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._store = open_store(uri)
        self._bucket = Bucket(uri)
        keys = self._store.list()
        if keys and not any(key.startswith(f"{FETCHED}/") for key in keys):
            raise ValueError(
                f"{uri} is not empty and no mirror of pairloom ({keys[0]!r}): give an empty or a "
                "new place"
            )
        self.folder = Path(tempfile.mkdtemp(prefix="pairloom-models-"))

    def find(self, path: str) -> ModelFile | None:
        try:
            return ModelFile(**json.loads(self._store.read(f"{FETCHED}/{path}.json")))
        except FileNotFoundError:
            return None

    def place(self, file: ModelFile) -> None:
        local = self.folder / file.path
        self._bucket.upload(local, file.path)
        # After the file: what is noted here is there.
        self._store.put(f"{FETCHED}/{file.path}.json", json.dumps(asdict(file)).encode())
        local.unlink()

    def finish(self, manifest: Manifest) -> None:
        for file in manifest.files:
            if (self.folder / file.path).is_file():
                self._bucket.upload(self.folder / file.path, file.path)
        wanted = {file.path for file in manifest.files}
        for key in self._store.list():
            if key not in wanted and not key.startswith(f"{FETCHED}/"):
                self._store.delete(key)
        self._store.put(MANIFEST, manifest.to_json())
        for key in self._store.list(FETCHED):
            self._store.delete(key)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
