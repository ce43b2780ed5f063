"""Which model a config means, whether its folder may be loaded, and how the record names it.

A model is `embedded` (the weights in this repository), a local folder, or a hub id
`owner/name[@revision]`; what a folder may hold is in models_vetting.py. A folder that `pairloom
models fetch` made is recorded as the repository and commit that it is a mirror of.
Limits: a digest reads every byte (about a second per 2 GB): once where a folder is identified and
once in every replica that is told which digest to expect, just before it loads; files that are
changed while it loads are not noticed. A hub model is named by its commit instead. Nothing here
imports torch; only `identify_model` and `fetch_model` may use the network.
"""

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from actors.models_manifest import MANIFEST, digest_entries, read_manifest
from actors.models_vetting import check_folder, check_weights, model_files
from actors.scenes.defaults import EMBEDDED_MODELS

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
# What a hub download brings; a pickle is never fetched, so that it cannot be loaded either.
HUB_PATTERNS: Final = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "README.md")


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """What the record says of a model; `digest` tells two models of one name apart."""

    id: str
    revision: str | None
    digest: str | None
    licence: str
    parts: tuple["ModelIdentity", ...] = ()  # of a model made of several, the first is the base


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model is: a folder, or a repository on the hub."""

    id: str
    folder: Path | None
    revision: str | None = None


def resolve_model(model: str, embedded_name: str) -> ModelSource:
    """Says where `model` is and checks its folder, in milliseconds: no weight is read, no
    network used.

    Args:
        model: `embedded`, a folder, or `owner/name[@revision]`.
        embedded_name: which of the embedded models `embedded` means: `sdxl`, `llava` or `clip`.

    Raises: ValueError: no such folder, neither a folder nor a hub id, or a folder that may not
    be loaded.
    """
    if model == "embedded":
        folder = EMBEDDED_MODELS[embedded_name]
        check_folder(folder)
        return ModelSource(id=f"pairloom-embedded/{embedded_name}", folder=folder)
    folder = Path(model).expanduser()
    looks_local = model.startswith(("/", "./", "../", "~")) or folder.is_dir()
    if looks_local:
        check_folder(folder)
        return ModelSource(id=folder.resolve().name, folder=folder.resolve())
    if not _HUB_ID.fullmatch(model):
        raise ValueError(
            f"field 'model' is {model!r}: must be 'embedded', an existing folder, or a hub id "
            "'owner/name[@revision]'"
        )
    hub_id, _, revision = model.partition("@")
    return ModelSource(id=hub_id, folder=None, revision=revision or None)


def resolve_weights(name: str, path: str) -> Path:
    """The one safetensors file that `path`, a file or a folder, means; nothing is loaded.

    Args:
        name: the field of the config, for what an error says.

    Raises:
        ValueError: no such file, none or several in the folder, or what may not be loaded.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        check_folder(place)
        found = sorted(place.glob("*.safetensors"))
        if len(found) != 1:
            raise ValueError(
                f"field {name!r} is {path!r}: holds {len(found)} *.safetensors files, not one; "
                "give the path of the file"
            )
        return found[0]
    if place.suffix != ".safetensors" or not place.is_file():
        raise ValueError(
            f"field {name!r} is {path!r}: must be a *.safetensors file, or a folder with one; "
            "download it first, on every node"
        )
    check_weights(place)
    return place


def fetch_model(
    source: ModelSource,
    *,
    allowed: Sequence[str] = HUB_PATTERNS,
    ignored: Sequence[str] = (),
    expected_digest: str | None = None,
) -> tuple[Path, str | None]:
    """The folder to load, and the commit if it came from the hub; downloads what is not cached.

    Raises:
        ValueError: what is there is not what the identity with `expected_digest` was made of.
    """
    if source.folder is not None:
        if expected_digest is not None:
            check_digest(source.folder, digest_folder(source.folder), expected_digest)
        return source.folder, None
    from huggingface_hub import snapshot_download

    snapshot = Path(
        snapshot_download(
            source.id,
            revision=source.revision,
            allow_patterns=list(allowed),
            ignore_patterns=list(ignored),
        )
    )
    check_folder(snapshot)
    commit = snapshot.name  # as the hub cache names it
    if expected_digest is not None:
        check_digest(snapshot, f"git:{commit}", expected_digest)
    return snapshot, commit


def check_digest(folder: Path, found: str, expected: str) -> None:
    """Raises ValueError unless the model in `folder` is the one the run is recorded with."""
    if found != expected:
        raise ValueError(
            f"model folder {str(folder)!r} has the digest {found}, but the run is recorded with "
            f"{expected}: give every node the same files, or start another run"
        )


def pin_model(model: str, identity: ModelIdentity) -> str:
    """`owner/name@commit` if `identity` is that of a hub model, else `model` as it is."""
    is_from_hub = identity.digest == f"git:{identity.revision}"
    return f"{identity.id}@{identity.revision}" if is_from_hub else model


def identify_model(source: ModelSource) -> ModelIdentity:
    """What the record says of the model. Hashes a local folder; finds the commit of a hub model.

    Raises:
        ValueError: a hub model that cannot be found, or a mirror that is not what was fetched.
    """
    if source.folder is not None:
        return _identify_folder(source.id, source.folder)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        # Configs and the card only: the weights are fetched where they are loaded.
        card = Path(
            snapshot_download(
                source.id,
                revision=source.revision,
                allow_patterns=["README.md", "model_index.json"],
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"field 'model' is {source.id!r}: neither the hub nor its local cache has it "
            f"({error}); give a local folder"
        ) from error
    return ModelIdentity(
        id=source.id,
        revision=card.name,
        digest=f"git:{card.name}",
        licence=read_licence(card),
    )


def _identify_folder(name: str, folder: Path) -> ModelIdentity:
    digest, manifest = digest_folder(folder), read_manifest(folder)
    if manifest is None:
        return ModelIdentity(id=name, revision=None, digest=digest, licence=read_licence(folder))
    if manifest.digest != digest:
        raise ValueError(
            f"model folder {str(folder)!r} has the digest {digest}, but its {MANIFEST} says that "
            f"{manifest.digest} was fetched: `pairloom models verify {folder}` says what differs; "
            f"fetch it again, or remove {MANIFEST} if the changes are yours"
        )
    return ModelIdentity(
        id=manifest.repo, revision=manifest.commit, digest=digest, licence=manifest.licence
    )


def digest_folder(folder: Path) -> str:
    """sha256 over the sorted (relative path, sha256 of the file); hidden files and the manifest of
    a mirror do not count.
    """
    files = [path for path in model_files(folder) if path != folder / MANIFEST]
    with ThreadPoolExecutor(max_workers=4) as threads:  # hashing releases the GIL
        digests = list(threads.map(digest_file, files))
    names = [path.relative_to(folder).as_posix() for path in files]
    return digest_entries(zip(names, digests, strict=True))


def digest_file(path: Path) -> str:
    """sha256 of one file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_licence(folder: Path) -> str:
    """The `license` of the model card's front matter, else `unknown`."""
    card = folder / "README.md"
    if not card.is_file():
        return "unknown"
    front = re.match(
        r"---\s*\n(.*?)\n---\s*(\n|$)", card.read_text("utf-8", errors="replace"), re.DOTALL
    )
    fields = dict(
        re.findall(r"^(license\w*):[ \t]*(\S.*?)[ \t]*$", front[1] if front else "", re.MULTILINE)
    )
    licence = fields.get("license", "").strip("'\"")
    # On the hub, a licence without a short name is `license: other` plus `license_name`.
    return (
        (fields.get("license_name", "").strip("'\"") if licence == "other" else "")
        or licence
        or "unknown"
    )
