"""A fresh captioner, taught by committed pairs and nothing else, and examined on true scenes.

It is the shipped LLaVA with fewer layers and random weights; tokenizer, processor, loss and
training loop are the shipped one's, and it answers through the engine that a run captions with.

Limits: no eyes trained beforehand and no heads that keep them sharp, unlike the shipped one, so it
needs more pictures to see as well. CPU only, one thread if the caller says so.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from answers import texts_of
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, LlavaForConditionalGeneration

from actors.backends.hf_mllm import HfMllmEngine
from actors.image_to_text import ImageToTextConfig
from actors.scenes.defaults import EMBEDDED_MODELS
from actors.scenes.evaluate import held_out_scenes
from actors.scenes.grammar import caption
from actors.scenes.loop import Phase, RunSettings, run_phase
from actors.scenes.mllm import build_llava, describing_loss, picture_prompt, token_rows
from actors.scenes.truth import tally_pair
from actors.scenes.vae import to_tensor
from actors.scenes.vision import blemish
from actors.scenes.vocabulary import build_chat_tokenizer
from pipelines.evaluation.text import bleu4, rouge_l

Row = dict[str, Any]
Marks = dict[str, list[float]]  # recall, bleu4, rouge_l: a number a picture


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """How long a student learns, whatever the number of its pairs.

    The shipped one has 5 and 4 layers. At one look, 8,000 rows of 672 rendered pairs, those took
    twice the time for a recall of .38 instead of .42.
    """

    num_vision_layers: int = 3
    num_language_layers: int = 2
    num_steps: int = 500
    batch_size: int = 32
    lr: float = 1.2e-3


class Lesson:
    """Draws batches of the pairs with replacement, half of the pictures blemished as the shipped
    captioner's were."""

    def __init__(
        self, llava: LlavaForConditionalGeneration, pairs: Sequence[Row], size: int
    ) -> None:
        self._llava, self._size = llava, size
        self._tokenizer = build_chat_tokenizer()
        self._pixels = to_tensor(np.stack([_decode(pair) for pair in pairs]), "cpu")
        self._prompts = [picture_prompt(pair["instruction"]) for pair in pairs]
        self._answers = [pair["description"] for pair in pairs]

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = rng.integers(len(self._answers), size=self._size)
        pixels = blemish(self._pixels[torch.from_numpy(chosen)], rng)
        prompts, answers = ([of[at] for at in chosen] for of in (self._prompts, self._answers))
        rows = token_rows(self._tokenizer, prompts, answers)
        loss, exact = describing_loss(self._llava, pixels, rows)
        return loss, {"exact": exact}


def teach(
    pairs: Sequence[Row], config: StudentConfig, folder: Path, rng_seed: int
) -> LlavaForConditionalGeneration:
    """A student of these pairs; goes on from what `folder` has of it."""
    torch.manual_seed(rng_seed)
    llava = _build(config)
    phase = Phase(
        name="student",
        module=llava,
        loss=Lesson(llava, pairs, config.batch_size).loss,
        budget_s=float("inf"),  # steps end it, not the clock: its neighbours must not count
        lr=config.lr,
        batch_size=config.batch_size,
        max_steps=config.num_steps,
    )
    run_phase(phase, RunSettings(folder, rng_seed))
    return llava


def _build(config: StudentConfig) -> LlavaForConditionalGeneration:
    shipped = build_llava(build_chat_tokenizer()).config
    shipped.vision_config.num_hidden_layers = config.num_vision_layers
    shipped.text_config.num_hidden_layers = config.num_language_layers
    return LlavaForConditionalGeneration(shipped)


def draw_exam(num_scenes: int, rng_seed: int) -> list[Row]:
    """Held-out scenes with their clean renders, as rows that `tally_pair` reads."""
    scenes, pictures = held_out_scenes(num_scenes, rng_seed)
    return [
        {"seed": caption(scene), "image": {"bytes": _encode(picture)}}
        for scene, picture in zip(scenes, pictures, strict=True)
    ]


def sit_exam(llava: LlavaForConditionalGeneration, exam: Sequence[Row]) -> Marks:
    """Of every picture: the share of its attributes that is said, by the oracle, and the greedy
    description against the true one."""
    config = ImageToTextConfig(dtype="float32", device="cpu")
    engine = HfMllmEngine(
        config, parts=(AutoProcessor.from_pretrained(EMBEDDED_MODELS["llava"]), llava)
    )
    pictures = [Image.fromarray(_decode(row)) for row in exam]
    said = texts_of(engine.describe(pictures, config.instruction_used().text, [0] * len(exam)))
    true = [row["seed"] for row in exam]
    tallies = [
        tally_pair(row | {"description": text}) for row, text in zip(exam, said, strict=True)
    ]
    return {
        "recall": [one["picture_recall"].attributes_rate for one in tallies],
        "bleu4": bleu4(said, true),
        "rouge_l": rouge_l(said, true),
    }


def _decode(row: Row) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))


def _encode(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    return file.getvalue()
