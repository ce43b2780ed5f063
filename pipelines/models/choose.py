"""Which files of a repository are fetched: safetensors of one variant, and the small files that the
loaders read. Pure.

A pipeline (`model_index.json`) has its components in folders; the all-in-one copies at its root, a
second set of weights and other frameworks' copies are left out. Any other model is what lies at the
root. Pickles and code are never among them; where there is nothing else, the model is refused.
Limits: knows the names that diffusers and transformers give their weights.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from actors.models_manifest import MANIFEST
from actors.models_vetting import REFUSED_SUFFIXES, check_name
from pipelines.models.config import FetchConfig

PIPELINE, MODEL = "model_index.json", "config.json"
_SMALL: Final = (".json", ".txt", ".model", ".jinja")
# What the licence asks to be handed on with the weights.
_LEGAL: Final = re.compile(r"(README\.md|(LICEN[CS]E|NOTICE|USE_POLICY)[\w.-]*)", re.IGNORECASE)
_SHARD = r"(-\d+-of-\d+)?"
_WEIGHTS: Final = re.compile(
    rf"(model|diffusion_pytorch_model){_SHARD}(\.(?P<variant>\w+))?{_SHARD}\.safetensors"
)
_INDEX: Final = re.compile(
    r"(model|diffusion_pytorch_model)\.safetensors\.index(\.(?P<variant>\w+))?\.json"
)


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file as its source lists it, with one or both of the hashes that the source vouches for."""

    path: str
    size_bytes: int
    sha256: str | None = None
    git_sha1: str | None = None  # of b"blob <size>\0" and the bytes

    @property
    def folder(self) -> str:
        """Empty at the root."""
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """Without the folder."""
        return self.path.rpartition("/")[2]


def check_listing(files: Sequence[SourceFile]) -> None:
    """Raises ValueError if a file would be written outside of the folder, or over another."""
    for file in files:
        check_name(file.path)


def find_entry(repo: str, files: Sequence[SourceFile]) -> SourceFile:
    """The file that says what the model is.

    Raises:
        ValueError: there is none.
    """
    by_path = {file.path: file for file in files}
    for name in (PIPELINE, MODEL):
        if name in by_path:
            return by_path[name]
    lone = sorted(file.path for file in files if file.path.endswith(".safetensors"))
    one_of = f"; for one of its files say weights={lone[0]}" if lone else ""
    raise ValueError(
        f"{repo} has no {PIPELINE} and no {MODEL}: not a model that diffusers or transformers "
        f"load{one_of}"
    )


def find_folders(entry: SourceFile, data: bytes) -> set[str]:
    """The folders that the model is loaded from: its components', and the root.

    Raises:
        ValueError: the entry is no JSON object.
    """
    try:
        content: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{entry.path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{entry.path} is no JSON object: nothing says what the model is")
    if entry.name != PIPELINE:
        return {""}
    # [library, class]; [null, null] is a component that is left out.
    parts = {key for key, value in content.items() if isinstance(value, list) and any(value)}
    return {"", *parts}


def choose_small(
    files: Sequence[SourceFile], folders: Collection[str], config: FetchConfig
) -> list[SourceFile]:
    """Configs, tokenizers, templates, the card and the licence, and the indexes of the variant."""
    return [
        file
        for file in files
        if file.folder in folders and not file.name.startswith(".") and _is_small(file, config)
    ]


def _is_small(file: SourceFile, config: FetchConfig) -> bool:
    if _LEGAL.fullmatch(file.name) and not file.folder:
        return file.path != MANIFEST
    if config.weights or file.path == MANIFEST or not file.name.endswith(_SMALL):
        return False
    index = _INDEX.fullmatch(file.name)
    # An index of pickles, or of another variant, points at what is not fetched.
    return index is not None or ".index." not in file.name


def choose_weights(
    repo: str, files: Sequence[SourceFile], folders: Collection[str], config: FetchConfig
) -> list[SourceFile]:
    """The safetensors files of the variant; plain ones where a component has no such variant.

    Raises:
        ValueError: there are only pickles, another variant, or no such file.
    """
    if config.weights:
        chosen = [file for file in files if file.path == config.weights]
    else:
        is_pipeline = any(file.path == PIPELINE for file in files)
        if config.variant and not is_pipeline:
            raise ValueError(
                f"field 'variant' is {config.variant!r}: only pipelines of diffusers are loaded by "
                f"variant, and {repo} is none; leave it out"
            )
        places = sorted(set(folders) - {""}) if is_pipeline else [""]
        chosen = [file for place in places for file in _choose_in(repo, files, place, config)]
    has_variant = any(f".{config.variant}" in file.name for file in chosen)
    if not chosen or (config.variant and not has_variant):
        wanted = config.weights or (f"{config.variant} weights" if config.variant else "weights")
        there = sorted({file.path for file in files if file.path.endswith(".safetensors")})
        raise ValueError(
            f"{repo} has no {wanted} in safetensors; what it has: {', '.join(there[:8]) or 'none'}"
        )
    return chosen


def _choose_in(
    repo: str, files: Sequence[SourceFile], folder: str, config: FetchConfig
) -> list[SourceFile]:
    here = [file for file in files if file.folder == folder]
    by_variant: dict[str, list[SourceFile]] = {}
    for file in here:
        found = _WEIGHTS.fullmatch(file.name)
        if found is not None:
            by_variant.setdefault(found["variant"] or "", []).append(file)
    chosen = by_variant.get(config.variant) or by_variant.get("", [])
    pickles = sorted(file.path for file in here if _suffix(file.name) in REFUSED_SUFFIXES - {".py"})
    if not chosen and by_variant:
        raise ValueError(
            f"{repo} has {folder or 'its'} weights as {', '.join(sorted(by_variant))} only: say "
            f"variant={min(by_variant)}"
        )
    if not chosen and pickles:
        raise ValueError(
            f"{repo} has {pickles[0]} and no safetensors beside it: pickles run code when they "
            "are loaded and are never fetched; convert the weights to safetensors"
        )
    # Shards and the whole may lie side by side: the whole is enough.
    return [file for file in chosen if "-of-" not in file.name] or chosen


def drop_indexes(
    small: Sequence[SourceFile], weights: Sequence[SourceFile], config: FetchConfig
) -> list[SourceFile]:
    """`small` without the indexes of weights that were not chosen."""
    sharded = {
        (file.folder, found["variant"] or "")
        for file in weights
        if "-of-" in file.name and (found := _WEIGHTS.fullmatch(file.name))
    }
    kept: list[SourceFile] = []
    for file in small:
        found = _INDEX.fullmatch(file.name)
        if found is None or (file.folder, found["variant"] or "") in sharded:
            kept.append(file)
    return kept


def count_left_out(files: Sequence[SourceFile], chosen: Collection[str]) -> dict[str, int]:
    """How many files are left out, by suffix; hidden ones do not count."""
    counts: dict[str, int] = {}
    for file in files:
        if file.path not in chosen and not file.name.startswith("."):
            suffix = _suffix(file.name) or file.name
            counts[suffix] = counts.get(suffix, 0) + 1
    return dict(sorted(counts.items()))


def _suffix(name: str) -> str:
    return f".{name.rpartition('.')[2].lower()}" if "." in name else ""
