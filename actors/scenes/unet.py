"""Phase `unet`: the drawing model, a UNet2DConditionModel over 16 x 16 latents, as SDXL has it.

v-prediction with a zero terminal signal-to-noise ratio, cosine noise schedule (the usual choice for
few pixels), objects weighted above background, 10 % of the prompts zeroed for guidance.

Limits: latents of a fixed set of rendered scenes are cached (captions vary, pictures repeat after
`NUM_LATENTS` samples); one picture size.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from actors.scenes.grammar import Scene, sample_caption
from actors.scenes.loop import Phase, RunSettings, half_precision, run_phase
from actors.scenes.stream import draw_pictures, step_rng
from actors.scenes.text_encoders import PROJECTION, WIDTHS, load_text, tokenize
from actors.scenes.vae import load_vae, to_tensor

BATCH_SIZE = 32
NUM_LATENTS = 24_000
ENCODE_BATCH = 100
OBJECT_WEIGHT = 5.0
PROMPT_DROPOUT = 0.1
TIME_IDS = (64, 64, 0, 0, 64, 64)
TIME_EMBED = 16


def build_unet(widths: tuple[int, ...] = (32, 64, 128), layers: int = 1) -> UNet2DConditionModel:
    """The untrained UNet: attention to the prompt at 8 x 8 and 4 x 4 only."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=widths,
        layers_per_block=layers,
        attention_head_dim=tuple(max(1, width // 32) for width in widths),
        transformer_layers_per_block=1,
        use_linear_projection=True,
        norm_num_groups=8,
        cross_attention_dim=sum(WIDTHS),
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_EMBED,
        projection_class_embeddings_input_dim=PROJECTION + len(TIME_IDS) * TIME_EMBED,
    )


def build_scheduler() -> DDIMScheduler:
    """The sampler that ships with the model; training uses its noise schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
    )


class LatentCache:
    """Normalised latents of rendered scenes, their object weights, and the scenes."""

    def __init__(self, settings: RunSettings, count: int) -> None:
        path = settings.out / f"latents-{count}.safetensors"
        if not path.exists():
            _encode(settings, count, path)
        stored = load_file(path)
        self.mean, self.spread = stored["mean"], stored["spread"].float()
        self.weights = stored["weights"]
        # The scenes come from the same generator as the stored pictures: nothing to parse.
        self.scenes: list[Scene] = []
        for start in range(0, count, ENCODE_BATCH):
            rng = step_rng(settings.seed, "latents", start)
            self.scenes += draw_pictures(rng, ENCODE_BATCH).scenes

    def sample(self, rng: Any, size: int) -> tuple[Tensor, Tensor, list[Scene]]:
        """Latents drawn from their posterior, weights of mean 1, and what they show."""
        chosen = rng.integers(len(self.scenes), size=size)
        index = torch.from_numpy(chosen)
        mean = self.mean[index].float()
        latents = mean + self.spread * torch.randn_like(mean)
        weights = 1.0 + (OBJECT_WEIGHT - 1.0) * self.weights[index].float()
        return latents, weights / weights.mean(), [self.scenes[at] for at in chosen]


@torch.no_grad()
def _encode(settings: RunSettings, count: int, path: Path) -> None:
    """Render and encode `count` scenes; posterior spread is kept per channel, it hardly varies."""
    vae = load_vae(settings)
    shape = (1, 4, 1, 1)
    mean = torch.tensor(vae.config.latents_mean, device=settings.device).view(shape)
    std = torch.tensor(vae.config.latents_std, device=settings.device).view(shape)
    latents, weights, spreads = [], [], []
    for start in range(0, count, ENCODE_BATCH):
        batch = draw_pictures(step_rng(settings.seed, "latents", start), ENCODE_BATCH)
        with half_precision(settings.device):
            found = vae.encode(to_tensor(batch.pictures, settings.device)).latent_dist
        latents.append(((found.mean.float() - mean) / std).half().cpu())
        spreads.append((found.std.float() / std).mean((0, 2, 3)).cpu())
        weights.append(functional.max_pool2d(torch.from_numpy(batch.masks)[:, None], 4).half())
    spread = torch.stack(spreads).mean(0).view(shape)
    stored = {"mean": torch.cat(latents), "weights": torch.cat(weights), "spread": spread}
    stored = {name: value.contiguous() for name, value in stored.items()}
    save_file(stored, path)


def num_latents(budget_s: float) -> int:
    """How many latents to cache: encoding them may take a tenth of a short budget at most."""
    batches = min(NUM_LATENTS, max(2 * ENCODE_BATCH, int(budget_s * 10))) // ENCODE_BATCH
    return batches * ENCODE_BATCH


def train_unet(settings: RunSettings, budget_s: float) -> None:
    """Train the UNet over cached latents and frozen text encoders."""
    torch.manual_seed(settings.seed + 3)
    towers, tokenizer = load_text(settings)
    cache = LatentCache(settings, num_latents(budget_s))
    unet = build_unet()
    alphas = build_scheduler().alphas_cumprod.to(settings.device)
    time_ids = torch.tensor([TIME_IDS] * BATCH_SIZE, device=settings.device)

    def loss(rng: Any) -> tuple[Tensor, dict[str, float]]:
        latents, weights, scenes = cache.sample(rng, BATCH_SIZE)
        latents, weights = latents.to(settings.device), weights.to(settings.device)
        texts = [sample_caption(scene, rng) for scene in scenes]
        with torch.no_grad():
            first, second, pooled = towers.encode(tokenize(tokenizer, texts, settings.device))
        is_kept = torch.from_numpy(rng.random(BATCH_SIZE) >= PROMPT_DROPOUT).to(settings.device)
        states = torch.cat([first, second], -1) * is_kept[:, None, None]
        added = {"text_embeds": pooled * is_kept[:, None], "time_ids": time_ids}
        # Stratified times: each batch covers the whole schedule, which calms the gradient.
        times = (np.arange(BATCH_SIZE) + rng.random(BATCH_SIZE)) / BATCH_SIZE * len(alphas)
        steps = torch.from_numpy(times.astype(np.int64)).to(settings.device)
        alpha = alphas[steps].view(-1, 1, 1, 1)
        noise = torch.randn_like(latents)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        made = unet(noisy, steps, states, added_cond_kwargs=added).sample
        error = (made.float() - velocity).square()
        return (weights * error).mean(), {"plain": error.mean().item()}

    phase = Phase(
        name="unet",
        module=unet,
        loss=loss,
        budget_s=budget_s,
        lr=1.5e-3,
        batch_size=BATCH_SIZE,
        ema_decay=0.999,
    )
    run_phase(phase, settings)
