"""What the tests of the vLLM engine share; imports no vLLM."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from actors.backends.vllm_config import VllmEngineConfig
from actors.engines import Answer
from actors.image_to_text import ImageToTextConfig
from actors.images import encode_image
from actors.records import Row

INSTRUCTION = "Describe the image."
RNG_SEEDS = [2**62 + i for i in range(192)]
# Eager, for there is no C compiler to be sure of, and with a cache that a small machine has.
SMALL = VllmEngineConfig(enforce_eager=True, kv_cache_bytes=128 << 20, max_num_seqs=64)
CONFIG = ImageToTextConfig(backend="vllm", vllm=SMALL)


class SharedEngine:
    """The engine of a session, asked with other options than it was started with: those of
    sampling and stopping are sent along with each row.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def ask(
        self, images: Sequence[Image.Image], instruction: str, rng_seeds: list[int], **options: Any
    ) -> list[Any]:
        """Answers, and errors of rows."""
        self.engine._config = replace(CONFIG, **options)
        try:
            return self.engine.describe(list(images), instruction, rng_seeds)
        finally:
            self.engine._config = CONFIG

    def describe(
        self, images: Sequence[Image.Image], instruction: str, rng_seeds: list[int], **options: Any
    ) -> list[Any]:
        """Texts, and errors of rows."""
        answers = self.ask(images, instruction, rng_seeds, **options)
        return [one.text if isinstance(one, Answer) else one for one in answers]


def picture_rows(pictures: Sequence[Image.Image]) -> list[Row]:
    """Rows as the stage `describe` sends them."""
    return [
        {
            "chain_id": str(i),
            "image": {"bytes": encode_image(picture).data, "path": None},
            "rng_seed_describe": RNG_SEEDS[i],
            "error": None,
        }
        for i, picture in enumerate(pictures)
    ]


def descendants(pid: int) -> list[int]:
    """Ids of the processes that `pid` has started, and of those that they have."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended unwaited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def titles(pids: Sequence[int]) -> dict[str, int]:
    """The processes by the names that vLLM gives them."""
    named: dict[str, int] = {}
    for pid in pids:
        try:
            named[Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0 ")] = pid
        except OSError:
            continue
    return named
