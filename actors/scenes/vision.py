"""Phase `vision`: the CLIP vision tower, matched to the frozen second text encoder.

Besides the contrastive loss, throw-away heads ask the patch states that LLaVA will read (last but
one layer) what stands in which cell. The language model then only has to put it into words, which
is far cheaper than learning to see through it.

Limits: CLIP is no independent judge of the drawing model, whose text encoder it shares.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from actors.scenes.grammar import sample_caption
from actors.scenes.loop import Phase, RunSettings, load_trained, run_phase
from actors.scenes.stream import draw_pictures
from actors.scenes.text_encoders import (
    PROJECTION,
    CellHeads,
    answer_loss,
    load_text,
    scene_answers,
    tokenize,
)
from actors.scenes.vae import to_tensor

BATCH_SIZE = 96
VISION_WIDTH = 128
PATCH_PX = 16


def build_vision() -> CLIPVisionModelWithProjection:
    """The untrained tower: 64 px, 16 patches."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=VISION_WIDTH,
            intermediate_size=4 * VISION_WIDTH,
            num_hidden_layers=5,
            num_attention_heads=2,
            image_size=64,
            patch_size=PATCH_PX,
            projection_dim=PROJECTION,
        )
    )


class VisionTower(nn.Module):
    """The tower, its temperature, and the throw-away heads."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = build_vision()
        self.heads = CellHeads(VISION_WIDTH)
        self.logit_scale = nn.Parameter(torch.tensor(2.66))


def blemish(pictures: Tensor, rng: Any) -> Tensor:
    """Noise and slight blur on half of the pictures: drawn ones are not as clean as rendered."""
    chosen = torch.from_numpy(rng.random(len(pictures)) < 0.5).to(pictures.device)
    noise = torch.randn_like(pictures) * float(rng.uniform(0.0, 0.15))
    blurred = functional.avg_pool2d(
        functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1
    )
    share = float(rng.uniform(0.0, 0.6))
    soiled = pictures.lerp(blurred, share) + noise
    return torch.where(chosen[:, None, None, None], soiled.clamp(-1, 1), pictures)


def train_vision(settings: RunSettings, budget_s: float) -> None:
    """Train the vision tower against the frozen text tower."""
    torch.manual_seed(settings.seed + 2)
    towers, tokenizer = load_text(settings)
    model = VisionTower()

    def loss(rng: Any) -> tuple[Tensor, dict[str, float]]:
        batch = draw_pictures(rng, BATCH_SIZE)
        texts = [sample_caption(scene, rng) for scene in batch.scenes]
        with torch.no_grad():
            pooled = towers.second(tokenize(tokenizer, texts, settings.device)).text_embeds
        pixels = blemish(to_tensor(batch.pictures, settings.device), rng)
        seen = model.tower(pixels, output_hidden_states=True)
        image, text = (
            functional.normalize(seen.image_embeds, dim=-1),
            functional.normalize(pooled, dim=-1),
        )
        logits = model.logit_scale.exp().clamp(max=100) * image @ text.T
        target = torch.arange(len(logits), device=logits.device)
        contrast = functional.cross_entropy(logits, target) + functional.cross_entropy(
            logits.T, target
        )
        right = scene_answers(list(batch.scenes), settings.device)
        answered, exact = answer_loss(model.heads(seen.hidden_states[-2][:, 1:]), right)
        recall = (logits.argmax(-1) == target).float().mean().item()
        return answered + 0.3 * contrast, {"exact": exact, "recall": recall}

    phase = Phase(
        name="vision",
        module=model,
        loss=loss,
        budget_s=budget_s,
        lr=1.2e-3,
        batch_size=BATCH_SIZE,
        ema_decay=0.995,
    )
    run_phase(phase, settings)


def load_vision(settings: RunSettings) -> VisionTower:
    """The trained tower."""
    model = VisionTower()
    load_trained(settings, "vision", model)
    return model.to(settings.device).eval()
