"""Whether a model folder may be loaded: what is refused, and why.

A folder is refused unless it holds safetensors and nothing that runs code on load or leads out of
it: no pickles, no Python, no `auto_map`, no kernels from a hub, no links, no weights that lie
elsewhere.
Limits: what is refused is a list, made of what has been an advisory or close to one; behind it
stand the loaders' own switches (backends) and the sandbox in which a chat template is rendered. No
weight is read beyond its first bytes. Nothing here uses the network.
"""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

REFUSED_SUFFIXES: Final = frozenset(
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
_INDEX: Final = re.compile(r"\.index(\.\w+)?\.json$")  # of shards; with a variant: .index.fp16.json
_MAX_HEADER_BYTES: Final = 100_000_000  # as the safetensors library has it


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
    files = model_files(folder)
    for path in files:
        if path.suffix.lower() in REFUSED_SUFFIXES:
            raise ValueError(
                f"model folder {str(folder)!r} holds {path.relative_to(folder)}: pickles and "
                "code are never loaded; convert the weights to safetensors and remove the file"
            )
    if not any(path.suffix == ".safetensors" for path in files):
        raise ValueError(f"model folder {str(folder)!r} has no *.safetensors file: nothing to load")
    for path in files:
        check_file(path)


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


def check_name(name: str) -> None:
    """Raises ValueError unless `name` is a plain relative path, as a hub or a manifest lists it."""
    parts = name.split("/")
    is_plain = name.isprintable() and not set(name) & set('\\:*?"<>|')
    if not is_plain or any(part in ("", ".", "..") for part in parts):
        raise ValueError(
            f"the model lists a file {name!r}: it would be written outside of the model's folder, "
            "or nowhere; nothing of such a model is fetched"
        )


def check_file(path: Path, is_there: Callable[[Path], bool] = Path.is_file) -> None:
    """Refuses one file of a model by its name and content; `is_there` knows the others.

    Raises:
        ValueError: with the file and what to do.
    """
    if path.name == "adapter_config.json":
        raise ValueError(
            f"model file {str(path)!r} makes this an adapter, which loads another model: merge "
            "the two and give the merged folder"
        )
    if path.suffix == ".safetensors":
        check_weights(path)
    elif _INDEX.search(path.name):
        _check_index(path, is_there)
    elif path.name.endswith(("config.json", "model_index.json", "chat_template.json")):
        _check_config_file(path)
    elif path.suffix == ".jinja":
        _check_template(path, path.read_text("utf-8", errors="replace"))


def check_weights(path: Path) -> None:
    """Raises ValueError unless it is safetensors, whatever its name says; a pointer that git lfs
    left behind is found here as well.
    """
    with path.open("rb") as file:
        head = file.read(9)
    size = int.from_bytes(head[:8], "little")
    if len(head) < 9 or head[8:] != b"{" or size > min(_MAX_HEADER_BYTES, path.stat().st_size):
        raise ValueError(f"model file {str(path)!r} is no safetensors file: {head[:9]!r}...")


def _check_index(path: Path, is_there: Callable[[Path], bool]) -> None:
    """Shards are safetensors beside their index, where they have been checked."""
    content = _read_json(path)
    shards: Any = content.get("weight_map") if isinstance(content, dict) else None
    names: set[Any] = set(map(str, shards.values())) if isinstance(shards, dict) else {"weight_map"}
    for name in sorted(names):
        is_plain = Path(name).name == name and not name.startswith(".") and "\\" not in name
        if not (is_plain and name.endswith(".safetensors") and is_there(path.parent / name)):
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


def model_files(folder: Path) -> list[Path]:
    """The files of a model by their paths in it; hidden ones do not count."""
    found = [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())
