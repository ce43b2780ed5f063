"""Makes the registry's torchvision importable beside a CPU build of torch: `python THIS_FILE` once,
in the environment that is to be mended.

vLLM imports torchvision, whose wheel on the registry is built for CUDA: without CUDA its compiled
operators do not load, and then its import dies at `operator torchvision::nms does not exist`. All
that the import wants is the schema of two operators. This file copies itself beside torchvision
with a `.pth` line that every interpreter runs at its start, so that the engine's own processes are
mended as well; there it waits for the first import of torchvision and declares the two.
Limits: the operators themselves still do not run (nothing here calls them); for the optional
environment of `make test-vllm` on a machine without a GPU, never for any other.
"""

import shutil
import sys
import sysconfig
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[Any] = []  # a library that is collected takes its operators along


class _BeforeTorchvision:
    """A finder that finds nothing: it is only asked, once, before torchvision is looked for."""

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            from torch.library import Library

            library = Library("torchvision", "DEF")
            for schema in _SCHEMAS:
                library.define(schema)
            _kept.append(library)
        return None


def install() -> None:
    """Copies this file into the running interpreter's site-packages and has it run there."""
    site = Path(sysconfig.get_paths()["purelib"])
    shutil.copyfile(__file__, site / "mend_torchvision.py")
    (site / "mend_torchvision.pth").write_text("import mend_torchvision\n")


if __name__ == "__main__":
    install()
elif not any(isinstance(finder, _BeforeTorchvision) for finder in sys.meta_path):
    sys.meta_path.insert(0, _BeforeTorchvision())
