"""What the torch backends share: device, dtype, and telling a dead device from a bad batch.

Limits: one device per engine; a model that needs several GPUs is served by an engine that shards by
itself. torch is imported when a function is called, so that importing this module stays cheap.
"""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from actors.engines import EngineDeadError
from actors.isolation import is_out_of_memory

if TYPE_CHECKING:
    import torch

# Texts of errors after which every later call in the process fails as well. torch raises
# AcceleratorError for most of them, a plain RuntimeError for those of cuDNN and cuBLAS.
_DEAD_DEVICE = ("cuda error", "cuda driver error", "device-side assert", "cudnn_status", "cublas_")


def forbid_remote_code() -> None:
    """Tells diffusers, which reads it when imported: in a replica, just afterwards."""
    os.environ["DIFFUSERS_DISABLE_REMOTE_CODE"] = "true"


def hide_progress_bars() -> None:
    """A replica's log is no terminal: bars of loading arrive there as thousands of characters."""
    import transformers

    transformers.utils.logging.disable_progress_bar()


def pick_device(name: str) -> "torch.device":
    """`auto` is the GPU if torch sees one.

    Raises:
        ValueError: `cuda` where there is none.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise ValueError("field 'device' is 'cuda': torch sees no GPU here; use 'auto' or 'cpu'")
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")


def pick_dtype(name: str, device: "torch.device") -> "torch.dtype":
    """`auto` is bfloat16 on a GPU and float32, said explicitly, on a CPU: checkpoints are fp16."""
    import torch

    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


@contextmanager
def watch_device() -> Iterator[None]:
    """Turns an error that the device does not recover from into EngineDeadError.

    Running out of memory is none of them: what the failed call held is freed, the error leaves as
    it is, and a smaller batch may fit.
    """
    import torch

    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            # The frames of the failed call hold its tensors for as long as the error is looked at.
            traceback.clear_frames(error.__traceback__)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise
        text = str(error).lower()
        if isinstance(error, torch.AcceleratorError) or any(mark in text for mark in _DEAD_DEVICE):
            raise EngineDeadError(f"the device failed: {error}") from error
        raise
