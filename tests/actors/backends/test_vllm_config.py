"""The options of the engine `vllm`, and what is recorded of them; needs no vLLM."""

from collections.abc import Callable

import pytest

from actors.backends.vllm_config import VllmEngineConfig
from actors.image_to_text import ImageToTextConfig


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: VllmEngineConfig(max_model_len=8), "'max_model_len' is 8"),
        (lambda: VllmEngineConfig(max_num_seqs=0), "'max_num_seqs' is 0"),
        (lambda: VllmEngineConfig(gpu_memory_utilization=1.1), "'gpu_memory_utilization' is 1.1"),
        (lambda: VllmEngineConfig(kv_cache_bytes=1000), "'kv_cache_bytes' is 1000"),
        (lambda: VllmEngineConfig(tensor_parallel_size=0), "'tensor_parallel_size' is 0"),
        (lambda: VllmEngineConfig(prompt_order="text"), "did you mean 'text_first'"),
        (lambda: ImageToTextConfig(backend="vllm", temperature=2.5), "vLLM takes at most 2"),
        (lambda: ImageToTextConfig(backend="vlm"), "did you mean 'vllm'"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_options_that_decide_the_answer_are_recorded_and_no_others() -> None:
    def recorded(backend: str = "vllm", **options: object) -> object:
        vllm = VllmEngineConfig(**options)
        return ImageToTextConfig(backend=backend, vllm=vllm).sampling_params()

    plain = recorded()
    assert recorded(prompt_order="text_first") != plain
    assert recorded(max_model_len=512) != plain
    faster = {"max_num_seqs": 8, "enforce_eager": True, "kv_cache_bytes": 1 << 30}
    assert recorded(**faster, tensor_parallel_size=2, has_prefix_cache=False) == plain
    assert recorded("hf_mllm") == ImageToTextConfig().sampling_params() != plain
    assert ImageToTextConfig(temperature=5.0).temperature == 5.0  # transformers takes it
