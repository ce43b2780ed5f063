"""The embedded models as plain callables, loaded by the unmodified classes, to be measured.

Limits: apart from actors/backends on purpose. Those are tested against these models, so the numbers
of the models must not depend on them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from actors.scenes.defaults import (
    AUTHOR_PROMPT,
    DEFAULT_INSTRUCTION,
    GUIDANCE_SCALE,
    MAX_NEW_TOKENS,
    NUM_STEPS,
)

BATCH_SIZE = 50


def _batches(count: int) -> Iterator[slice]:
    return (slice(start, start + BATCH_SIZE) for start in range(0, count, BATCH_SIZE))


class Drawer:
    """Prompts to pictures, uint8 [n, 64, 64, 3]."""

    def __init__(self, folder: Path) -> None:
        pipe: Any = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        self._pipe = pipe

    def draw(
        self,
        prompts: Sequence[str],
        rng_seeds: Sequence[int],
        num_steps: int = NUM_STEPS,
        guidance_scale: float = GUIDANCE_SCALE,
    ) -> np.ndarray:
        made = []
        for part in _batches(len(prompts)):
            made += self._pipe(
                prompt=list(prompts[part]),
                generator=[torch.Generator().manual_seed(seed) for seed in rng_seeds[part]],
                num_inference_steps=num_steps,
                guidance_scale=guidance_scale,
            ).images
        return np.stack([np.asarray(image) for image in made])

    @torch.no_grad()
    def round_trip(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures through the autoencoder and back."""
        made = []
        for part in _batches(len(pictures)):
            pixels = torch.from_numpy(pictures[part]).permute(0, 3, 1, 2) / 127.5 - 1.0
            latents = self._pipe.vae.encode(pixels).latent_dist.mode()
            decoded = self._pipe.vae.decode(latents).sample.clamp(-1, 1)
            made.append(((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
        return np.concatenate(made)


class Describer:
    """Pictures to descriptions, and descriptions from nothing."""

    def __init__(self, folder: Path) -> None:
        self._processor: Any = AutoProcessor.from_pretrained(folder)
        self._model: Any = LlavaForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32
        ).eval()

    def prompt(self, instruction: str, has_image: bool = True) -> str:
        """What the model reads, before the image token is expanded."""
        parts = [{"type": "image"}] * has_image + [{"type": "text", "text": instruction}]
        conversation = [{"role": "user", "content": parts}]
        return self._processor.apply_chat_template(conversation, add_generation_prompt=True)

    @torch.no_grad()
    def _generate(self, inputs: Any, **options: Any) -> list[str]:
        made = self._model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, **options)
        answers = made[:, inputs["input_ids"].shape[1] :]
        texts = self._processor.batch_decode(answers, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def describe(self, pictures: np.ndarray, instruction: str = DEFAULT_INSTRUCTION) -> list[str]:
        """Greedy descriptions."""
        said: list[str] = []
        for part in _batches(len(pictures)):
            images = [Image.fromarray(picture) for picture in pictures[part]]
            prompts = [self.prompt(instruction)] * len(images)
            inputs = self._processor(images=images, text=prompts, return_tensors="pt")
            said += self._generate(inputs, do_sample=False)
        return said

    def write(self, count: int, rng_seed: int, temperature: float = 1.0) -> list[str]:
        """Sampled descriptions of pictures that do not exist."""
        torch.manual_seed(rng_seed)
        said: list[str] = []
        for part in _batches(count):
            prompts = [self.prompt(AUTHOR_PROMPT, has_image=False)] * len(range(count)[part])
            inputs = self._processor(text=prompts, return_tensors="pt")
            said += self._generate(inputs, do_sample=True, temperature=temperature, top_k=0)
        return said
