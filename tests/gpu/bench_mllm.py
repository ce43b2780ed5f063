"""How fast the MLLM engine describes on this GPU: no Ray, no download, random weights.

    python tests/gpu/bench_mllm.py [--batches 32 8 64 1] [--kv dynamic static] [--tokens 150]
                                   [--budget-s 500] [--out out/bench_mllm.json] [--tiny]

A model in the shape of LLaVA-1.5-7B (shapes.py: 576 image tokens) through the production engine,
with 1024 px pictures and answers of a fixed length, since random weights seldom end one. For every
batch size: preprocessing on the CPU apart from the device's part, the counted work against a matrix
product, and the bytes of weights and cache that decoding has to read against a copy, both measured
in the same call. --tiny is a CPU's rehearsal of it all.
Limits: static batches of transformers; engines with continuous batching are another matter. Bytes
are those of an ideal reader: weights once a step, the cache once a step and row.
"""

import argparse
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import (
    Clock,
    Limits,
    Table,
    conditions,
    count_tflop,
    goal,
    measure_limits,
    middle,
    pick_device,
    print_table,
    say,
    spread,
    time_calls,
    write_report,
)
from PIL import Image
from shapes import build_llava

from actors.backends.hf_config import CACHES, HfMllmConfig
from actors.backends.hf_mllm import HfMllmEngine
from actors.image_to_text import ImageToTextConfig

INSTRUCTION = "Describe the image in one sentence: every object, its colour and where it is."
GOAL_IMG_S = 8.0  # A100 with vLLM in 2024: 9.33


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and on what."""

    is_tiny: bool
    device: torch.device
    num_tokens: int
    repeats: int

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.device.type == "cpu" else torch.bfloat16


def build_engine(plan: Plan, parts: tuple[Any, Any], kv_cache: str, num_tokens: int) -> Any:
    """The engine over these parts, answering in exactly so many tokens."""
    config = ImageToTextConfig(
        max_new_tokens=num_tokens, temperature=0.2, hf_mllm=HfMllmConfig(kv_cache=kv_cache)
    )
    engine = HfMllmEngine(config, parts=parts)
    engine._model.generation_config.min_new_tokens = num_tokens
    return engine


def pictures(plan: Plan, count: int) -> list[Image.Image]:
    """Coarse noise, enlarged: what a generator hands over."""
    size_px = 64 if plan.is_tiny else 1024
    coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(each).resize((size_px, size_px)) for each in coarse]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one row asks for."""

    prefill_tflop: float
    token_tflop: float
    weight_gb: float
    cache_gb: float  # of one row, half way through its answer
    num_prompt_tokens: int


def count_work(plan: Plan, parts: tuple[Any, Any]) -> Work:
    """Counted on one row: an answer of one token, and of two."""
    engine = build_engine(plan, parts, "dynamic", 1)
    inputs = engine.preprocess(pictures(plan, 1), INSTRUCTION)
    one = count_tflop(partial(engine.describe_preprocessed, inputs, [0]))
    two_engine = build_engine(plan, parts, "dynamic", 2)
    two = count_tflop(partial(two_engine.describe_preprocessed, inputs, [0]))
    model = parts[1]
    text = model.config.text_config
    head = text.hidden_size // text.num_attention_heads
    num_bytes = next(model.parameters()).element_size()
    token_bytes = 2 * text.num_hidden_layers * text.num_key_value_heads * head * num_bytes
    prompt = int(inputs["input_ids"].shape[1])
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    return Work(
        prefill_tflop=one,
        token_tflop=two - one,
        weight_gb=weights / 1e9,
        cache_gb=token_bytes * (prompt + plan.num_tokens / 2) / 1e9,
        num_prompt_tokens=prompt,
    )


def measure_case(plan: Plan, engine: Any, batch: int, work: Work, limits: Limits) -> dict[str, Any]:
    """One batch size: the CPU's part and the device's."""
    images, rng_seeds = pictures(plan, batch), list(range(batch))
    started_s = time.monotonic()
    inputs = engine.preprocess(images, INSTRUCTION)
    engine.describe_preprocessed(inputs, rng_seeds)
    first_s = time.monotonic() - started_s
    preprocess = [_seconds(partial(engine.preprocess, images, INSTRUCTION)) for _ in range(3)]
    call = partial(engine.describe_preprocessed, inputs, rng_seeds)
    seconds = time_calls(call, plan.device, plan.repeats)
    each_s = middle(seconds) / batch
    tokens = plan.num_tokens
    tflop = work.prefill_tflop + work.token_tflop * (tokens - 1)
    read_gb = tokens * (work.weight_gb / batch + work.cache_gb)
    return {
        "batch": batch,
        "img/s": 1 / each_s,
        "spread": spread(seconds),
        "ms/token": middle(seconds) / tokens * 1000,
        "MFU": tflop / each_s / limits.tflops,
        "bandwidth": read_gb / each_s / limits.copy_gb_s,
        "CPU ms/img": middle(preprocess) / batch * 1000,
        "first_s": first_s,
    }


def _seconds(call: Any) -> float:
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s


def measure_cache(
    plan: Plan, engine: Any, batches: list[int], work: Work, limits: Limits, clock: Clock
) -> Table:
    """Every batch size with one kind of cache; a batch that does not fit is said not to."""
    kv_cache = engine._config.hf_mllm.kv_cache
    rows: Table = []
    for batch in batches:
        last_s = rows[-1]["ms/token"] / 1000 * plan.num_tokens if rows else 0.0
        if not clock.has_time(f"{kv_cache}, batch {batch}", last_s * (plan.repeats + 2)):
            continue
        try:
            rows.append(measure_case(plan, engine, batch, work, limits))
        except torch.OutOfMemoryError:
            clock.left_out.append(f"{kv_cache}, batch {batch} (no memory)")
    print_table(f"cache={kv_cache}: {plan.num_tokens} tokens an answer", rows)
    return rows


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batches", nargs="+", type=int)
    parser.add_argument("--kv", nargs="+", choices=CACHES, default=["dynamic", "static"])
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget-s", type=float, default=500.0)
    parser.add_argument("--out", default="out/bench_mllm.json")
    words = parser.parse_args()
    words.batches = words.batches or ([2, 1] if words.tiny else [32, 8, 64, 1])
    words.tokens = words.tokens or (6 if words.tiny else 150)
    return words


def main() -> None:
    words = _read_arguments()
    clock = Clock(budget_s=words.budget_s)
    device = pick_device(words.tiny)
    plan = Plan(is_tiny=words.tiny, device=device, num_tokens=words.tokens, repeats=words.repeats)
    where = conditions(device)
    for name, value in where.items():
        say(f"{name}: {value}")
    limits = measure_limits(device, plan.dtype, 256 if plan.is_tiny else 8192)
    say(f"measured here: {limits.tflops:.3g} TFLOP/s, copies {limits.copy_gb_s:.3g} GB/s")
    parts = build_llava(plan.is_tiny, device, plan.dtype)
    work = count_work(plan, parts)
    say(
        f"counted: {work.prefill_tflop:.3g} TFLOP to read {work.num_prompt_tokens} tokens, "
        f"{work.token_tflop:.3g} a token more; {work.weight_gb:.3g} GB of weights, "
        f"{work.cache_gb:.3g} GB of cache a row"
    )
    caches = {}
    for kv in words.kv:
        engine = build_engine(plan, parts, kv, plan.num_tokens)
        caches[kv] = measure_cache(plan, engine, words.batches, work, limits, clock)
    rates = [row["img/s"] for rows in caches.values() for row in rows]
    best = max(rates) if rates and not plan.is_tiny else None
    reached = [goal("descriptions, 576 image tokens", best, GOAL_IMG_S, "img/s")]
    print_table("goals, for one H100 at full size", reached)
    report = {"conditions": where, "work": vars(work), "caches": caches, "goals": reached}
    write_report(str(Path(words.out)), report, clock, limits)


if __name__ == "__main__":
    main()
