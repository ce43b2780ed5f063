import weakref

import pytest
import torch

from actors.backends.devices import pick_device, pick_dtype, watch_device
from actors.engines import EngineDeadError


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"),
    ],
)
def test_a_failure_of_the_device_is_the_end_of_the_engine(error: RuntimeError) -> None:
    with pytest.raises(EngineDeadError, match="the device failed"), watch_device():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        ValueError("bad prompt"),
    ],
)
def test_other_failures_leave_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, watch_device():
        raise error
    assert caught.value is error


def test_what_a_call_that_ran_out_of_memory_held_is_freed() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def call() -> None:
        tensor = torch.zeros(8)
        held.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError) as caught, watch_device():
        call()
    assert caught.value.__traceback__ is not None  # still looked at, as the log's traceback is
    assert held[0]() is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_auto_is_the_cpu_in_float32_and_cuda_is_refused() -> None:
    device = pick_device("auto")
    assert device.type == "cpu"
    assert pick_dtype("auto", device) == torch.float32
    assert pick_dtype("bfloat16", device) == torch.bfloat16
    with pytest.raises(ValueError, match="torch sees no GPU"):
        pick_device("cuda")


def test_auto_on_a_gpu_is_bfloat16() -> None:
    assert pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
