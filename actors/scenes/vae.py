"""Phase `vae`: the autoencoder (AutoencoderKL, factor 4, 16 x 16 x 4 latents) and its statistics.

The loss weighs object pixels and their rims more, from the start: flat background is 3/4 of a
picture and carries one word of its caption.

Limits: trained for flat shapes at 64 px only; no adversarial or perceptual loss.
"""

import json
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from actors.scenes.loop import Phase, RunSettings, half_precision, load_trained, run_phase
from actors.scenes.stream import PictureBatch, draw_pictures, step_rng

BATCH_SIZE = 32
CROP_PX = 32
OBJECT_WEIGHT = 4.0
KL_WEIGHT = 1e-4
STATISTICS_SCENES = 512


def build_vae() -> AutoencoderKL:
    """The untrained autoencoder; four channel groups, so that no group norm sees two channels."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        mid_block_add_attention=False,
        force_upcast=False,
        scaling_factor=1.0,
    )
    with torch.no_grad():
        # Start nearly noise-free (log-variance about -5): otherwise the first steps teach blur.
        vae.quant_conv.bias[4:].fill_(-5.0)
        vae.quant_conv.weight[4:].mul_(0.1)
    return vae


def to_tensor(pictures: np.ndarray, device: str) -> Tensor:
    """uint8 [n, h, w, 3] -> float in -1..1, [n, 3, h, w]."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def pixel_weights(masks: np.ndarray, device: str) -> Tensor:
    """Weight per pixel, mean about 1: objects and a 3 px rim count more."""
    mask = torch.from_numpy(masks).to(device)[:, None]
    near = functional.max_pool2d(mask, 7, stride=1, padding=3)
    weights = 1.0 + (OBJECT_WEIGHT - 1.0) * near
    return weights / weights.mean()


def reconstruction_loss(made: Tensor, pictures: Tensor, weights: Tensor) -> Tensor:
    """Absolute error for sharp rims plus squared error for flat colour."""
    error = made - pictures
    return (weights * (error.abs() + 2.0 * error.square())).mean()


def crop_near_objects(batch: PictureBatch, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """One 32 px window a picture around some object pixel: a quarter of the cost of the whole."""
    pictures, masks = [], []
    for picture, mask in zip(batch.pictures, batch.masks, strict=True):
        spots = np.argwhere(mask > 0.5)
        spot = spots[rng.integers(len(spots))]
        top, left = np.clip(spot - CROP_PX // 2 + rng.integers(-6, 7, 2), 0, 64 - CROP_PX)
        window = (slice(top, top + CROP_PX), slice(left, left + CROP_PX))
        pictures.append(picture[window])
        masks.append(mask[window])
    return np.stack(pictures), np.stack(masks)


def _vae_loss(vae: AutoencoderKL, device: str, rng: Any) -> tuple[Tensor, dict[str, float]]:
    """Mostly windows, one step in four on whole pictures."""
    is_whole = rng.random() < 0.25
    batch = draw_pictures(rng, BATCH_SIZE // 2 if is_whole else BATCH_SIZE)
    drawn, masks = (batch.pictures, batch.masks) if is_whole else crop_near_objects(batch, rng)
    pictures = to_tensor(drawn, device)
    with half_precision(device):
        latents = vae.encode(pictures).latent_dist
        latents.mean, latents.std = latents.mean.float(), latents.std.float()
        made = vae.decode(latents.sample()).sample.float()
    rebuilt = reconstruction_loss(made, pictures, pixel_weights(masks, device))
    kl = latents.kl().mean() / latents.mean[0].numel()
    mse = functional.mse_loss(made.detach(), pictures).item()
    return rebuilt + KL_WEIGHT * kl, {"psnr": 6.02 - 10 * np.log10(mse), "kl": kl.item()}


def _decoder_loss(vae: AutoencoderKL, device: str, rng: Any) -> tuple[Tensor, dict[str, float]]:
    batch = draw_pictures(rng, BATCH_SIZE)
    pictures = to_tensor(batch.pictures, device)
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.sample()
        # Drawn latents are a little off the encoder's: some noise teaches the decoder to clean up.
        latents = latents + 0.06 * torch.randn_like(latents) * latents.std()
    with half_precision(device):
        made = vae.decode(latents).sample.float()
    loss = reconstruction_loss(made, pictures, pixel_weights(batch.masks, device))
    mse = functional.mse_loss(made.detach(), pictures).item()
    return loss, {"psnr": 6.02 - 10 * np.log10(mse)}


@torch.no_grad()
def measure_latents(vae: AutoencoderKL, settings: RunSettings) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per latent channel; the SDXL pipeline undoes them by itself."""
    batch = draw_pictures(step_rng(settings.seed, "latent statistics", 0), STATISTICS_SCENES)
    parts = [
        vae.encode(to_tensor(part, settings.device)).latent_dist.mean
        for part in np.array_split(batch.pictures, 8)
    ]
    latents = torch.cat(parts)
    return latents.mean((0, 2, 3)).tolist(), latents.std((0, 2, 3)).tolist()


def train_vae(settings: RunSettings, budget_s: float) -> None:
    """Train encoder and decoder, then store the latent statistics beside the weights."""
    torch.manual_seed(settings.seed)
    vae = build_vae()
    phase = Phase(
        name="vae",
        module=vae,
        loss=lambda rng: _vae_loss(vae, settings.device, rng),
        budget_s=budget_s,
        lr=1.2e-3,
        batch_size=BATCH_SIZE,
        weight_decay=0.0,
        ema_decay=0.995,
    )
    run_phase(phase, settings)
    mean, std = measure_latents(vae, settings)
    (settings.out / "latents.json").write_text(json.dumps({"mean": mean, "std": std}))


def load_vae(settings: RunSettings) -> AutoencoderKL:
    """The trained autoencoder, with the finetuned decoder if that phase has run."""
    statistics = json.loads((settings.out / "latents.json").read_text())
    vae = build_vae()
    has_decoder = (settings.out / "decoder.done.json").exists()
    load_trained(settings, "decoder" if has_decoder else "vae", vae)
    vae.register_to_config(latents_mean=statistics["mean"], latents_std=statistics["std"])
    return vae.to(settings.device).eval()


def train_decoder(settings: RunSettings, budget_s: float) -> None:
    """Train the decoder alone for longer: latents, and so the UNet, stay valid."""
    torch.manual_seed(settings.seed + 1)
    vae = build_vae()
    load_trained(settings, "vae", vae)
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)
    phase = Phase(
        name="decoder",
        module=vae,
        loss=lambda rng: _decoder_loss(vae, settings.device, rng),
        budget_s=budget_s,
        lr=6e-4,
        batch_size=BATCH_SIZE,
        weight_decay=0.0,
        ema_decay=0.995,
    )
    run_phase(phase, settings)
