"""Which model a config means, whether its folder may be loaded, and how the record names it.

A model is `embedded` (the weights in this repository), a local folder, or a hub id
`owner/name[@revision]`. A folder is refused unless it holds safetensors and nothing that runs
code on load or leads out of it: no pickles, no Python, no `auto_map`, no kernels from a hub, no
links, no weights that lie elsewhere.
Limits: what is refused is a list, made of what has been an advisory or close to one; behind it
stand the loaders' own switches (backends) and the sandbox in which a chat template is rendered. A
digest reads every byte (about a second per 2 GB): once where a folder is identified and once in
every replica that is told which digest to expect, just before it loads; files that are changed
while it loads are not noticed. A hub model is named by its commit instead. Nothing here imports
torch; only `identify_model` and `fetch_model` may use the network.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors.scenes.defaults import EMBEDDED_MODELS

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
# What a hub download brings; a pickle is never fetched, so that it cannot be loaded either.
HUB_PATTERNS: Final = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "README.md")
_REFUSED_SUFFIXES: Final = frozenset(
    [".bin", ".ckpt", ".dill", ".dll", ".dylib", ".joblib", ".npy", ".npz", ".pickle", ".pkl"]
) | frozenset([".pt", ".pth", ".py", ".pyc", ".pyd", ".pyo", ".pyw", ".so"])
# Keys by which a config file asks for code of its own; each has been a CVE or close to one.
_REFUSED_KEYS: Final = (
    "auto_map",
    "custom_generate",
    "custom_pipeline",
    "_attn_implementation_internal",
    "_experts_implementation_internal",
)
_KERNEL_KEYS: Final = ("attn_implementation", "experts_implementation")  # and with _ in front
_PIPELINE_LIBRARIES: Final = ("diffusers", "transformers", "stable_diffusion_xl", None)
# By which a template climbs from a text to Python. The sandbox stops what is spelled otherwise.
_REFUSED_IN_TEMPLATES: Final = re.compile(
    r"__(?:base|bases|builtins|call|class|code|dict|getattr|getattribute|globals|import|init|"
    r"module|mro|new|reduce|reduce_ex|self|subclasses)__|\|\s*attr\b"
)
_MAX_HEADER_BYTES: Final = 100_000_000  # as the safetensors library has it


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
    _check_weights(place)
    return place


def check_folder(folder: Path) -> None:
    """Refuses a folder that is missing, incomplete, or able to run code when it is loaded.

    Raises:
        ValueError: with the file and what to do.
    """
    if not folder.is_dir():
        raise ValueError(
            f"field 'model' is {str(folder)!r}: no such folder; give one that holds a model"
        )
    _check_links(folder)
    files = _model_files(folder)
    for path in files:
        if path.suffix.lower() in _REFUSED_SUFFIXES:
            raise ValueError(
                f"model folder {str(folder)!r} holds {path.relative_to(folder)}: pickles and "
                "code are never loaded; convert the weights to safetensors and remove the file"
            )
    if not any(path.suffix == ".safetensors" for path in files):
        raise ValueError(f"model folder {str(folder)!r} has no *.safetensors file: nothing to load")
    for path in files:
        _check_file(path)


def _check_links(folder: Path) -> None:
    """A link could lead to files that nobody checked; the hub's own cache links to its blobs."""
    real = folder.resolve()
    is_from_hub = real.parent.name == "snapshots"
    allowed = [real, real.parent.parent / "blobs"] if is_from_hub else [real]
    for path in folder.rglob("*"):
        if path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in allowed):
            raise ValueError(
                f"model folder {str(folder)!r} holds the link {path.relative_to(folder)} to "
                f"{str(path.resolve())!r}: put the file itself there"
            )


def _check_file(path: Path) -> None:
    if path.name == "adapter_config.json":
        raise ValueError(
            f"model file {str(path)!r} makes this an adapter, which loads another model: merge "
            "the two and give the merged folder"
        )
    if path.suffix == ".safetensors":
        _check_weights(path)
    elif path.name.endswith(".index.json"):
        _check_index(path)
    elif path.name.endswith(("config.json", "model_index.json", "chat_template.json")):
        _check_config_file(path)
    elif path.suffix == ".jinja":
        _check_template(path, path.read_text("utf-8", errors="replace"))


def _check_weights(path: Path) -> None:
    """Whatever its name says; a pointer that git lfs left behind is found here as well."""
    with path.open("rb") as file:
        head = file.read(9)
    size = int.from_bytes(head[:8], "little")
    if len(head) < 9 or head[8:] != b"{" or size > min(_MAX_HEADER_BYTES, path.stat().st_size):
        raise ValueError(f"model file {str(path)!r} is no safetensors file: {head[:9]!r}...")


def _check_index(path: Path) -> None:
    """Shards are safetensors beside their index, where they have been checked."""
    content = _read_json(path)
    shards: Any = content.get("weight_map") if isinstance(content, dict) else None
    names: set[Any] = set(map(str, shards.values())) if isinstance(shards, dict) else {"weight_map"}
    for name in sorted(names):
        is_plain = Path(name).name == name and not name.startswith(".") and "\\" not in name
        if not (is_plain and name.endswith(".safetensors") and (path.parent / name).is_file()):
            raise ValueError(
                f"model file {str(path)!r} takes weights from {name!r}: they must be safetensors "
                "files beside it"
            )


def _check_template(path: Path, text: str) -> None:
    found = _REFUSED_IN_TEMPLATES.search(text)
    if found is not None:
        raise ValueError(
            f"model file {str(path)!r} has a chat template with {found[0]!r}: templates that "
            "reach for Python are never rendered; take the model's original one"
        )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"model file {str(path)!r} is no JSON: {error}") from error


def _check_config_file(path: Path) -> None:
    for key, value in _walk(_read_json(path)):
        is_kernel = key.removeprefix("_") in _KERNEL_KEYS and "/" in json.dumps(value)
        is_trusting = key == "trust_remote_code" and bool(value)
        if key in _REFUSED_KEYS or is_kernel or is_trusting:
            raise ValueError(
                f"model file {str(path)!r} has the key {key!r}: it asks for code from "
                "outside the library, which is never run; remove it, or choose a model that the "
                "library knows"
            )
        if key in ("chat_template", "template") and isinstance(value, str):
            _check_template(path, value)
        is_component = path.name == "model_index.json" and isinstance(value, list)
        if is_component and value and value[0] not in _PIPELINE_LIBRARIES:
            raise ValueError(
                f"model file {str(path)!r} takes {key!r} from the library {value[0]!r}: "
                "only diffusers and transformers are loaded"
            )


def _walk(content: Any) -> Iterable[tuple[str, Any]]:
    """Every (key, value) of nested JSON."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield str(key), value
            yield from _walk(value)
    elif isinstance(content, list):
        for value in content:
            yield from _walk(value)


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
        ValueError: a hub model that cannot be found.
    """
    if source.folder is not None:
        licence = read_licence(source.folder)
        return ModelIdentity(
            id=source.id, revision=None, digest=digest_folder(source.folder), licence=licence
        )
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


def digest_folder(folder: Path) -> str:
    """sha256 over the sorted (relative path, sha256 of the file); hidden files do not count."""
    files = _model_files(folder)
    with ThreadPoolExecutor(max_workers=4) as threads:  # hashing releases the GIL
        digests = list(threads.map(digest_file, files))
    total = hashlib.sha256()
    for path, digest in zip(files, digests, strict=True):
        total.update(f"{path.relative_to(folder).as_posix()}\0{digest}\n".encode())
    return f"sha256:{total.hexdigest()}"


def digest_file(path: Path) -> str:
    """sha256 of one file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _model_files(folder: Path) -> list[Path]:
    found = [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


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
