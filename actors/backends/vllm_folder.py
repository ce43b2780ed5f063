"""Gives vLLM a model folder with the names of weights that it knows.

transformers 5.23 saves the CLIP tower of a LLaVA as `vision_tower.embeddings...`; vLLM 0.32 looks
for `vision_tower.vision_model.embeddings...`, as all older files have it, and stops. Such a folder
is copied and the names in the headers of its safetensors files are changed; every other byte is
copied as it is.
Limits: CLIP towers only. The copy takes the model's size on the disk of temporary files while an
engine loads; a folder with the older names is read where it is.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TOWER, _OLDER_TOWER = "vision_tower.", "vision_tower.vision_model."


@contextlib.contextmanager
def readable_folder(folder: Path, scratch: Path) -> Iterator[Path]:
    """`folder` itself, or a copy of it in `scratch` with older names, whose weights go when it is
    left; an engine reads some of the small files later.
    """
    if not needs_older_names(folder):
        yield folder
        return
    copy = scratch / folder.name
    try:
        copy_with_older_names(folder, copy)
        yield copy
    finally:
        for path in copy.glob("*.safetensors"):
            path.unlink()


def needs_older_names(folder: Path) -> bool:
    """Whether vLLM would not find the vision tower's weights."""
    config = folder / "config.json"
    content: Any = json.loads(config.read_bytes()) if config.is_file() else {}
    if content.get("vision_config", {}).get("model_type") != "clip_vision_model":
        return False
    return any(
        _older_name(name) != name
        for path in folder.glob("*.safetensors")
        for name in _read_header(path)[0]
    )


def copy_with_older_names(folder: Path, copy: Path) -> None:
    """Writes `copy`, which must not exist; nothing but names differs."""
    copy.mkdir(parents=True)
    for path in sorted(folder.iterdir()):
        if path.name.endswith(".safetensors.index.json"):
            index = json.loads(path.read_bytes())
            index["weight_map"] = {_older_name(k): v for k, v in index["weight_map"].items()}
            (copy / path.name).write_text(json.dumps(index))
        elif path.suffix == ".safetensors":
            _copy_weights(path, copy / path.name)
        elif path.is_file():
            shutil.copyfile(path, copy / path.name)


def _older_name(name: str) -> str:
    if _TOWER not in name or _OLDER_TOWER in name:
        return name
    return name.replace(_TOWER, _OLDER_TOWER, 1)


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Names and places of the tensors, and where their bytes begin."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size)), 8 + size


def _copy_weights(path: Path, copy: Path) -> None:
    header, start = _read_header(path)
    text = json.dumps({_older_name(name): place for name, place in header.items()}).encode()
    text += b" " * (-len(text) % 8)  # the format wants the tensors aligned
    with path.open("rb") as source, copy.open("wb") as target:
        target.write(len(text).to_bytes(8, "little") + text)
        source.seek(start)
        shutil.copyfileobj(source, target, 1 << 24)
