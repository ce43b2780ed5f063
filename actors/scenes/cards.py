"""Model cards of the embedded models: what they are, how trained, how good, what they cannot do.

The numbers come from the training folder (`*.done.json`) and from `evaluate --json` stored beside
the weights as `results.json`.
Limits: a card is written at export; results measured later need another export.
"""

import json
from pathlib import Path
from typing import Any

from actors.scenes.defaults import AUTHOR_PROMPT, GUIDANCE_SCALE, INSTRUCTIONS, NUM_STEPS

_WHAT = {
    "sdxl": (
        "text-to-image",
        "diffusers",
        "A 64 px text-to-image model in the SDXL architecture (StableDiffusionXLPipeline: factor-4 "
        "AutoencoderKL, UNet2DConditionModel with text_time conditioning, two CLIP text encoders, "
        "v-prediction with zero terminal SNR).",
        f"Default inference: {NUM_STEPS} steps, guidance {GUIDANCE_SCALE}, 64 x 64, float32 on a "
        "CPU. No negative prompt: without one, the unconditional half gets zeros, as in training.",
    ),
    "llava": (
        "image-text-to-text",
        "transformers",
        "A captioner in the LLaVA architecture (CLIP vision tower, 16 patches; Llama language "
        "model).",
        "It knows these instructions: "
        + "; ".join(f'"{text}" ({style})' for style, text in INSTRUCTIONS.items())
        + f'. Text only, it is an author: "{AUTHOR_PROMPT}" (sample at temperature 1). The vision '
        "tower's keys have the older layout, which vLLM and transformers both load.",
    ),
    "clip": (
        "zero-shot-image-classification",
        "transformers",
        "A CLIPModel for image-text similarity.",
        "Its text tower is the drawing model's second text encoder and its vision tower started "
        "the captioner: it is no independent judge of either.",
    ),
}
_PHASES = {
    "sdxl": ("vae", "decoder", "text", "unet"),
    "llava": ("vision", "mllm"),
    "clip": ("text", "vision"),
}
_LIMITS = (
    "Knows one procedural world: one or two flat objects (5 shapes, 8 colours, 2 sizes) in a 2 x 2 "
    "grid on one of 5 plain backgrounds, and the few phrasings of `actors/scenes/grammar.py`. Any "
    "other text or picture gives nonsense. Built so that a pipeline can be tested on truly trained "
    "models; of no use for anything else."
)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _training_rows(out: Path, name: str) -> str:
    rows = ["| phase | samples | seconds |", "|---|---|---|"]
    for phase in _PHASES[name]:
        done = _read(out / f"{phase}.done.json")
        if done:
            rows.append(f"| {phase} | {done['samples']:,} | {done['seconds']:,} |")
    return "\n".join(rows)


def result_rows(results: dict[str, Any], groups: tuple[str, ...]) -> str:
    """Markdown table of measurements, each with n (scenes) and standard error."""
    rows = ["| measurement | value | s.e. | n |", "|---|---|---|---|"]
    for group in groups:
        for key, (value, error, count) in results.get(group, {}).items():
            # Of the loop, a card tells only the sum of each round.
            if group != "loop" or key.startswith(("all attributes", "whole")):
                rows.append(f"| {group}: {key} | {value:.3f} | {error:.3f} | {count} |")
    return "\n".join(rows) if len(rows) > 2 else "Not measured yet."


_GROUPS = {
    "sdxl": ("drawn", "round_trip", "loop"),
    "llava": ("captions", "author", "loop"),
    "clip": ("clip",),
}


def write_cards(out: Path, target: Path) -> None:
    """A README.md beside each model."""
    results = _read(target / "results.json")
    for name, (task, library, what, use) in _WHAT.items():
        (target / name / "README.md").write_text(
            f"---\nlicense: apache-2.0\nlibrary_name: {library}\npipeline_tag: {task}\n---\n"
            f"# pairloom embedded {name}\n\n{what}\n\n{use}\n\n## Training\n\n"
            "From nothing, by `python -m actors.scenes.train`, on rendered scenes (no photographs, "
            "no scraped text).\n\n"
            f"{_training_rows(out, name)}\n\n## Results\n\n"
            "Held-out scenes: pairs of (colour, shape) never trained on; pictures are read by the "
            "oracle of `actors/scenes/oracle.py`.\n\n"
            f"{result_rows(results, _GROUPS[name])}\n\n## Limits\n\n{_LIMITS}\n"
        )
