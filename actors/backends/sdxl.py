"""Draws with any `StableDiffusionXLPipeline`: the embedded 64 px model or a full-size checkpoint.

The noise of a row comes from its own CPU generator in float32, so that an rng_seed means the same
latents on every device, in every dtype and in any batch. The pipeline runs unmodified up to the
latents; the VAE then decodes them in float32, one picture at a time: it overflows in half
precision, shows bands in bfloat16, and a batch of 1024 px pictures is its peak of memory.
Limits: base model only (no refiner, no LoRA); the pixels of one rng_seed differ in their last bits
between batch sizes and devices.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from actors.backends.devices import (
    forbid_remote_code,
    hide_progress_bars,
    pick_device,
    pick_dtype,
    watch_device,
)
from actors.engines import Drawn
from actors.images import image_from_floats
from actors.models import fetch_model, resolve_model
from actors.reasons import RowError

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

    from actors.text_to_image import TextToImageConfig

# Components live in folders of their own: the hub's all-in-one copies at the root, and a second
# set in fp16, would treble the download.
_HUB_PATTERNS = ("*/*.safetensors", "*/*.json", "*/*.txt", "model_index.json", "README.md")
_HUB_IGNORED = ("*.fp16.*", "*.non_ema.*")


class SdxlEngine:
    """An ImageEngine over one pipeline, loaded by the constructor."""

    def __init__(self, config: "TextToImageConfig", expected_digest: str | None = None) -> None:
        device = pick_device(config.device)
        folder, _ = fetch_model(
            resolve_model(config.model, "sdxl"),
            allowed=_HUB_PATTERNS,
            ignored=_HUB_IGNORED,
            expected_digest=expected_digest,
        )
        self._config = config
        self._pipe = _load(folder, pick_dtype(config.dtype, device)).to(device)
        # It warns of every prompt it cuts; here that is a column.
        logging.getLogger(type(self._pipe).__module__).setLevel(logging.ERROR)

    def draw(self, prompts: list[str], rng_seeds: list[int]) -> list[Drawn]:
        with watch_device():
            latents = self._denoise(prompts, rng_seeds)
            pixels = [self._decode(latent) for latent in latents.split(1)]
        return [
            self._to_drawn(array, self._is_truncated(prompt))
            for array, prompt in zip(pixels, prompts, strict=True)
        ]

    def _denoise(self, prompts: list[str], rng_seeds: list[int]) -> torch.Tensor:
        config, pipe = self._config, self._pipe
        generators = [torch.Generator("cpu").manual_seed(rng_seed) for rng_seed in rng_seeds]
        scale = pipe.vae_scale_factor
        shape = (
            pipe.unet.config.in_channels,
            config.height_px // scale,
            config.width_px // scale,
        )
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        output: Any = pipe(
            prompt=prompts,
            # None, not "": a model may want zeros there instead of an encoded empty text.
            negative_prompt=config.negative_prompt or None,
            num_inference_steps=config.num_steps,
            guidance_scale=config.guidance_scale,
            width=config.width_px,
            height=config.height_px,
            latents=noise.to(pipe.unet.dtype),
            generator=generators,  # for schedulers that add noise at every step
            output_type="latent",
        )
        return output.images

    @torch.no_grad()
    def _decode(self, latent: torch.Tensor) -> Any:
        """One picture as floats; what the pipeline does after its last step, in float32."""
        vae: Any = self._pipe.vae
        latent = latent.to(torch.float32)
        mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
        if mean is not None and std is not None:
            mean_1C11, std_1C11 = (latent.new_tensor(v).view(1, -1, 1, 1) for v in (mean, std))  # noqa: N806
            latent = latent * std_1C11 / vae.config.scaling_factor + mean_1C11
        else:
            latent = latent / vae.config.scaling_factor
        image = vae.decode(latent, return_dict=False)[0]
        # Clamps to [0, 1], which leaves NaN alone: image_from_floats finds it.
        processor: Any = self._pipe.image_processor
        return processor.postprocess(image, output_type="np")[0]

    def _to_drawn(self, pixels: Any, is_truncated: bool) -> Drawn:
        try:
            return Drawn(image=image_from_floats(pixels), is_prompt_truncated=is_truncated)
        except RowError as error:
            return Drawn(image=None, is_prompt_truncated=is_truncated, problem=error)

    def _is_truncated(self, prompt: str) -> bool:
        tokenizers: list[Any] = [self._pipe.tokenizer, self._pipe.tokenizer_2]
        return any(
            len(tokenizer(prompt, verbose=False).input_ids) > tokenizer.model_max_length
            for tokenizer in tokenizers
            if tokenizer is not None
        )


def _load(folder: Path, dtype: torch.dtype) -> "StableDiffusionXLPipeline":
    forbid_remote_code()
    import diffusers
    from diffusers import StableDiffusionXLPipeline

    hide_progress_bars()
    diffusers.utils.logging.disable_progress_bar()
    has_only_fp16 = not (folder / "unet" / "diffusion_pytorch_model.safetensors").exists() and any(
        folder.glob("unet/*.fp16.safetensors")
    )
    pipe = StableDiffusionXLPipeline.from_pretrained(
        str(folder),
        dtype={"default": dtype, "vae": torch.float32},
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        variant="fp16" if has_only_fp16 else None,
        add_watermarker=False,  # else the pixels would depend on which packages are installed
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
