"""Describes images, and writes texts, with vLLM: rows are answered as they come, side by side.

The engine runs in processes of its own and batches by itself (continuous batching): it takes calls
from several threads at once (`calls_per_replica` of its pool), and begins with a row as soon as
another one has ended. Prompt and picture are what the transformers backend sends: the model's own
chat template, and a picture that actors/images.py has decoded. Each row samples with its own
rng_seed, so its text does not depend on its neighbours.
Limits: logits carry float noise from batch to batch, so a near tie may still fall the other way;
equal rng_seeds choose other tokens than in the transformers backend; a cut answer loses a last
character of which only some bytes came. Out of memory in vLLM is the end of its process: it is
told as a dead engine, not as a batch that was too large. Linux only.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Coroutine
from importlib.util import find_spec
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from PIL import Image

from actors.backends.chat import check_text_first, load_processor, plain_text, question, render
from actors.backends.vllm_folder import readable_folder
from actors.backends.vllm_processes import EngineProcesses
from actors.engines import Answer, EngineDeadError
from actors.isolation import is_out_of_memory
from actors.models import fetch_model, resolve_model
from actors.reasons import Reason, RowError

if TYPE_CHECKING:
    from actors.language_model import LanguageModelConfig

_logger = logging.getLogger(__name__)

# Set only where the user has not; read by vLLM, here and in the processes it starts.
ENVIRONMENT: Final = {
    # The folder is on this disk by now: nothing is looked up, nothing is told to anyone.
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # Without a GPU vLLM binds the threads of every engine of a machine to the same first cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # Naming a process would overwrite its environment, by which the reaper knows it.
    "SPT_NOENV": "1",
}
CPU_KV_CACHE_BYTES: Final = 1 << 30

Result = TypeVar("Result")


class VllmEngine:
    """A CaptionEngine, or a TextEngine, over one vLLM engine started here; thread-safe.

    Args:
        has_images: a captioner's prompts hold one picture, an author's none; what only pictures
            need is then not loaded.

    Raises:
        ValueError: the model is another one, or its template, or this machine, does not allow what
            the config asks for.
        RuntimeError: the engine did not start; with the first error that its processes logged.
    """

    def __init__(
        self,
        config: "LanguageModelConfig",
        expected_digest: str | None = None,
        *,
        has_images: bool,
    ) -> None:
        started = time.perf_counter()
        if find_spec("vllm") is None:
            raise ValueError(
                "field 'backend' is 'vllm', which is not installed here: install the extra "
                "pairloom[vllm] on the nodes of this pool, or take 'hf_mllm'"
            )
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._config = config
        folder, _ = fetch_model(
            resolve_model(config.model, "llava"), expected_digest=expected_digest
        )
        self._processor = load_processor(folder)
        self._tokenizer = getattr(self._processor, "tokenizer", self._processor)
        if has_images and config.vllm.prompt_order == "text_first":
            check_text_first(self._processor)
        # A fast tokenizer panics ("Already borrowed") when two threads use it at once.
        self._tokenizer_lock = threading.Lock()
        self._num_requests = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True).start()
        self.processes = EngineProcesses()
        try:
            self._engine = self._start(folder, has_images)
            # Of the model's own generation config greedy search obeys this; transformers does too.
            own = self._engine.model_config.get_diff_sampling_param()
            self._repetition_penalty = own.get("repetition_penalty", 1.0)
        except BaseException:
            self.processes.close()
            raise
        _logger.info("vLLM started in %.0f s", time.perf_counter() - started)

    def describe(
        self, images: list[Image.Image], instruction: str, rng_seeds: list[int]
    ) -> list[Answer | RowError]:
        content = question(instruction, self._config.vllm.prompt_order, None)
        ids = self._to_ids(render(self._processor, content))
        prompts = [
            {"prompt_token_ids": ids, "multi_modal_data": {"image": image}} for image in images
        ]
        return self._answer_all(prompts, rng_seeds)

    def write(self, prompts: list[str], rng_seeds: list[int]) -> list[Answer | RowError]:
        rendered = [
            render(self._processor, plain_text(self._processor, prompt)) for prompt in prompts
        ]
        ids = [{"prompt_token_ids": self._to_ids(text)} for text in rendered]
        return self._answer_all(ids, rng_seeds)

    def close(self) -> None:
        """Ends the engine and its processes; a replica's end does the same."""
        engine, self._engine = self._engine, None  # else it shuts down again at the very end
        engine.shutdown(timeout=0)
        self.processes.close()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _to_ids(self, text: str) -> list[int]:
        # As transformers does it: most templates hold the first token themselves.
        begins = self._tokenizer.bos_token
        has_begun = begins is not None and text.startswith(begins)
        with self._tokenizer_lock:
            return self._tokenizer(text, add_special_tokens=not has_begun)["input_ids"]

    def _start(self, folder: Path, has_images: bool) -> Any:
        resource_tracker.ensure_running()  # unmarked: it is this process's, not the engine's
        try:
            with (
                readable_folder(folder, self.processes.folder) as readable,
                self.processes.marked(),
            ):
                return self._run(self._build(readable, has_images))
        except Exception as error:
            cause = self.processes.cause()
            if not cause or isinstance(error, ValueError):
                raise
            raise RuntimeError(f"vLLM did not start: {cause}") from error

    async def _build(self, folder: Path, has_images: bool) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        return AsyncLLM.from_engine_args(AsyncEngineArgs(**self._engine_args(folder, has_images)))

    def _engine_args(self, folder: Path, has_images: bool) -> dict[str, Any]:
        from vllm.config.logging import LoggingConfig
        from vllm.platforms import current_platform

        config, options = self._config, self._config.vllm
        is_cpu = current_platform.is_cpu()
        if config.device != "auto" and (config.device == "cpu") != is_cpu:
            raise ValueError(
                f"field 'device' is {config.device!r}: this vLLM is built for "
                f"{current_platform.device_type!r}; take 'auto', or install the other build"
            )
        kv_cache_bytes = options.kv_cache_bytes or (CPU_KV_CACHE_BYTES if is_cpu else None)
        args: dict[str, Any] = {
            "model": str(folder),
            "trust_remote_code": False,
            "load_format": "safetensors",
            # As in the transformers backend: checkpoints are float16, which a CPU is slow at.
            "dtype": {"auto": "float32" if is_cpu else "bfloat16"}.get(config.dtype, config.dtype),
            "max_num_seqs": options.max_num_seqs,
            "gpu_memory_utilization": options.gpu_memory_utilization,
            "kv_cache_memory_bytes": kv_cache_bytes,
            "tensor_parallel_size": options.tensor_parallel_size,
            "enforce_eager": options.enforce_eager,
            "enable_prefix_caching": options.has_prefix_cache,
            # Pictures do not come twice; 4 GB of host memory by default.
            "mm_processor_cache_gb": 0,
            "disable_log_stats": True,
            "logging_config": LoggingConfig(pylogging_config_file=self.processes.logging_file()),
        }
        if options.tensor_parallel_size > 1:
            # Inside a Ray actor vLLM would ask Ray for more actors; the GPUs are this replica's.
            args["distributed_executor_backend"] = "mp"
        if options.max_model_len is not None:
            args["max_model_len"] = options.max_model_len
        if has_images:
            args["limit_mm_per_prompt"] = {"image": 1, "video": 0}
        else:
            args["language_model_only"] = True
        return args

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _answer_all(
        self, prompts: list[dict[str, Any]], rng_seeds: list[int]
    ) -> list[Answer | RowError]:
        async def answer_all() -> list[Answer | RowError]:
            answers = map(self._answer, prompts, rng_seeds)
            # All are waited for: one that went on by itself would be in the way of the next try.
            settled = await asyncio.gather(*answers, return_exceptions=True)
            for each in settled:
                if isinstance(each, BaseException) and not isinstance(each, RowError):
                    raise each
            return settled

        return self._run(answer_all())

    async def _answer(self, prompt: dict[str, Any], rng_seed: int) -> Answer | RowError:
        """The text, or why this row has none; a fault that may pass is tried twice."""
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine import exceptions

        failure = ""
        for _ in range(2):
            try:
                output = await self._generate(prompt, rng_seed)
            except exceptions.EngineDeadError as error:
                raise self._dead() from error
            except VLLMClientError as error:  # a prompt that is too long, say
                return RowError(Reason.ENGINE_ERROR, str(error))
            except exceptions.EngineGenerateError as error:
                cause = error.__cause__ or error
                if is_out_of_memory(cause):
                    raise cause from None  # of this process: fewer rows at once may fit
                failure = f"{type(cause).__name__}: {cause}"
            else:
                if output.finish_reason in ("stop", "length"):
                    return Answer(text=output.text, finish_reason=output.finish_reason)
                failure = f"vLLM ended the answer with {output.finish_reason!r}"
        return RowError(Reason.ENGINE_ERROR, failure)

    async def _generate(self, prompt: dict[str, Any], rng_seed: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        config = self._config
        params = SamplingParams(
            max_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            seed=rng_seed,
            stop=list(config.stop_strings),
            repetition_penalty=self._repetition_penalty,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._num_requests += 1
        name = str(self._num_requests)
        async for result in self._engine.generate(prompt, params, name):
            if result.finished:
                return result.outputs[0]
        raise self._dead()

    def _dead(self) -> EngineDeadError:
        manager = self._engine.engine_core.resources.engine_manager
        codes = [each.exitcode for each in manager.processes] if manager else []
        cause = self.processes.cause() or (
            f"no error was logged, its exit code is {codes}: killed, perhaps for memory"
        )
        return EngineDeadError(f"vLLM's engine died: {cause}")
