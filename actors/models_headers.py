"""Names, types and shapes of a model's weights, from the headers of its safetensors files.

Limits: reads the header of each file, some hundred KB, and no weight; folders that were vetted.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TensorHeader:
    """One tensor of a file."""

    name: str
    dtype: str  # as safetensors writes it: F16, BF16, F32, I64, ...
    shape: tuple[int, ...]

    @property
    def num_values(self) -> int:
        """1 for a scalar."""
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether a loader casts it to the dtype of the run; 8-bit floats stay what they are."""
        return self.dtype in ("F64", "F32", "F16", "BF16")


def read_headers(folder: Path) -> list[TensorHeader]:
    """Every tensor of the safetensors files in `folder`, not below it.

    Where a variant (`*.fp16.safetensors`) lies beside the plain files, as in a clone of a
    repository, only the plain ones are loaded and counted.
    """
    files = sorted(folder.glob("*.safetensors"))
    plain = [path for path in files if "." not in path.name.removesuffix(".safetensors")]
    return [header for path in plain or files for header in _read_file(path)]


def _read_file(path: Path) -> list[TensorHeader]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        content: dict[str, Any] = json.loads(file.read(size))
    return [
        TensorHeader(name=name, dtype=each["dtype"], shape=tuple(each["shape"]))
        for name, each in content.items()
        if name != "__metadata__"
    ]
