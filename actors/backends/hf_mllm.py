"""Describes images, and writes texts, with an image-text-to-text model of transformers; a model of
texts alone only writes.

The model's own processor resizes each picture once, to the model's grid, and its chat template
builds the prompt; both happen in `preprocess`, which a replica calls on a thread of its own while
the device works. Sampling is by a noise of each row (gumbel.py), so that the text of an rng_seed
does not depend on its neighbours.
Limits: logits carry float noise from batch to batch, so a near tie may still fall the other way; no
beam search, no video, no prefix cache: `text_first` is for engines that have one.
"""

import copy
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from transformers import LogitsProcessorList

from actors.backends.chat import (
    check_text_first,
    has_pictures,
    load_processor,
    plain_text,
    question,
    tokenizer_of,
)
from actors.backends.devices import hide_progress_bars, pick_device, pick_dtype, watch_device
from actors.backends.gumbel import GumbelSampler
from actors.engines import Answer
from actors.models import fetch_model, resolve_model

if TYPE_CHECKING:
    from actors.language_model import LanguageModelConfig


class HfMllmEngine:
    """A CaptionEngine that preprocesses, and a TextEngine, over one model, loaded by the
    constructor.

    `parts`, a processor and a model on its device, are taken as they are if they are given: the
    benchmarks ask random weights that no folder holds.

    Raises:
        ValueError: the model is another one, or its template or processor does not allow what the
            config asks for.
    """

    def __init__(
        self,
        config: "LanguageModelConfig",
        expected_digest: str | None = None,
        parts: tuple[Any, Any] | None = None,
    ) -> None:
        self._config = config
        self._processor, self._model = parts or _fetch(config, expected_digest)
        # A fast tokenizer panics ("Already borrowed") when it is set up to pad on one thread while
        # it decodes on another: answers have a copy, and whoever tokenizes waits for his turn.
        self._tokenizer = copy.deepcopy(tokenizer_of(self._processor))
        self._processor_lock = threading.Lock()
        if config.role == "describe" and not has_pictures(self._processor):
            raise ValueError(
                f"field 'model' is {config.model!r}: it reads no pictures, so it can only be an "
                "author; take an image-text-to-text model"
            )
        self._images_kwargs = _size_kwargs(self._processor, config.hf_mllm.max_image_px)
        if config.hf_mllm.prompt_order == "text_first":
            check_text_first(self._processor)
        self._model.generation_config = _greedy(self._model.generation_config, self._processor)

    def describe(
        self, images: list[Image.Image], instruction: str, rng_seeds: list[int]
    ) -> list[Answer]:
        return self.describe_preprocessed(self.preprocess(images, instruction), rng_seeds)

    def preprocess(self, images: list[Image.Image], instruction: str) -> dict[str, torch.Tensor]:
        """Everything the CPU does for a batch; pinned where a GPU will fetch it."""
        order = self._config.hf_mllm.prompt_order
        return self._tokenize([question(instruction, order, image) for image in images])

    def describe_preprocessed(
        self, inputs: dict[str, torch.Tensor], rng_seeds: list[int]
    ) -> list[Answer]:
        return self._answer(inputs, rng_seeds)

    def write(self, prompts: list[str], rng_seeds: list[int]) -> list[Answer]:
        contents = [plain_text(self._processor, prompt) for prompt in prompts]
        return self._answer(self._tokenize(contents), rng_seeds)

    def _tokenize(self, contents: list[Any]) -> dict[str, torch.Tensor]:
        options: dict[str, Any] = {"padding": True}
        if has_pictures(self._processor):
            has_images = any(part["type"] == "image" for content in contents for part in content)
            images = {"images_kwargs": self._images_kwargs} if has_images else {}
            options = {"processor_kwargs": options | images}
        with self._processor_lock:
            inputs = self._processor.apply_chat_template(
                [[{"role": "user", "content": content}] for content in contents],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                **options,
            )
        pixels = {name: each for name, each in inputs.items() if each.is_floating_point()}
        inputs = dict(inputs) | {name: each.to(self._model.dtype) for name, each in pixels.items()}
        is_gpu = self._model.device.type == "cuda"
        return {name: each.pin_memory() if is_gpu else each for name, each in inputs.items()}

    def _answer(self, inputs: dict[str, torch.Tensor], rng_seeds: list[int]) -> list[Answer]:
        config = self._config
        options: dict[str, Any] = {}
        if config.temperature > 0:
            sampler = GumbelSampler(rng_seeds, config.temperature, config.top_p)
            options["logits_processor"] = LogitsProcessorList([sampler])
        if config.hf_mllm.kv_cache == "static":
            options["cache_implementation"] = "static"
        if config.stop_strings:
            options["stop_strings"] = list(config.stop_strings)
            options["tokenizer"] = self._tokenizer
        device = self._model.device
        with watch_device(), torch.no_grad():
            moved = {name: each.to(device, non_blocking=True) for name, each in inputs.items()}
            tokens = self._model.generate(**moved, max_new_tokens=config.max_new_tokens, **options)
            answers = tokens[:, inputs["input_ids"].shape[1] :].cpu()
        texts = self._tokenizer.batch_decode(answers, skip_special_tokens=True)
        end = self._model.generation_config.eos_token_id
        ends = torch.as_tensor([] if end is None else end)  # without one all are cut
        has_ended = torch.isin(answers, ends).any(dim=1).tolist()
        return [_cut(*each, config.stop_strings) for each in zip(texts, has_ended, strict=True)]


def _cut(text: str, has_ended: bool, stop_strings: list[str]) -> Answer:
    """The text before the first stop string: `generate` ends a row after it."""
    first = min((text.find(each) for each in stop_strings if each in text), default=None)
    is_stopped = has_ended or first is not None
    return Answer(text=text[:first], finish_reason="stop" if is_stopped else "length")


def _fetch(config: "LanguageModelConfig", expected_digest: str | None) -> tuple[Any, Any]:
    device = pick_device(config.device)
    source = resolve_model(config.model, "llava")
    folder, _ = fetch_model(source, expected_digest=expected_digest)
    processor, model = _load(folder, pick_dtype(config.dtype, device))
    return processor, model.to(device)


def _size_kwargs(processor: Any, max_image_px: int) -> dict[str, Any]:
    """What makes the image processor resize once, and to no more than that many pixels."""
    if max_image_px == 0:
        return {}
    images = getattr(processor, "image_processor", None)
    size = dict(getattr(images, "size", None) or {})
    # Qwen-VL and its like count pixels, in keys that sound like edges; LLaVA has one size.
    if not {"shortest_edge", "longest_edge"} <= size.keys() or size["longest_edge"] < 56**2:
        raise ValueError(
            f"field 'max_image_px' is {max_image_px}: this model reads every picture at "
            f"{size or 'one size'}; take 0"
        )
    longest = min(max_image_px**2, size["longest_edge"])
    return {"size": {"shortest_edge": min(size["shortest_edge"], longest), "longest_edge": longest}}


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    hide_progress_bars()
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    processor = load_processor(folder)
    tokenizer = tokenizer_of(processor)
    # The answer has to follow the prompt directly, so short prompts are filled up in front.
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    auto = AutoModelForImageTextToText if has_pictures(processor) else AutoModelForCausalLM
    model = auto.from_pretrained(
        str(folder),
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    return processor, model.eval()


def _greedy(own: Any, processor: Any) -> Any:
    """The model's own generation config without its sampling: that is the sampler's part."""
    config, tokenizer = copy.deepcopy(own), tokenizer_of(processor)
    config.update(
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        max_length=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    if config.eos_token_id is None:
        config.eos_token_id = tokenizer.eos_token_id
    return config
