"""Decodes latents into pictures, in a dtype that cannot overflow; bytes are made on the device.

The decoder of SDXL overflows in half precision and gives NaN, which a cast shows as black. Three
dtypes are safe here: float32; bfloat16, whose range is that of float32; and float16 after
`shrink_decoder`, which makes the same function of smaller numbers. What is not finite all the same
is decoded once more in float32, and if that does not help it is an error and not a picture.
Limits: AutoencoderKL with group norms, as every SDXL has; no tiling, pictures are decoded whole.
"""

from typing import Any, Final

import torch
from PIL import Image

from actors.engines import Drawn
from actors.reasons import Reason, RowError

# 2^-7: a power of two moves no bit of a product; 65504 * 128 = 8.4e6 is then the largest activation
SHRINK: Final = 2.0**-7


def shrink_decoder(vae: Any, factor: float = SHRINK) -> None:
    """Scales every activation of the decoder between its first and its last convolution.

    The residual stream is linear in what flows in, and each branch begins with a group norm, which
    undoes any scale (Wu & He 2018, eq. 1, with eps scaled by the square): so the outputs of all
    branches are multiplied by `factor` and the last norm takes it out again. In float32 the
    pictures stay the same to the last bit. The retrained VAE known as fp16-fix has the same aim;
    this needs no other weights.
    """
    decoder = vae.decoder
    with torch.no_grad():
        _scale(decoder.conv_in, factor)
        for module in decoder.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.eps *= factor**2
            name = type(module).__name__
            if name == "ResnetBlock2D":
                _scale(module.conv1, factor)
                _scale(module.conv2, factor)
                if module.conv_shortcut is not None:
                    module.conv_shortcut.bias.mul_(factor)
            elif name == "Attention":
                _scale(module.to_out[0], factor)
            elif name == "Upsample2D":
                module.conv.bias.mul_(factor)


def _scale(layer: Any, factor: float) -> None:
    layer.weight.mul_(factor)
    layer.bias.mul_(factor)


def prepare_vae(vae: Any, dtype: torch.dtype) -> None:
    """Puts a VAE into the dtype that it will decode in; once, as shrinking adds up."""
    if dtype == torch.float16:
        shrink_decoder(vae)
    _cast(vae, dtype)


def _cast(vae: Any, dtype: torch.dtype) -> None:
    """By torch's own method: that of diffusers warns of float16, which is dealt with here."""
    torch.nn.Module.to(vae, dtype)


class Decoder:
    """Latents to pictures by a VAE that `prepare_vae` has prepared."""

    def __init__(self, vae: Any, batch_size: int) -> None:
        self._vae = vae
        self._dtype: torch.dtype = vae.dtype
        self._batch_size = batch_size

    @torch.no_grad()
    def __call__(self, latents: torch.Tensor, is_cut: list[bool]) -> list[Drawn]:
        """One picture per latent [n, 4, height / 8, width / 8]; `is_cut` is passed on."""
        pictures = [
            picture
            for part in latents.float().split(self._batch_size)
            for picture in self._pictures(part)
        ]
        return [_to_drawn(*each) for each in zip(pictures, is_cut, strict=True)]

    def _pictures(self, latents: torch.Tensor) -> list[Image.Image | None]:
        """None for a picture that is not finite. Blocks until the device is done."""
        pixels, is_finite = self._decode(latents)
        if not all(is_finite) and self._dtype != torch.float32:
            _cast(self._vae, torch.float32)
            pixels, is_finite = self._decode(latents)
            _cast(self._vae, self._dtype)
        return [
            Image.fromarray(array) if is_good else None
            for array, is_good in zip(pixels, is_finite, strict=True)
        ]

    def _decode(self, latents: torch.Tensor) -> tuple[Any, list[bool]]:
        """Pixels as uint8 [n, height, width, 3] on the CPU: a quarter of the floats' bytes, and
        the rounding of a 1024 px picture costs a core some 30 ms.
        """
        floats = self._vae.decode(self._unscale(latents).to(self._vae.dtype), return_dict=False)[0]
        is_finite = torch.isfinite(floats).flatten(1).all(dim=1)
        # As the pipeline's own postprocessing, which does this in numpy.
        levels = (floats.float() * 0.5 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy(), is_finite.tolist()

    def _unscale(self, latents: torch.Tensor) -> torch.Tensor:
        """What the pipeline does after its last step, in float32."""
        config = self._vae.config
        mean, std = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
        if mean is None or std is None:
            return latents / config.scaling_factor
        mean_1C11, std_1C11 = (latents.new_tensor(v).view(1, -1, 1, 1) for v in (mean, std))  # noqa: N806 - axes
        return latents * std_1C11 / config.scaling_factor + mean_1C11


def _to_drawn(picture: Image.Image | None, is_cut: bool) -> Drawn:
    if picture is not None:
        return Drawn(image=picture, is_prompt_truncated=is_cut)
    message = "the picture has values that are NaN or infinite: try another dtype"
    problem = RowError(Reason.IMAGE_NOT_FINITE, message)
    return Drawn(image=None, is_prompt_truncated=is_cut, problem=problem)
