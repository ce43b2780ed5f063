"""The VAE in half precision: the same function of smaller numbers, and no NaN is shown as black."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from actors.backends.sdxl_vae import SHRINK, Decoder, prepare_vae, shrink_decoder
from actors.images import image_from_floats
from actors.scenes.defaults import EMBEDDED_MODELS


@pytest.fixture
def vae(sdxl_folder: Path) -> Any:
    return AutoencoderKL.from_pretrained(sdxl_folder / "vae", dtype=torch.float32).eval()


def _latents(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def _largest(vae: Any, latents: torch.Tensor) -> float:
    """The largest activation between the first and the last convolution."""
    found = [0.0]
    handles = [
        module.register_forward_hook(lambda _, __, out: found.append(float(out.abs().max())))
        for name, module in vae.decoder.named_modules()
        if type(module).__name__ in ("ResnetBlock2D", "Attention", "Upsample2D")
    ]
    with torch.no_grad():
        vae.decode(latents)
    for handle in handles:
        handle.remove()
    return max(found)


@pytest.mark.parametrize("source", ["random", "embedded"])
@torch.no_grad()
def test_a_shrunk_decoder_is_the_same_function_of_smaller_numbers(vae: Any, source: str) -> None:
    if source == "embedded":
        folder = EMBEDDED_MODELS["sdxl"] / "vae"
        vae = AutoencoderKL.from_pretrained(folder, dtype=torch.float32)
    shrunk = copy.deepcopy(vae)
    shrink_decoder(shrunk)
    latents = _latents()
    assert torch.equal(vae.decode(latents).sample, shrunk.decode(latents).sample)
    assert _largest(shrunk, latents) == pytest.approx(SHRINK * _largest(vae, latents), rel=1e-6)


@torch.no_grad()
def _grown(vae: Any, factor: float) -> Any:
    """A VAE whose activations overflow in half precision, as those of SDXL do."""
    shrink_decoder(vae, factor)  # by more than 1: it grows
    return vae


def test_a_vae_that_overflows_in_float16_draws_the_picture_of_float32(vae: Any) -> None:
    grown = _grown(vae, 2.0**18)
    latents = _latents()
    with torch.no_grad():
        naive = copy.deepcopy(grown).half().decode(latents.half()).sample
    assert not torch.isfinite(naive).all(), "the naive cast is what this is about"
    exact = Decoder(copy.deepcopy(grown), 2)(latents, [False, True])
    prepare_vae(grown, torch.float16)
    decoder = Decoder(grown, 1)
    half = decoder(latents, [False, True])
    assert [each.is_prompt_truncated for each in half] == [False, True]
    for ours, theirs in zip(half, exact, strict=True):
        difference = np.asarray(ours.image).astype(int) - np.asarray(theirs.image).astype(int)
        assert np.abs(difference).max() <= 2
    assert decoder._vae.dtype == torch.float16


def test_what_overflows_all_the_same_is_decoded_in_float32(vae: Any) -> None:
    grown = _grown(vae, 2.0**18)
    exact = Decoder(copy.deepcopy(grown), 2)(_latents(), [False] * 2)
    grown.half()  # as if shrinking had not been enough
    half = Decoder(grown, 2)
    drawn = half(_latents(), [False] * 2)
    for ours, theirs in zip(drawn, exact, strict=True):
        difference = np.asarray(ours.image).astype(int) - np.asarray(theirs.image).astype(int)
        assert np.abs(difference).max() <= 2
    assert half._vae.dtype == torch.float16


def test_bytes_made_on_the_device_are_those_of_the_pipeline(vae: Any) -> None:
    from diffusers.image_processor import VaeImageProcessor

    latents = _latents(3)
    drawn = Decoder(vae, 3)(latents, [False] * 3)
    with torch.no_grad():
        floats = vae.decode(latents / vae.config.scaling_factor).sample
    expected = VaeImageProcessor().postprocess(floats, output_type="np")
    for ours, theirs in zip(drawn, expected, strict=True):
        assert ours.image is not None
        assert ours.image.tobytes() == image_from_floats(theirs).tobytes()
