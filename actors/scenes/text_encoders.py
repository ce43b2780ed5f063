"""Phase `text`: SDXL's two text encoders, taught to say what stands in which cell.

Throw-away heads ask each encoder, cell by cell, for shape, colour and size. They read the very
states SDXL reads (the last but one layer, and the pooled embedding of the second), so the UNet
finds the meaning ready-made: it then takes minutes, not hours, to follow a prompt.

Limits: the last layer of the first encoder is untrained, since SDXL never reads it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from actors.scenes.grammar import BACKGROUNDS, CELLS, COLOURS, SHAPES, SIZES, Scene, sample_caption
from actors.scenes.loop import Phase, RunSettings, load_trained, run_phase
from actors.scenes.stream import draw_scenes
from actors.scenes.vocabulary import CLIP_LENGTH, build_clip_tokenizer

BATCH_SIZE = 96
PROJECTION = 128
WIDTHS = (96, 128)
# Answers per cell: index 0 is "nothing there".
ANSWERS = (len(SHAPES) + 1, len(COLOURS) + 1, len(SIZES) + 1)


def scene_answers(scenes: list[Scene], device: str) -> tuple[Tensor, Tensor]:
    """Right answers: int [n, 4 cells, (shape, colour, size)] and the background, int [n]."""
    cells = torch.zeros(len(scenes), len(CELLS), 3, dtype=torch.long)
    for index, scene in enumerate(scenes):
        for item in scene.objects:
            cells[index, CELLS.index(item.cell)] = torch.tensor(
                [
                    SHAPES.index(item.shape) + 1,
                    COLOURS.index(item.colour) + 1,
                    SIZES.index(item.size) + 1,
                ]
            )
    grounds = torch.tensor([BACKGROUNDS.index(scene.background) for scene in scenes])
    return cells.to(device), grounds.to(device)


class CellHeads(nn.Module):
    """One attention query per cell and one for the background, each with a linear answer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(len(CELLS) + 1, width) * 0.02)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.cell_answer = nn.Linear(width, sum(ANSWERS))
        self.ground_answer = nn.Linear(width, len(BACKGROUNDS))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        query = self.query.expand(len(states), -1, -1)
        read = functional.scaled_dot_product_attention(query, self.key(states), self.value(states))
        return self.cell_answer(read[:, : len(CELLS)]), self.ground_answer(read[:, -1])


def answer_loss(said: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, float]:
    """Cross-entropy of all answers, and the share of scenes answered without a fault."""
    cells, grounds = said
    loss = functional.cross_entropy(grounds, right[1])
    is_right = grounds.argmax(-1) == right[1]
    for kind, part in enumerate(cells.split(ANSWERS, -1)):
        loss = loss + functional.cross_entropy(part.flatten(0, 1), right[0][..., kind].flatten())
        is_right &= (part.argmax(-1) == right[0][..., kind]).all(1)
    return loss, is_right.float().mean().item()


def build_text_encoders(
    tokenizer: CLIPTokenizer,
) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """The untrained encoders."""
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": CLIP_LENGTH,
        "projection_dim": PROJECTION,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    first, second = (
        CLIPTextConfig(hidden_size=width, intermediate_size=4 * width, **shared) for width in WIDTHS
    )
    return CLIPTextModel(first), CLIPTextModelWithProjection(second)


class TextTowers(nn.Module):
    """Both encoders and their throw-away heads, trained as one."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.first, self.second = build_text_encoders(tokenizer)
        self.first_heads, self.second_heads = CellHeads(WIDTHS[0]), CellHeads(WIDTHS[1])
        self.pooled_cells = nn.Linear(PROJECTION, len(CELLS) * sum(ANSWERS))
        self.pooled_ground = nn.Linear(PROJECTION, len(BACKGROUNDS))

    def encode(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States of the first and the second encoder, and the pooled embedding, as SDXL reads."""
        first = self.first(tokens, output_hidden_states=True)
        second = self.second(tokens, output_hidden_states=True)
        return first.hidden_states[-2], second.hidden_states[-2], second.text_embeds

    def pooled_answer(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        cells = self.pooled_cells(pooled).unflatten(-1, (len(CELLS), sum(ANSWERS)))
        return cells, self.pooled_ground(pooled)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str], device: str) -> Tensor:
    """Token ids, int [n, CLIP_LENGTH], padded as SDXL pads."""
    batch = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    return batch.input_ids.to(device)


def _loss(
    towers: TextTowers, tokenizer: CLIPTokenizer, device: str, rng: Any
) -> tuple[Tensor, dict[str, float]]:
    scenes = draw_scenes(rng, BATCH_SIZE)
    texts = [sample_caption(scene, rng) for scene in scenes]
    first, second, pooled = towers.encode(tokenize(tokenizer, texts, device))
    right = scene_answers(scenes, device)
    first_loss, first_exact = answer_loss(towers.first_heads(first), right)
    second_loss, second_exact = answer_loss(towers.second_heads(second), right)
    pooled_loss, pooled_exact = answer_loss(towers.pooled_answer(pooled), right)
    shown = {"first": first_exact, "second": second_exact, "pooled": pooled_exact}
    return first_loss + second_loss + 0.5 * pooled_loss, shown


def train_text(settings: RunSettings, budget_s: float) -> None:
    """Train both text encoders."""
    torch.manual_seed(settings.seed)
    tokenizer = build_clip_tokenizer()
    towers = TextTowers(tokenizer)
    phase = Phase(
        name="text",
        module=towers,
        loss=lambda rng: _loss(towers, tokenizer, settings.device, rng),
        budget_s=budget_s,
        lr=2e-3,
        batch_size=BATCH_SIZE,
    )
    run_phase(phase, settings)


def load_text(settings: RunSettings) -> tuple[TextTowers, CLIPTokenizer]:
    """The trained, frozen towers."""
    tokenizer = build_clip_tokenizer()
    towers = TextTowers(tokenizer)
    load_trained(settings, "text", towers)
    return towers.to(settings.device).eval().requires_grad_(False), tokenizer
