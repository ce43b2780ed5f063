"""Engines without a model, shipped for scheduling benchmarks, fault tests and anyone's first
look at a pipeline.

They take as long as they are told to, and what they return is a pure function of the input and
its rng_seed. A picture carries its prompt in its pixels (`read_prompt` takes it out), a caption
names the picture it was given (`caption_of`), so that a test can follow a chain through any
number of rounds. Faults are part of the product in the way of httpx's MockTransport: nothing has
to be patched.
Limits: the pictures are noise and only lossless encoding keeps the prompt; no device, no memory
of a model's size.
"""

import hashlib
import json
import math
import os
import signal
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final, TypeVar

import numpy as np
from PIL import Image

from actors.engines import Answer, Drawn, EngineDeadError, Scored
from actors.images import image_from_floats
from actors.models import ModelIdentity
from actors.reasons import RowError

Result = TypeVar("Result")

FAULTS: Final = (
    "none",
    "raise",  # ValueError for the whole batch
    "wrong_count",  # one result too few
    "empty",  # a blank picture, or a text of white space
    "broken",  # a picture in a wrong mode; text engines treat it like "empty"
    "wrong_size",  # a picture one pixel too wide; likewise
    "nan",  # pixels that are no numbers; likewise
    "permuted",  # the results of the batch change places
    # MemoryError for a batch with a faulty row, or with more than `oom_above` rows
    "oom",
    "dead",  # EngineDeadError
    "abort",  # the process kills itself, as the kernel does when memory runs out
    "hang",  # the call takes `hang_s`
    "balloon",  # the same, and holds `balloon_mb` of memory meanwhile
)
_MAGIC: Final = b"PLM1"
_HEADER: Final = struct.Struct(">4sI")


@dataclass(frozen=True, kw_only=True)
class SimulatedConfig:
    """How long the stand-ins take (call_s + row_s * rows, varied by cv) and where they fail."""

    load_s: float = 0.0  # seconds to "load the model"
    call_s: float = 0.0  # seconds per call, whatever the batch
    row_s: float = 0.0  # seconds per row, on top
    # coefficient of variation of a call's seconds (lognormal), drawn from its batch's rng_seeds
    cv: float = 0.0
    slow_gpu: int = -1  # calls on the GPU with this number, as CUDA_VISIBLE_DEVICES has it, ...
    slow_factor: float = 3.0  # ... take so many times as long
    hang_s: float = 3600.0  # seconds of a "hang" or a "balloon"
    balloon_mb: int = 4096
    fault: str = "none"  # what happens on a faulty row, one of FAULTS
    # rows whose prompt (the one inside the picture, for captions) contains it are faulty
    fault_marker: str = ""
    fault_rate: float = 0.0  # this share of the other rows is faulty too, chosen by rng_seed
    # a file: the fault happens only while it does not exist, and creates it
    fault_once_path: str = ""
    oom_above: int = 0  # for "oom": the largest batch that fits; 0: no limit of size
    log_path: str = ""  # a file that gets one JSON line per load and per call

    def __post_init__(self) -> None:
        for name in ("load_s", "call_s", "row_s", "hang_s", "cv", "slow_factor"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(
                    f"field {name!r} is {getattr(self, name)!r}: must be a number >= 0"
                )
        if not 0.0 <= self.fault_rate <= 1.0:
            raise ValueError(f"field 'fault_rate' is {self.fault_rate!r}: must be between 0 and 1")
        for name in ("oom_above", "balloon_mb"):
            if getattr(self, name) < 0:
                raise ValueError(f"field {name!r} is {getattr(self, name)}: must be 0 or more")
        if self.fault not in FAULTS:
            raise ValueError(f"field 'fault' is {self.fault!r}: must be one of {', '.join(FAULTS)}")


def simulated_identity(role: str) -> ModelIdentity:
    """What the record says of a stand-in."""
    return ModelIdentity(id=f"simulated/{role}", revision="1", digest=None, licence="Apache-2.0")


def caption_of(image: Image.Image, rng_seed: int) -> str:
    """The caption that the simulated captioner gives, unless a fault is asked for."""
    seen = hashlib.sha256(image.tobytes()).hexdigest()[:16]
    told = hashlib.sha256(f"{seen}:{rng_seed}".encode()).hexdigest()[:8]
    return f"simulated picture {seen} in words {told}"


def read_prompt(image: Image.Image) -> str | None:
    """The prompt a simulated picture was drawn from; None for any other picture."""
    data = image.tobytes()
    if len(data) < _HEADER.size:
        return None
    magic, length = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        return None
    return data[_HEADER.size : _HEADER.size + length].decode("utf-8", errors="ignore")


def draw_image(prompt: str, rng_seed: int, width_px: int, height_px: int) -> Image.Image:
    """The picture that the simulated generator draws: header, prompt (cut to fit), noise of
    (prompt, rng_seed).
    """
    size = width_px * height_px * 3
    text = prompt.encode()[: max(size - _HEADER.size, 0)]
    head = (_HEADER.pack(_MAGIC, len(text)) + text)[:size]
    noise = hashlib.shake_256(f"{rng_seed}:{prompt}".encode()).digest(size - len(head))
    return Image.frombytes("RGB", (width_px, height_px), head + noise)


class _Simulator:
    """Time, faults and the log, shared by the engines."""

    def __init__(self, config: SimulatedConfig, role: str) -> None:
        self._config = config
        self._role = role
        self._is_slow = os.environ.get("CUDA_VISIBLE_DEVICES") == str(config.slow_gpu)
        time.sleep(config.load_s)
        self._log("load", {})

    def call(self, prompts: Sequence[str], rng_seeds: Sequence[int]) -> list[bool]:
        """Takes the time of one call and says which rows are faulty; faults of a whole call happen
        here.
        """
        config = self._config
        faulty = [
            self._is_faulty(prompt, rng_seed)
            for prompt, rng_seed in zip(prompts, rng_seeds, strict=True)
        ]
        if any(faulty) and not self._claim_fault():
            faulty = [False] * len(prompts)
        started_at = time.time()
        time.sleep((config.call_s + config.row_s * len(prompts)) * self._variation(rng_seeds))
        if any(faulty):
            self._fail()
        if config.fault == "oom" and 0 < config.oom_above < len(prompts):
            raise MemoryError(f"simulated: {len(prompts)} rows at once, {config.oom_above} fit")
        self._log(
            "call",
            {"prompts": list(prompts), "rng_seeds": list(rng_seeds), "started_at": started_at},
        )
        return faulty

    def _is_faulty(self, prompt: str, rng_seed: int) -> bool:
        config = self._config
        if config.fault == "none":
            return False
        if config.fault_marker and config.fault_marker in prompt:
            return True
        return _uniform(f"fault:{rng_seed}") < config.fault_rate

    def _claim_fault(self) -> bool:
        """True if the fault may happen; with `fault_once_path`, to one process and call only."""
        if not self._config.fault_once_path:
            return True
        try:
            os.close(os.open(self._config.fault_once_path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        return True

    def _fail(self) -> None:
        if self._config.fault == "raise":
            raise ValueError("simulated failure of a batch with a faulty row")
        if self._config.fault == "oom":
            raise MemoryError("simulated: a row that is too large for the memory")
        if self._config.fault == "dead":
            raise EngineDeadError("simulated death of the engine")
        if self._config.fault == "abort":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._config.fault == "balloon":
            held = np.ones(self._config.balloon_mb << 20, dtype=np.uint8)  # written, so taken
            time.sleep(self._config.hang_s)
            del held
        if self._config.fault == "hang":
            time.sleep(self._config.hang_s)

    def _variation(self, rng_seeds: Sequence[int]) -> float:
        """How many times as long this call takes: on average once, unless its GPU is slow."""
        factor = self._config.slow_factor if self._is_slow else 1.0
        if not self._config.cv:
            return factor
        variance = math.log1p(self._config.cv**2)
        uniform = _uniform(f"cv:{list(rng_seeds)}")
        normal = NormalDist(-variance / 2, math.sqrt(variance))
        return factor * math.exp(normal.inv_cdf(min(max(uniform, 1e-9), 1 - 1e-9)))

    def _log(self, event: str, fields: dict[str, Any]) -> None:
        if not self._config.log_path:
            return
        entry = {
            "event": event,
            "role": self._role,
            "pid": os.getpid(),
            "time": time.time(),
            **fields,
        }
        # One write in append mode: lines of several replicas do not mix.
        descriptor = os.open(self._config.log_path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
        try:
            os.write(descriptor, (json.dumps(entry) + "\n").encode())
        finally:
            os.close(descriptor)


class SimulatedImageEngine:
    """Draws pictures of noise that carry their prompt."""

    def __init__(self, config: SimulatedConfig, width_px: int, height_px: int) -> None:
        self._config = config
        self._size = (width_px, height_px)
        self._simulator = _Simulator(config, "draw")

    def draw(self, prompts: list[str], rng_seeds: list[int]) -> list[Drawn]:
        faulty = self._simulator.call(prompts, rng_seeds)
        drawn = [
            self._draw_one(prompt, rng_seed, is_faulty)
            for prompt, rng_seed, is_faulty in zip(prompts, rng_seeds, faulty, strict=True)
        ]
        return _spoil_list(drawn, self._config.fault) if any(faulty) else drawn

    def _draw_one(self, prompt: str, rng_seed: int, is_faulty: bool) -> Drawn:
        width, height = self._size
        # A prompt that does not fit into the pixels is cut, like one over a token limit.
        is_cut = len(prompt.encode()) > width * height * 3 - _HEADER.size
        try:
            image = self._spoil(draw_image(prompt, rng_seed, width, height), is_faulty)
        except RowError as error:
            return Drawn(image=None, is_prompt_truncated=is_cut, problem=error)
        return Drawn(image=image, is_prompt_truncated=is_cut)

    def _spoil(self, image: Image.Image, is_faulty: bool) -> Image.Image:
        if not is_faulty:
            return image
        if self._config.fault == "empty":
            return Image.new("RGB", image.size)
        if self._config.fault == "broken":
            return Image.new("F", image.size, float("nan"))
        if self._config.fault == "wrong_size":
            return image.resize((image.width + 1, image.height))
        if self._config.fault == "nan":
            pixels = np.asarray(image) / 255.0
            pixels[0, 0] = float("nan")
            return image_from_floats(pixels)
        return image


class SimulatedCaptionEngine:
    """Names each picture by its pixels."""

    def __init__(self, config: SimulatedConfig) -> None:
        self._config = config
        self._simulator = _Simulator(config, "describe")

    def describe(
        self, images: list[Image.Image], instruction: str, rng_seeds: list[int]
    ) -> list[Answer]:
        prompts = [read_prompt(image) or "" for image in images]
        faulty = self._simulator.call(prompts, rng_seeds)
        texts = [
            caption_of(image, rng_seed) for image, rng_seed in zip(images, rng_seeds, strict=True)
        ]
        return _spoil_texts(texts, faulty, self._config.fault)


class SimulatedTextEngine:
    """Writes a text that is unique for (prompt, rng_seed)."""

    def __init__(self, config: SimulatedConfig) -> None:
        self._config = config
        self._simulator = _Simulator(config, "write")

    def write(self, prompts: list[str], rng_seeds: list[int]) -> list[Answer]:
        faulty = self._simulator.call(prompts, rng_seeds)
        texts = [
            "simulated description "
            + hashlib.sha256(f"{rng_seed}:{prompt}".encode()).hexdigest()[:16]
            for prompt, rng_seed in zip(prompts, rng_seeds, strict=True)
        ]
        return _spoil_texts(texts, faulty, self._config.fault)


class SimulatedScoreEngine:
    """Vectors of noise, a pure function of the picture's pixels or of the text; no further models.

    Two of them are alike by chance only, by .25 on average and at either side of 0.
    """

    NUM_DIMENSIONS: Final = 16

    def __init__(self, config: SimulatedConfig) -> None:
        self._config = config
        self._simulator = _Simulator(config, "score")

    def preprocess(self, image: Image.Image) -> tuple[str, str]:
        return read_prompt(image) or "", hashlib.sha256(image.tobytes()).hexdigest()

    def score(self, pictures: list[tuple[str, str]], texts: list[list[str]]) -> list[Scored]:
        prompts, digests = [one for one, _ in pictures], [one for _, one in pictures]
        faulty = self._simulator.call(prompts, [int(one[:15], 16) for one in digests])
        scored = [self._score_one(*one) for one in zip(digests, texts, faulty, strict=True)]
        return _spoil_list(scored, self._config.fault) if any(faulty) else scored

    def _score_one(self, digest: str, texts: list[str], is_faulty: bool) -> Scored:
        image = self._vector(digest)
        is_spoilt = is_faulty and self._config.fault in ("nan", "broken", "empty")
        return Scored(
            image=image * np.float32("nan") if is_spoilt else image,
            texts=tuple(self._vector(text) for text in texts),
            heads={},
        )

    def _vector(self, key: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
        noise = np.random.default_rng(seed).standard_normal(self.NUM_DIMENSIONS)
        return (noise / np.linalg.norm(noise)).astype(np.float32)


def _spoil_texts(texts: list[str], faulty: list[bool], fault: str) -> list[Answer]:
    if fault in ("empty", "broken", "wrong_size", "nan"):
        texts = [" \n" if bad else text for text, bad in zip(texts, faulty, strict=True)]
    answers = [Answer(text=text, finish_reason="stop") for text in texts]
    return _spoil_list(answers, fault) if any(faulty) else answers


def _spoil_list(results: list[Result], fault: str) -> list[Result]:
    """The faults of a whole answer, for a batch with a faulty row."""
    if fault == "wrong_count":
        return results[:-1]
    return results[1:] + results[:1] if fault == "permuted" else results


def _uniform(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
