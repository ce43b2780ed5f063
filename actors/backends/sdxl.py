"""Draws with any `StableDiffusionXLPipeline`: the embedded 64 px model or a full-size checkpoint.

The noise of a row comes from its own CPU generator, so that an rng_seed means the same latents on
every device and in any batch. The pipelines run unmodified from embeddings to latents, both halves
of the guidance in one call of the UNet; texts, decoding and preparation have modules of their own
(sdxl_text, sdxl_vae, sdxl_load).
Limits: the pixels of one rng_seed differ in their last bits between batch sizes and devices.
Schedulers that add noise at every step draw it in the UNet's dtype, so it differs between dtypes.
"""

import logging
from typing import TYPE_CHECKING, Any

import torch

from actors.backends.devices import watch_device
from actors.backends.sdxl_load import SdxlPipes, load_pipes
from actors.backends.sdxl_text import PromptEncoder
from actors.backends.sdxl_vae import Decoder
from actors.engines import Drawn

if TYPE_CHECKING:
    from actors.text_to_image import TextToImageConfig


class SdxlEngine:
    """An ImageEngine over a base pipeline and maybe a refiner, loaded by the constructor.

    `pipes` are taken as they are if they are given (prepared by `sdxl_load.prepare_pipes`): the
    benchmarks draw with random weights that no folder holds.
    """

    def __init__(
        self,
        config: "TextToImageConfig",
        expected_digest: str | None = None,
        pipes: SdxlPipes | None = None,
    ) -> None:
        self._config = config
        self._pipes = pipes or load_pipes(config, expected_digest)
        base = self._pipes.base
        self._decode = Decoder(base.vae, config.sdxl.vae_batch)
        self._encoders = [PromptEncoder(pipe) for pipe in self._pipes.all()]
        self._largest_batch = 0  # that was drawn, where batches are filled up
        # It warns of every prompt it cuts; here that is a column.
        for pipe in self._pipes.all():
            logging.getLogger(type(pipe).__module__).setLevel(logging.ERROR)

    def draw(self, prompts: list[str], rng_seeds: list[int]) -> list[Drawn]:
        size = len(prompts)
        num_missing = max(self._largest_batch - size, 0)
        # Forgotten unless this call succeeds: a batch halved for want of memory stays halved.
        largest, self._largest_batch = self._largest_batch, 0
        with watch_device():
            latents = self._denoise(
                prompts + prompts[:1] * num_missing, rng_seeds + rng_seeds[:1] * num_missing
            )
            drawn = self._decode(latents[:size], [self._is_truncated(each) for each in prompts])
        if self._config.sdxl.compile != "none":
            # A smaller batch is filled up: compiling for one more size costs minutes.
            self._largest_batch = max(largest, size)
        return drawn

    def _denoise(self, prompts: list[str], rng_seeds: list[int]) -> torch.Tensor:
        config, options = self._config, self._config.sdxl
        base, refiner = self._pipes.base, self._pipes.refiner
        generators = [torch.Generator("cpu").manual_seed(rng_seed) for rng_seed in rng_seeds]
        shared: dict[str, Any] = {
            "num_inference_steps": config.num_steps,
            "guidance_scale": config.guidance_scale,
            "generator": generators,  # for schedulers that add noise at every step
            "output_type": "latent",
        }
        noise = self._noise(generators)
        latents = base(
            **shared,
            **self._condition(0, prompts),
            width=config.width_px,
            height=config.height_px,
            latents=noise.to(base.unet.device, base.unet.dtype),
            denoising_end=None if refiner is None else options.refiner_start,
        ).images
        if refiner is None:
            return latents
        return refiner(
            **shared,
            **self._condition(1, prompts),
            image=latents,
            denoising_start=options.refiner_start,
        ).images

    def _condition(self, expert: int, prompts: list[str]) -> dict[str, torch.Tensor]:
        config = self._config
        return self._encoders[expert].condition(
            prompts, config.negative_prompt, config.guidance_scale
        )

    def _noise(self, generators: list[torch.Generator]) -> torch.Tensor:
        """Float32 [n, channels, height / 8, width / 8], row by row."""
        pipe, config = self._pipes.base, self._config
        scale = pipe.vae_scale_factor
        shape = (
            pipe.unet.config.in_channels,
            config.height_px // scale,
            config.width_px // scale,
        )
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators])

    def _is_truncated(self, prompt: str) -> bool:
        tokenizers: list[Any] = [self._pipes.base.tokenizer, self._pipes.base.tokenizer_2]
        return any(
            len(tokenizer(prompt, verbose=False).input_ids) > tokenizer.model_max_length
            for tokenizer in tokenizers
            if tokenizer is not None
        )
