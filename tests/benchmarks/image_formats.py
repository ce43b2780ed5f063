"""What the image formats cost: milliseconds, bytes and PSNR of a picture of 1024 px a side.

    python tests/benchmarks/image_formats.py [--repeats 7] [your own pictures ...]

Three made pictures: `photo`, smooth colours under grain as film has it, stands in for photographs
and renders of SDXL; `scene` is one of the embedded world, enlarged; `noise` is the worst case. All
settings take turns in each repeat. Milliseconds are those of the CPU, since a busy machine
stretches all others; medians, with the range of the middle half. `beside` is the CPU time that
another thread of the process got while one encoded, as a share of what that took: 1 or more where
Pillow lets go of the interpreter, 0 where an engine's thread would have to wait.

Limits: made pictures are not photographs: bytes of real ones differ, so give your own. Neighbours
on the machine still cost caches and clock rate: the load is printed.
"""

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

from actors.images import FORMATS, decode_image, encode_image
from actors.scenes.grammar import sample_scene
from actors.scenes.render import render

SIZE_PX = 1024


@dataclass
class Setting:
    """One way to encode one picture, and what was seen of it."""

    image_format: str
    quality: int = 95
    effort: int = 0
    encode_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    size_bytes: int = 0
    psnr_db: float = 0.0

    @property
    def title(self) -> str:
        chosen = FORMATS[self.image_format]
        parts = [self.image_format]
        parts += [] if chosen.is_lossless else [f"quality {self.quality}"]
        parts += [f"effort {self.effort}"] if chosen.max_effort else []
        return ", ".join(parts)

    def encode(self, image: Image.Image) -> bytes:
        return encode_image(image, self.image_format, self.quality, self.effort).data

    def measure(self, image: Image.Image, threads: ThreadPoolExecutor) -> None:
        data, encode_s = timed(lambda: self.encode(image))
        self.encode_s.append(encode_s)
        decoded, decode_s = timed(lambda: decode_image(data))
        self.decode_s.append(decode_s)
        self.beside.append(share_beside(threads.submit(timed, lambda: self.encode(image))))
        self.size_bytes, self.psnr_db = len(data), psnr_db(image, decoded)

    def row(self) -> str:
        psnr = "exact" if self.psnr_db == float("inf") else f"{self.psnr_db:.1f}"
        return (
            f"{self.title:34} {spread_ms(self.encode_s)} {self.size_bytes / 1e3:8.0f} "
            f"{psnr:>7} {spread_ms(self.decode_s)} {statistics.median(self.beside):7.2f}"
        )


def settings() -> list[Setting]:
    return [
        *(Setting("png", effort=effort) for effort in (0, 1, 6)),
        *(Setting("webp_lossless", effort=effort) for effort in (0, 1, 6)),
        *(Setting("jpeg", quality=quality) for quality in (85, 95)),
        *(Setting("webp", quality=quality) for quality in (85, 95)),
        Setting("webp", effort=4),
    ]


def make_pictures() -> dict[str, Image.Image]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX] / SIZE_PX
    waves = (np.sin(3 * x + 2 * y), np.cos(4 * y - x), np.sin(5 * x * y + 1))
    smooth = 120 + 90 * np.stack(waves, axis=-1)
    white = rng.normal(size=(SIZE_PX, SIZE_PX))
    # Grain is wider than a pixel, and the same in all colours but for a little.
    grain = (white + np.roll(white, 1, 0) + np.roll(white, 1, 1) + np.roll(white, 1, (0, 1))) / 2
    photo = smooth + 4 * grain[..., None] + rng.normal(size=smooth.shape)
    scene = Image.fromarray(render(sample_scene(rng), rng))
    return {
        "photo": Image.fromarray(photo.clip(0, 255).astype(np.uint8)),
        "scene": scene.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC),
        "noise": Image.fromarray(rng.integers(0, 256, smooth.shape, dtype=np.uint8)),
    }


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and the CPU seconds of the thread that it ran on."""
    started = time.thread_time()
    done = action()
    return done, time.thread_time() - started


def share_beside(work: Future[tuple[Any, float]]) -> float:
    """CPU seconds of this thread, which turns in circles, for one of the thread that works."""
    started = time.thread_time()
    while not work.done():
        pass
    own_s = time.thread_time() - started
    return own_s / work.result()[1]


def psnr_db(image: Image.Image, other: Image.Image) -> float:
    """10 log10(255^2 / mean squared error) over all channels."""
    error = np.asarray(image, np.float64) - np.asarray(other, np.float64)
    squared = float((error**2).mean())
    return 10 * np.log10(255**2 / squared) if squared else float("inf")


def spread_ms(seconds: list[float]) -> str:
    low, middle, high = (
        1e3 * each for each in statistics.quantiles(seconds, n=4, method="inclusive")
    )
    return f"{middle:7.1f} ({low:.1f}-{high:.1f})".ljust(22)


def versions() -> str:
    libraries = ("zlib", "zlib_ng", "libjpeg_turbo", "webp")
    found = [f"{name} {features.version(name)}" for name in libraries if features.check(name)]
    return ", ".join([f"Pillow {features.version('pil')}", *found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("pictures", nargs="*", type=Path)
    arguments = parser.parse_args()
    pictures = make_pictures()
    for path in arguments.pictures:
        pictures[path.name] = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
    arms = {name: settings() for name in pictures}
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {versions()}")
    with ThreadPoolExecutor(1) as threads:
        for _ in range(arguments.repeats):
            for name, image in pictures.items():
                for setting in arms[name]:
                    setting.measure(image, threads)
    print(f"{arguments.repeats} repeats in turn, load {os.getloadavg()[0]:.1f} at the end")
    for name, image in pictures.items():
        print(f"\n{name}, {image.width} x {image.height} px")
        print(
            f"{'setting':34} {'encode ms':22} {'KB':>8} {'PSNR':>7} {'decode ms':22} {'beside':>7}"
        )
        for setting in arms[name]:
            print(setting.row())


if __name__ == "__main__":
    main()
