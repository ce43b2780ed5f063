"""Captions a second of vLLM beside transformers, on the embedded LLaVA, without a GPU.

Run in the environment of `make test-vllm`: .venv-vllm/bin/python tests/benchmarks/captioners.py.
Both backends in one process, turn by turn, each with 1 thread and the batches that it wants: 32
rows a call for transformers, four calls of 32 at a time for vLLM. Prints the load before each turn.
Limits: the model is tiny, so this measures what an engine costs beside the model's own work, which
is vLLM's weak side: processes, messages, a schedule for every token. It says nothing about a GPU.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parents[2])]

import numpy as np
import torch
from PIL import Image

from actors.backends.hf_mllm import HfMllmEngine
from actors.backends.vllm_config import VllmEngineConfig
from actors.backends.vllm_engine import VllmEngine
from actors.image_to_text import ImageToTextConfig
from actors.scenes.stream import draw_pictures

NUM_PICTURES, BATCH_SIZE, NUM_TURNS = 384, 32, 5
INSTRUCTION = "Describe the image."


def main() -> None:
    torch.set_num_threads(1)
    batch = draw_pictures(np.random.default_rng(3), NUM_PICTURES)
    pictures = [Image.fromarray(each) for each in batch.pictures]
    options = VllmEngineConfig(enforce_eager=True, kv_cache_bytes=256 << 20, max_num_seqs=128)
    started = time.perf_counter()
    vllm = VllmEngine(ImageToTextConfig(backend="vllm", vllm=options), has_images=True)
    print(f"vLLM started in {time.perf_counter() - started:.1f} s")
    started = time.perf_counter()
    transformers = HfMllmEngine(ImageToTextConfig())
    print(f"transformers started in {time.perf_counter() - started:.1f} s")
    engines = {"vllm": (vllm, 4), "transformers": (transformers, 1)}
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(-1, NUM_TURNS):  # the first turn warms both up
        for name, (engine, num_threads) in engines.items():
            load = os.getloadavg()[0]
            rate = _rate(engine, pictures, num_threads)
            print(f"turn {turn} {name:12} {rate:6.1f} captions/s, load before {load:.2f}")
            if turn >= 0:
                rates[name].append(rate)
    ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
    for name, each in (*rates.items(), ("vllm / transformers", ratios)):
        print(f"{name}: median {median(each):.2f}, {min(each):.2f} to {max(each):.2f}")
    vllm.close()


def _rate(engine: VllmEngine | HfMllmEngine, pictures: list[Image.Image], threads: int) -> float:
    def describe(first: int) -> int:
        part = pictures[first : first + BATCH_SIZE]
        return len(engine.describe(part, INSTRUCTION, list(range(len(part)))))

    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        num_said = sum(pool.map(describe, range(0, len(pictures), BATCH_SIZE)))
    return num_said / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
