"""Measures the embedded models: `python -m actors.scenes.evaluate [--num-scenes 500] [--json]`.

All scenes are held out: their pairs of (colour, shape) were never trained on. Pictures are read by
the oracle. A standard error counts scenes, not objects: two objects of a picture are not
independent.

Limits: one set of scenes per `--seed`; the loop is run with greedy captions at default settings.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.scenes.compare import ATTRIBUTES, Tally, compare
from actors.scenes.defaults import GUIDANCE_SCALE, INSTRUCTIONS, NUM_STEPS, WEIGHTS
from actors.scenes.grammar import Scene, caption, is_held_out, parse, sample_caption, sample_scene
from actors.scenes.oracle import look, read
from actors.scenes.render import render

# value, standard error, number of scenes
Measurement = tuple[float, float, int]
Results = dict[str, dict[str, Measurement]]


def share(hits: Sequence[float]) -> Measurement:
    """Mean of per-scene numbers with its standard error."""
    values = np.asarray(hits, float)
    return float(values.mean()), float(values.std() / len(values) ** 0.5), len(values)


def summarise(tallies: Sequence[Tally]) -> dict[str, Measurement]:
    """Rates per attribute, for the whole scene, and over all attributes together."""
    rates = {
        name: share([tally.rate(name) for tally in tallies]) for name in (*ATTRIBUTES, "whole")
    }
    return rates | {"all attributes": share([tally.attributes_rate for tally in tallies])}


def held_out_scenes(count: int, seed: int) -> tuple[list[Scene], np.ndarray]:
    """Held-out scenes and their clean renders."""
    rng = np.random.default_rng([seed, 7])
    scenes = [sample_scene(rng, "held_out") for _ in range(count)]
    return scenes, np.stack([render(scene, rng) for scene in scenes])


def measure_captions(describer: Any, scenes: list[Scene], pictures: np.ndarray) -> Results:
    """Descriptions of clean renders, in all lengths; attributes for the default instruction."""
    results: Results = {}
    for style, instruction in INSTRUCTIONS.items():
        read_back = [parse(text) for text in describer.describe(pictures, instruction)]
        tallies = [compare(a, b) for a, b in zip(scenes, read_back, strict=True)]
        if style == "medium":
            results["captions"] = summarise(tallies)
        results["captions"][f"whole, {style}"] = share([tally.rate("whole") for tally in tallies])
    return results


def measure_pictures(
    drawer: Any, scenes: list[Scene], seed: int, num_steps: int, guidance_scale: float
) -> Results:
    """Pictures drawn from captions in all phrasings, read by the oracle."""
    rng = np.random.default_rng([seed, 8])
    prompts = [sample_caption(scene, rng) for scene in scenes]
    pictures = drawer.draw(prompts, range(len(prompts)), num_steps, guidance_scale)
    tallies = [compare(a, look(b)) for a, b in zip(scenes, pictures, strict=True)]
    return {"drawn": summarise(tallies)}


def measure_round_trip(drawer: Any, scenes: list[Scene], pictures: np.ndarray) -> Results:
    """Clean renders through the autoencoder."""
    made = drawer.round_trip(pictures)
    tallies = [compare(a, look(b)) for a, b in zip(scenes, made, strict=True)]
    error = ((made.astype(float) - pictures) ** 2).mean((1, 2, 3))
    summary = summarise(tallies)
    summary["psnr_db"] = share(list(10 * np.log10(255**2 / error)))
    return {"round_trip": summary}


def measure_loop(drawer: Any, describer: Any, scenes: list[Scene], num_rounds: int = 3) -> Results:
    """Seeds drawn, described, drawn again: how much of the seed is still said after each round."""
    texts = [caption(scene) for scene in scenes]
    measured: dict[str, Measurement] = {}
    for round_index in range(num_rounds):
        rng_seeds = [1000 * (round_index + 1) + index for index in range(len(texts))]
        texts = describer.describe(drawer.draw(texts, rng_seeds))
        summary = summarise([compare(a, parse(b)) for a, b in zip(scenes, texts, strict=True)])
        for name in (*ATTRIBUTES, "whole", "all attributes"):
            measured[f"{name} after round {round_index + 1}"] = summary[name]
    return {"loop": measured}


def measure_author(describer: Any, count: int = 256) -> Results:
    """Texts written from nothing: readable, and how many differ."""
    texts = describer.write(count, rng_seed=0)
    valid = [float(parse(text) is not None) for text in texts]
    return {
        "author": {
            "valid": share(valid),
            "unique": (len(set(texts)) / count, 0.0, count),
            "unseen pair": share([float(_is_new(text)) for text in texts]),
        }
    }


def _is_new(text: str) -> bool:
    scene = parse(text)
    return scene is not None and is_held_out(scene)


def measure_clip(folder: Path, scenes: list[Scene], pictures: np.ndarray) -> Results:
    """Which of 200 captions belongs to a picture?"""
    import torch
    from PIL import Image
    from transformers import AutoProcessor, CLIPModel

    scenes, pictures = scenes[:200], pictures[:200]
    model: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor: Any = AutoProcessor.from_pretrained(folder)
    texts = [caption(scene) for scene in scenes]
    images = [Image.fromarray(picture) for picture in pictures]
    inputs = processor(text=texts, images=images, return_tensors="pt", padding="max_length")
    with torch.no_grad():
        logits = model(**inputs).logits_per_image.numpy()
    # Two scenes may be equal in words: a tie with the right caption is right.
    right = [texts[best] == text for best, text in zip(logits.argmax(1), texts, strict=True)]
    return {"clip": {"recall at 1 of 200": share([float(hit) for hit in right])}}


def evaluate(args: argparse.Namespace, say: Callable[[str], None]) -> Results:
    """All measurements on one set of scenes."""
    from actors.scenes.engines import Describer, Drawer

    scenes, pictures = held_out_scenes(args.num_scenes, args.seed)
    clean = [float(read(picture) == scene) for picture, scene in zip(pictures, scenes, strict=True)]
    results: Results = {"oracle": {"whole, clean renders": share(clean)}}
    drawer, describer = Drawer(args.weights / "sdxl"), Describer(args.weights / "llava")
    steps: dict[str, Callable[[], Results]] = {
        "captions": lambda: measure_captions(describer, scenes, pictures),
        "drawn": lambda: measure_pictures(
            drawer, scenes, args.seed, args.num_steps, args.guidance_scale
        ),
        "round_trip": lambda: measure_round_trip(drawer, scenes, pictures),
        "loop": lambda: measure_loop(drawer, describer, scenes[: args.num_loop_scenes]),
        "author": lambda: measure_author(describer),
        "clip": lambda: measure_clip(args.weights / "clip", scenes, pictures),
    }
    for name, step in steps.items():
        if not args.only or name in args.only:
            measured = step()
            results |= measured
            say(table(measured))
    return results


def table(results: Results) -> str:
    """One line a measurement."""
    return "\n".join(
        f"{group:<12}{name:<34}{value:>8.3f} +- {error:.3f}  (n {count})"
        for group, measured in results.items()
        for name, (value, error, count) in measured.items()
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m actors.scenes.evaluate", description=__doc__)
    parser.add_argument("--num-scenes", type=int, default=500)
    parser.add_argument("--num-loop-scenes", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-steps", type=int, default=NUM_STEPS)
    parser.add_argument("--guidance-scale", type=float, default=GUIDANCE_SCALE)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--only", nargs="*", help="groups to measure (default: all)")
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args(argv)
    results = evaluate(args, print)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
