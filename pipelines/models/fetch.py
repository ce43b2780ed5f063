"""`pairloom models fetch`: a model of the hub at one commit, or of a mirror, vetted and checked, to
a folder or a bucket.

First what is small: an entry that says what the model is, then configs, tokenizers and templates,
which are vetted before a byte of weights is fetched. Then the weights, file by file. Every file is
held against the hash that its source lists (sha256 of what is in LFS, git's own of the rest), and
the manifest is written last. The same command goes on where it stopped, within a file too where the
destination is a folder.
Limits: one file at a time. What the hub says of a file is believed: a mirror is as good as the
commit that it is of, which is why a commit is to be pinned and the manifest kept.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from actors.models import read_licence
from actors.models_manifest import Manifest, ModelFile
from actors.models_vetting import check_file
from cluster.errors import StoreError
from cluster.storage import is_local, local_path
from pipelines.models import choose
from pipelines.models.choose import SourceFile
from pipelines.models.config import FetchConfig
from pipelines.models.destination import Destination, open_destination
from pipelines.models.hub import HubSource, Listing
from pipelines.models.mirror import MirrorSource, read_mirror

logger = logging.getLogger(__name__)


class Source(Protocol):
    """Where a model comes from."""

    def list_files(self) -> Listing: ...

    def download(self, file: SourceFile, target: Path) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What is there now."""

    dest: str
    repo: str
    commit: str
    licence: str
    digest: str
    num_files: int
    num_bytes: int
    left_out: dict[str, int]  # files of the source that were not fetched, by suffix
    is_new: bool  # False: it was there already


def fetch(
    model: str, dest: str, config: FetchConfig | None = None, endpoint: str | None = None
) -> Fetched:
    """Mirrors `owner/name[@revision]`, or the mirror in a folder or bucket, to `dest`.

    Raises:
        ValueError: there is no such model, it fails the vetting, or `dest` holds something else.
        StoreError: the hub or a store failed, or gave other bytes than it listed.
    """
    config = config or FetchConfig()
    source = _open_source(model, endpoint)
    listing = source.list_files()
    if isinstance(source, MirrorSource) and config.variant not in ("", listing.variant):
        raise ValueError(
            f"field 'variant' is {config.variant!r}: {model} is a mirror of "
            f"{listing.variant or 'the plain weights'}; fetch that variant from the hub"
        )
    if listing.is_moving:
        pinned = f"{listing.repo}@{listing.commit}"
        logger.info("%s is %s now: name that commit to get the same again", model, pinned)
    there = read_mirror(dest)
    if there is not None:
        return _check_there(there, listing, dest, config, _needed(source, listing, config))
    choose.check_listing(listing.files)
    destination = open_destination(dest)
    try:
        manifest = _fill(source, listing, destination, config)
        destination.finish(manifest)
    finally:
        destination.close()
    names = {file.path for file in manifest.files}
    return _to_fetched(dest, manifest, choose.count_left_out(listing.files, names), is_new=True)


def describe_fetched(fetched: Fetched) -> str:
    """What is there, and how it is used."""
    left_out = ", ".join(f"{number} {suffix}" for suffix, number in fetched.left_out.items())
    use = f"use it as a model: generator.model={fetched.dest} or captioner.model={fetched.dest}"
    if not is_local(fetched.dest):
        use = f"bring it to a node: pairloom models fetch {fetched.dest} FOLDER"
    return "\n".join(
        [
            f"{'fetched' if fetched.is_new else 'there already:'} {fetched.repo}@{fetched.commit}",
            f"  {fetched.num_files} files, {fetched.num_bytes / 1e9:.3g} GB in {fetched.dest}, "
            f"licence {fetched.licence}",
            f"  digest {fetched.digest}",
            *([f"  left out {left_out}"] if left_out else []),
            f"  {use}",
        ]
    )


def _open_source(model: str, endpoint: str | None) -> Source:
    is_folder = "://" in model or local_path(model).is_dir()
    if is_folder:
        manifest = read_mirror(model)
        if manifest is None:
            raise ValueError(
                f"{model!r} holds no mirror of pairloom: give one, or owner/name@commit"
            )
        return MirrorSource(model, manifest)
    repo, _, revision = model.partition("@")
    return HubSource(repo, revision or None, endpoint)


def _check_there(
    there: Manifest, listing: Listing, dest: str, config: FetchConfig, needed: str
) -> Fetched:
    is_same = (there.repo, there.commit) == (listing.repo, listing.commit)
    has_it = not needed or needed in {file.path for file in there.files}
    if not (is_same and has_it) or there.variant != _variant(listing, config):
        raise ValueError(
            f"{dest!r} holds {there.repo}@{there.commit} {there.variant}: another model, commit, "
            "variant or file needs a place of its own"
        )
    return _to_fetched(dest, there, {}, is_new=False)


def _needed(source: Source, listing: Listing, config: FetchConfig) -> str:
    """The file that a mirror has if it is of what is asked for; empty where any is: a mirror of a
    mirror. One file of weights is not the model that it lies beside."""
    if config.weights or isinstance(source, MirrorSource):
        return config.weights
    return choose.find_entry(listing.repo, listing.files).path


def _variant(listing: Listing, config: FetchConfig) -> str:
    return config.variant or listing.variant


def _fill(
    source: Source, listing: Listing, destination: Destination, config: FetchConfig
) -> Manifest:
    """Everything but the manifest, small files first."""
    files, folder = listing.files, destination.folder
    folders, done = {""}, list[ModelFile]()
    if isinstance(source, HubSource) and not config.weights:
        entry = choose.find_entry(listing.repo, files)
        done.append(_bring(source, entry, folder))
        folders = choose.find_folders(entry, (folder / entry.path).read_bytes())
    if isinstance(source, MirrorSource) and not config.weights:  # it was chosen from before
        weights = [file for file in files if file.path.endswith(".safetensors")]
        small = [file for file in files if file not in weights]
    else:
        weights = choose.choose_weights(listing.repo, files, folders, config)
        small = choose.choose_small(files, folders, config)
        small = choose.drop_indexes(small, weights, config)
    known = {file.path for file in done}
    done += [_bring(source, file, folder) for file in small if file.path not in known]
    paths = {folder / file.path for file in (*small, *weights)}
    for file in done:
        check_file(folder / file.path, paths.__contains__)
    done += [_bring_weights(source, file, destination) for file in weights]
    return Manifest(
        repo=listing.repo,
        commit=listing.commit,
        licence=listing.licence or read_licence(folder),
        files=tuple(sorted(done, key=lambda file: file.path)),
        variant=_variant(listing, config),
    )


def _bring_weights(source: Source, file: SourceFile, destination: Destination) -> ModelFile:
    found = destination.find(file.path)
    if found is not None and found.sha256 == file.sha256:
        return found
    brought = _bring(source, file, destination.folder)
    check_file(destination.folder / file.path)
    destination.place(brought)
    return brought


def _bring(source: Source, file: SourceFile, folder: Path) -> ModelFile:
    """The file with the hashes that were listed, downloaded unless it is there."""
    path = folder / file.path
    if path.is_file() and path.stat().st_size == file.size_bytes:
        sha256, git_sha1 = _hash(path)
        if _is_right(file, sha256, git_sha1):
            return ModelFile(path=file.path, size_bytes=file.size_bytes, sha256=sha256)
    part = path.with_name(f".{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    logger.info("%s: %.3g MB", file.path, file.size_bytes / 1e6)
    source.download(file, part)
    size, (sha256, git_sha1) = part.stat().st_size, _hash(part)
    if size != file.size_bytes or not _is_right(file, sha256, git_sha1):
        part.unlink()
        raise StoreError(
            f"{file.path} came as {size} bytes with sha256 {sha256}, its source lists "
            f"{file.size_bytes} bytes with {file.sha256 or file.git_sha1}: it was removed; the "
            "same command fetches it again. If it comes like that again, do not use this source"
        )
    part.replace(path)
    return ModelFile(path=file.path, size_bytes=size, sha256=sha256)


def _is_right(file: SourceFile, sha256: str, git_sha1: str) -> bool:
    if file.sha256 is None and file.git_sha1 is None:
        raise ValueError(f"{file.path} is listed without a hash: it cannot be checked")
    return sha256 == file.sha256 if file.sha256 is not None else git_sha1 == file.git_sha1


def _hash(path: Path) -> tuple[str, str]:
    """sha256, and the id that git gives the file."""
    sha256 = hashlib.sha256()
    sha1 = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            sha256.update(data)
            sha1.update(data)
    return sha256.hexdigest(), sha1.hexdigest()


def _to_fetched(
    dest: str, manifest: Manifest, left_out: dict[str, int], *, is_new: bool
) -> Fetched:
    return Fetched(
        dest=dest,
        repo=manifest.repo,
        commit=manifest.commit,
        licence=manifest.licence,
        digest=manifest.digest,
        num_files=len(manifest.files),
        num_bytes=manifest.num_bytes,
        left_out=left_out,
        is_new=is_new,
    )
