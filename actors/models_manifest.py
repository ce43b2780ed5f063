"""What a mirrored model is: `pairloom-model.json`, which `pairloom models fetch` writes beside it.

Repository, commit and licence, every file with its size and sha256, and the digest by which the
records of a run name these bytes. The same files of the same commit give the same manifest.
Limits: it says what was fetched, it is no signature: whoever can change the files can change it.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from actors.models_vetting import check_name

MANIFEST: Final = "pairloom-model.json"
_FORMAT: Final = 1


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One file of a mirror; `path` is relative, with slashes."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A mirror of a repository at a commit, or of the part of it that was chosen."""

    repo: str
    commit: str
    licence: str
    files: tuple[ModelFile, ...]
    variant: str = ""  # of the weights, such as fp16

    @property
    def digest(self) -> str:
        """As `actors.models.digest_folder` has it for the same files."""
        return digest_entries((file.path, file.sha256) for file in self.files)

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)

    def to_json(self) -> bytes:
        """The file's content."""
        values = {"format": _FORMAT} | asdict(self) | {"digest": self.digest}
        return f"{json.dumps(values, indent=1)}\n".encode()


def digest_entries(entries: Iterable[tuple[str, str]]) -> str:
    """sha256 over the sorted (relative path, sha256 in hex)."""
    total = hashlib.sha256()
    for path, sha256 in sorted(entries):
        total.update(f"{path}\0{sha256}\n".encode())
    return f"sha256:{total.hexdigest()}"


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, or None where there is none.

    Raises:
        ValueError: it is no manifest of this format.
    """
    path = folder / MANIFEST
    return parse_manifest(path.read_bytes(), str(path)) if path.is_file() else None


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The manifest in `data`; `where` it lies is for what an error says.

    Raises:
        ValueError: it is no manifest of this format, or does not agree with itself.
    """
    try:
        values: Any = json.loads(data)
        form, digest = values.pop("format"), values.pop("digest")
        files = tuple(ModelFile(**each) for each in values.pop("files"))
        manifest = Manifest(**values, files=files)
        names = [file.path for file in files]
        is_whole = form == _FORMAT and digest == manifest.digest and len(set(names)) == len(names)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{where} is no manifest of a model ({type(error).__name__}: {error}): fetch the model "
            "again"
        ) from error
    if not is_whole:
        raise ValueError(
            f"{where} has the format {form}, {len(files)} files and the digest {digest}, which do "
            f"not agree (format {_FORMAT}, digest {manifest.digest}): fetch the model again"
        )
    for name in names:
        check_name(name)
    return manifest
