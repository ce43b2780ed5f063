"""How vLLM serves a language model, apart from which one, how long it answers and how it samples.

Limits: keys and checks only; nothing here imports vllm. What does not fit the model or the memory
is found when the engine starts. Pictures per prompt are no key: a captioner reads one, an author
none, and the engine is told so.
"""

from dataclasses import dataclass
from typing import Any

from actors.backends.hf_config import ORDERS
from actors.validation import check_choice, check_range


@dataclass(frozen=True, kw_only=True)
class VllmEngineConfig:
    """Options of the engine `vllm`."""

    # tokens of prompt, picture and answer together; a longer prompt becomes an error row. null: as
    # many as the model has positions, and for each of them memory must be left
    max_model_len: int | None = None
    # rows that are answered at once; further ones wait in the engine. The pool must send as many:
    # batch_size x calls_per_replica rows are with it
    max_num_seqs: int = 256
    # share of the GPU that the engine may fill with weights and cache, of the whole of it even
    # where several replicas share one: then the shares of all must stay below 1
    gpu_memory_utilization: float = 0.9
    # bytes of the cache of keys and values. null: what gpu_memory_utilization leaves; without a GPU
    # 1 GiB, for the share would be one of the machine's memory
    kv_cache_bytes: int | None = None
    # GPUs that share the weights of one replica; `num_gpus` of its pool must be the same number, or
    # at most 1 where it is 1
    tensor_parallel_size: int = 1
    # true: starts sooner (nothing is compiled or captured) and decodes slower
    enforce_eager: bool = False
    # keeps what was computed for the beginnings of prompts. Of use where they are long and the same
    # for all rows: to a captioner with prompt_order text_first, to an author always
    has_prefix_cache: bool = True
    # text_first puts the instruction before the picture, so that the cache holds it once. Refused
    # where the model's chat template puts pictures first whatever the order, as LLaVA's does. The
    # model reads another prompt, so it may answer otherwise: this is recorded
    prompt_order: str = "image_first"

    def __post_init__(self) -> None:
        if self.max_model_len is not None:
            check_range("max_model_len", self.max_model_len, 16, 10_000_000)
        check_range("max_num_seqs", self.max_num_seqs, 1, 65_536)
        check_range("gpu_memory_utilization", self.gpu_memory_utilization, 0.01, 1.0)
        if self.kv_cache_bytes is not None:
            check_range("kv_cache_bytes", self.kv_cache_bytes, 1 << 20, 1 << 50)
        check_range("tensor_parallel_size", self.tensor_parallel_size, 1, 64)
        check_choice("prompt_order", self.prompt_order, ORDERS)

    def sampling_params(self) -> dict[str, Any]:
        """What decides the answer, and whether it becomes a row."""
        return {"prompt_order": self.prompt_order, "max_model_len": self.max_model_len}
