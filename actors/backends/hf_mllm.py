"""Describes images, and writes texts, with an image-text-to-text model of transformers.

The model's own processor and chat template build the prompt; answers are decoded without it.
Sampling is done by the Gumbel-max trick: each row adds noise from its own CPU generator to the
logits and takes the largest, so that the text of an rng_seed does not depend on its neighbours.
(Drawing by inverse CDF costs less, but there a small error early in the vocabulary moves every
later boundary; Gumbel noise changes a token only where two are nearly equal.)
Limits: logits carry float noise from batch to batch, so a near tie may still fall the other way; no
beam search, no video. The noise costs .1 ms a row and token at a vocabulary of 32k, on one core.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList

from actors.backends.devices import hide_progress_bars, pick_device, pick_dtype, watch_device
from actors.models import fetch_model, resolve_model

if TYPE_CHECKING:
    from actors.language_model import LanguageModelConfig


class GumbelSampler(LogitsProcessor):
    """Adds each row's own Gumbel noise to logits / temperature: the argmax is then a sample."""

    def __init__(self, rng_seeds: list[int], temperature: float, top_p: float) -> None:
        self._generators = [torch.Generator("cpu").manual_seed(rng_seed) for rng_seed in rng_seeds]
        self._temperature = temperature
        self._top_p = top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logits = scores.float() / self._temperature
        if self._top_p < 1.0:
            logits = _keep_nucleus(logits, self._top_p)
        # rand, as it takes a seventh of exponential_'s time (a row of 152k tokens: .5 ms, not 3);
        # the logarithms are left to the device.
        draws = torch.stack(
            [torch.rand(logits.shape[-1], generator=each) for each in self._generators]
        )
        waits = -torch.log1p(-draws.to(logits.device))
        # -log of an exponential wait is a Gumbel variable; a wait of 0 would be an infinite one.
        return logits - waits.clamp_min(2.0**-25).log()


def _keep_nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Masks all but the smallest set of tokens that holds `top_p` of the probability."""
    ordered, indices = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    is_out = probabilities.cumsum(dim=-1) - probabilities >= top_p
    mask = torch.zeros_like(is_out).scatter(-1, indices, is_out)
    return logits.masked_fill(mask, float("-inf"))


class HfMllmEngine:
    """A CaptionEngine and a TextEngine over one model, loaded by the constructor."""

    def __init__(self, config: "LanguageModelConfig", expected_digest: str | None = None) -> None:
        device = pick_device(config.device)
        source = resolve_model(config.model, "llava")
        folder, _ = fetch_model(source, expected_digest=expected_digest)
        self._config = config
        self._processor, self._model = _load(folder, pick_dtype(config.dtype, device))
        self._model.to(device)
        self._model.generation_config = _greedy(self._model.generation_config, self._processor)

    def describe(
        self, images: list[Image.Image], instruction: str, rng_seeds: list[int]
    ) -> list[str]:
        question = {"type": "text", "text": instruction}
        return self._answer(
            [[{"type": "image", "image": image}, question] for image in images], rng_seeds
        )

    def write(self, prompts: list[str], rng_seeds: list[int]) -> list[str]:
        return self._answer([[{"type": "text", "text": prompt}] for prompt in prompts], rng_seeds)

    def _answer(self, contents: list[list[dict[str, Any]]], rng_seeds: list[int]) -> list[str]:
        config = self._config
        inputs = self._processor.apply_chat_template(
            [[{"role": "user", "content": content}] for content in contents],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        samplers = LogitsProcessorList()
        if config.temperature > 0:
            samplers.append(GumbelSampler(rng_seeds, config.temperature, config.top_p))
        with watch_device(), torch.no_grad():
            inputs = inputs.to(self._model.device, dtype=self._model.dtype)  # ids stay integers
            tokens = self._model.generate(
                **inputs, max_new_tokens=config.max_new_tokens, logits_processor=samplers
            )
        answers = tokens[:, inputs["input_ids"].shape[1] :].cpu()
        return self._processor.batch_decode(answers, skip_special_tokens=True)


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    hide_progress_bars()
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    _try_template(folder, processor)
    # The answer has to follow the prompt directly, so short prompts are filled up in front.
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    model = AutoModelForImageTextToText.from_pretrained(
        str(folder),
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    return processor, model.eval()


def _try_template(folder: Path, processor: Any) -> None:
    """Renders the chat template once, in the library's sandbox: one that is missing, broken or
    reaches for Python would fail every row of the run.
    """
    message = {"role": "user", "content": [{"type": "text", "text": "Hello."}]}
    try:
        processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    except Exception as error:
        raise ValueError(
            f"model folder {str(folder)!r} has no chat template that can be used: "
            f"{type(error).__name__}: {error}"
        ) from error


def _greedy(own: Any, processor: Any) -> Any:
    """The model's own generation config without its sampling: that is the sampler's part."""
    config = copy.deepcopy(own)
    config.update(
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        max_length=None,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    if config.eos_token_id is None:
        config.eos_token_id = processor.tokenizer.eos_token_id
    return config
