"""Phase `mllm`: a LLaVA that describes pictures in three lengths and, without one, writes scenes.

Rows: pictures with an instruction (clean renders, blemished ones, and ones that went through the
autoencoder, since it will read drawn pictures), and text-only rows for the author prompt.

Limits: it knows the instructions in `defaults.py`, one picture per conversation, one turn.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from actors.scenes.defaults import AUTHOR_PROMPT, INSTRUCTIONS
from actors.scenes.grammar import Scene, Style, caption, sample_caption
from actors.scenes.loop import Phase, RunSettings, load_trained, run_phase
from actors.scenes.stream import draw_pictures, draw_scenes, step_rng
from actors.scenes.text_encoders import CellHeads, answer_loss, scene_answers
from actors.scenes.vae import load_vae, to_tensor
from actors.scenes.vision import PATCH_PX, VISION_WIDTH, blemish, build_vision, load_vision
from actors.scenes.vocabulary import END, IMAGE, START, build_chat_tokenizer

PICTURE_ROWS, SEEING_ROWS, AUTHOR_ROWS = 40, 16, 8
ROUND_TRIPS = 2_000
NUM_PATCHES = (64 // PATCH_PX) ** 2
STYLES: tuple[Style, ...] = ("medium", "medium", "short", "long")
IGNORED = -100


def build_llava(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """The untrained model; two heads of 64, the smallest head vLLM's kernels take."""
    vision = CLIPVisionConfig(**build_vision().config.to_diff_dict())
    language = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=language,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=NUM_PATCHES,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return LlavaForConditionalGeneration(config)


class Captioner(nn.Module):
    """LLaVA with the throw-away heads of the vision phase, which keep its eyes sharp."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.llava = build_llava(tokenizer)
        self.heads = CellHeads(VISION_WIDTH)


def picture_prompt(instruction: str) -> str:
    """What the chat template makes of a picture and an instruction, one token per patch."""
    return f"{START}USER: {IMAGE * NUM_PATCHES}\n{instruction} ASSISTANT:"


def author_prompt() -> str:
    """What the chat template makes of the author prompt."""
    return f"{START}USER: {AUTHOR_PROMPT} ASSISTANT:"


def token_rows(
    tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], answers: Sequence[str]
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask and labels, padded on the right; only answers are learned."""
    heads = tokenizer(list(prompts)).input_ids
    tails = tokenizer([f" {answer}{END}" for answer in answers]).input_ids
    length = max(len(head) + len(tail) for head, tail in zip(heads, tails, strict=True))
    tokens = torch.full((len(heads), length), int(tokenizer.pad_token_id or 0))
    mask = torch.zeros_like(tokens)
    labels = torch.full_like(tokens, IGNORED)
    for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        end = len(head) + len(tail)
        tokens[row, :end] = torch.tensor(head + tail)
        mask[row, :end] = 1
        labels[row, len(head) : end] = torch.tensor(tail)
    return tokens, mask, labels


def describing_loss(
    llava: LlavaForConditionalGeneration, pixels: Tensor, rows: tuple[Tensor, ...]
) -> tuple[Tensor, float]:
    """Loss over the answers of `token_rows`, and the share of answers right in every token."""
    tokens, mask, labels = rows
    logits = llava(input_ids=tokens, attention_mask=mask, pixel_values=pixels).logits
    logits, labels = logits[:, :-1].float(), labels[:, 1:]
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    is_right = (logits.argmax(-1) == labels) | (labels == IGNORED)
    return loss, is_right.all(1).float().mean().item()


class RoundTrips:
    """A fixed set of pictures that went through the autoencoder, with a little latent noise."""

    @torch.no_grad()
    def __init__(self, settings: RunSettings, count: int) -> None:
        vae = load_vae(settings)
        batch = draw_pictures(step_rng(settings.seed, "round trips", 0), count)
        made = []
        for part in np.array_split(batch.pictures, max(1, count // 50)):
            latents = vae.encode(to_tensor(part, settings.device)).latent_dist.mean
            noise = torch.randn_like(latents) * latents.std() * 0.1
            made.append(vae.decode(latents + noise).sample.clamp(-1, 1))
        self.pictures, self.scenes = torch.cat(made), list(batch.scenes)

    def sample(self, rng: Any, count: int) -> tuple[Tensor, list[Scene]]:
        chosen = rng.integers(len(self.scenes), size=count)
        return self.pictures[torch.from_numpy(chosen)], [self.scenes[at] for at in chosen]


class Lessons:
    """The three things a step teaches: describing pictures, seeing, and writing from nothing."""

    def __init__(
        self, model: Captioner, tokenizer: PreTrainedTokenizerFast, trips: RoundTrips, device: str
    ) -> None:
        self._model, self._tokenizer, self._trips = model, tokenizer, trips
        self._device = device

    def loss(self, rng: Any) -> tuple[Tensor, dict[str, float]]:
        described, exact = self._describing(rng)
        written = self._writing(rng)
        shown = {"exact": exact, "describe": described.item(), "author": written.item()}
        return described + 0.1 * self._seeing(rng) + 0.5 * written, shown

    def _describing(self, rng: Any) -> tuple[Tensor, float]:
        fresh = draw_pictures(rng, PICTURE_ROWS * 3 // 4)
        worn, worn_scenes = self._trips.sample(rng, PICTURE_ROWS - len(fresh.scenes))
        scenes = [*fresh.scenes, *worn_scenes]
        pixels = torch.cat([blemish(to_tensor(fresh.pictures, self._device), rng), worn])
        styles = [STYLES[rng.integers(len(STYLES))] for _ in scenes]
        prompts = [picture_prompt(INSTRUCTIONS[style]) for style in styles]
        answers = [caption(scene, style) for scene, style in zip(scenes, styles, strict=True)]
        return describing_loss(self._model.llava, pixels, self._rows(prompts, answers))

    def _seeing(self, rng: Any) -> Tensor:
        batch = draw_pictures(rng, SEEING_ROWS)
        pixels = blemish(to_tensor(batch.pictures, self._device), rng)
        tower = self._model.llava.model.vision_tower
        states = tower(pixels, output_hidden_states=True).hidden_states[-2]
        right = scene_answers(list(batch.scenes), self._device)
        return answer_loss(self._model.heads(states[:, 1:]), right)[0]

    def _writing(self, rng: Any) -> Tensor:
        answers = [sample_caption(scene, rng) for scene in draw_scenes(rng, AUTHOR_ROWS)]
        tokens, mask, labels = self._rows([author_prompt()] * AUTHOR_ROWS, answers)
        return self._model.llava(input_ids=tokens, attention_mask=mask, labels=labels).loss

    def _rows(self, prompts: Sequence[str], answers: Sequence[str]) -> tuple[Tensor, ...]:
        return tuple(
            part.to(self._device) for part in token_rows(self._tokenizer, prompts, answers)
        )


def train_mllm(settings: RunSettings, budget_s: float) -> None:
    """Train the captioner end to end from the trained vision tower."""
    torch.manual_seed(settings.seed + 4)
    tokenizer = build_chat_tokenizer()
    model = Captioner(tokenizer)
    seen = load_vision(settings)
    model.llava.model.vision_tower.load_state_dict(seen.tower.vision_model.state_dict())
    model.heads.load_state_dict(seen.heads.state_dict())
    # Making the round trips may take a tenth of a short budget at most.
    trips = RoundTrips(settings, min(ROUND_TRIPS, max(50, int(budget_s * 2))))
    phase = Phase(
        name="mllm",
        module=model,
        loss=Lessons(model, tokenizer, trips, settings.device).loss,
        budget_s=budget_s,
        lr=1.2e-3,
        batch_size=PICTURE_ROWS,
        ema_decay=0.995,
    )
    run_phase(phase, settings)


def load_mllm(
    settings: RunSettings,
) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerFast]:
    """The trained model and its tokenizer."""
    tokenizer = build_chat_tokenizer()
    model = Captioner(tokenizer)
    load_trained(settings, "mllm", model)
    return model.llava.to(settings.device).eval(), tokenizer
