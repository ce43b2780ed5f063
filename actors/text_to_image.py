"""The task of drawing: rows with a prompt in, the same rows with an encoded image out.

A row whose prompt is empty, or whose picture is broken, blank, of a wrong size or cannot be
drawn gets an `error`; the others of its batch go on. Fills `image`, `width`, `height`,
`image_sha256`, `is_prompt_truncated`, `draw_s`.
Limits: `draw_s` is the row's equal share of its batch, encoding left out: a replica encodes a batch
while the engine draws the next one.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from actors.backends.sdxl_config import SdxlConfig, check_sdxl, identify_sdxl
from actors.backends.simulated import (
    SimulatedConfig,
    SimulatedImageEngine,
    simulated_identity,
)
from actors.engines import Drawn, ImageEngine
from actors.images import FORMATS, check_image, encode_image
from actors.isolation import (
    Experience,
    PreparedRows,
    WorkedRows,
    finish_rows,
    prepare_rows,
    work_rows,
)
from actors.models import ModelIdentity, pin_model
from actors.reasons import Reason, RowError
from actors.records import Row
from actors.scenes.defaults import GUIDANCE_SCALE, IMAGE_PX, NUM_STEPS
from actors.validation import DEVICES, DTYPES, check_choice, check_range

BACKENDS = ("sdxl", "simulated")


@dataclass(frozen=True, kw_only=True)
class TextToImageConfig:
    """What to draw with. The defaults fit the embedded model; others want their size and steps."""

    backend: str = "sdxl"  # sdxl: any StableDiffusionXLPipeline; simulated: noise, no model
    model: str = "embedded"  # embedded, a folder, or a hub id owner/name[@revision]
    num_steps: int = NUM_STEPS  # denoising steps
    guidance_scale: float = GUIDANCE_SCALE  # classifier-free guidance; 1 or less turns it off
    negative_prompt: str = ""  # what not to draw; empty: the model's own unconditional input
    width_px: int = IMAGE_PX
    height_px: int = IMAGE_PX
    # auto: float32 on a CPU, bfloat16 on a GPU. Recorded as "auto", for the driver does not see a
    # replica's device: name one if a run may go on elsewhere. The VAE has its own: sdxl.vae_dtype
    dtype: str = "auto"
    device: str = "auto"  # auto: the GPU if torch sees one, else the CPU
    # png and webp_lossless keep every bit, jpeg and webp are smaller: table in pipelines/README.md
    image_format: str = "png"
    image_quality: int = 95  # 1 to 100, for jpeg and webp
    # 0 is fast; png and webp_lossless up to 9, webp up to 6: fewer bytes for far more time
    image_effort: int = 0
    image_threads: int = 2  # that encode a batch, beside num_cpus of the pool
    sdxl: SdxlConfig = field(default_factory=SdxlConfig)  # for backend: sdxl
    simulated: SimulatedConfig = field(default_factory=SimulatedConfig)  # for backend: simulated

    def __post_init__(self) -> None:
        check_choice("backend", self.backend, BACKENDS)
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("device", self.device, DEVICES)
        check_choice("image_format", self.image_format, tuple(FORMATS))
        check_range("num_steps", self.num_steps, 1, 1000)
        check_range("guidance_scale", self.guidance_scale, 0.0, 100.0)
        check_range("image_quality", self.image_quality, 1, 100)
        check_range("image_effort", self.image_effort, 0, FORMATS[self.image_format].max_effort)
        check_range("image_threads", self.image_threads, 1, 64)
        for name in ("width_px", "height_px"):
            value = getattr(self, name)
            check_range(name, value, 8, 4096)
            if value % 8:
                raise ValueError(
                    f"field {name!r} is {value}: must be a multiple of 8; take {value // 8 * 8}"
                )

    def check_files(self) -> None:
        """Raises ValueError where a folder or file is missing or may not be loaded; in ms."""
        if self.backend == "sdxl":
            check_sdxl(self.model, self.sdxl)

    def identity(self) -> ModelIdentity:
        """What the record says of the model and its parts; reads a local folder's every byte."""
        if self.backend == "simulated":
            return simulated_identity("draw")
        return identify_sdxl(self.model, self.sdxl)

    def pinned(self, identity: ModelIdentity) -> Self:
        """This config with the commits of `identity`, so that a hub model cannot move meanwhile."""
        base, *others = identity.parts or (identity,)
        sdxl = self.sdxl
        if sdxl.refiner and others:
            sdxl = replace(sdxl, refiner=pin_model(sdxl.refiner, others[0]))
        return replace(self, model=pin_model(self.model, base), sdxl=sdxl)

    def sampling_params(self) -> dict[str, Any]:
        """What, besides the model and the rng_seed, decides the picture's bytes."""
        names = ("num_steps", "guidance_scale", "negative_prompt", "width_px", "height_px", "dtype")
        names += ("image_format",)
        names += () if FORMATS[self.image_format].is_lossless else ("image_quality",)
        names += ("image_effort",) if FORMATS[self.image_format].max_effort else ()
        params = {"backend": self.backend} | {name: asdict(self)[name] for name in names}
        return params | ({"sdxl": self.sdxl.sampling_params()} if self.backend == "sdxl" else {})


class TextToImage:
    """A batch of rows in, the same rows with images out; also in steps (cluster's BatchSteps)."""

    def __init__(self, engine: ImageEngine, config: TextToImageConfig) -> None:
        self._engine = engine
        self._config = config
        self._experience = Experience()
        self._threads = ThreadPoolExecutor(config.image_threads, thread_name_prefix="encode")

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        return self.finish(self.work(self.prepare(rows)))

    def prepare(self, rows: Sequence[Row]) -> PreparedRows[tuple[str, int]]:
        return prepare_rows(rows, _read_prompt, self._experience)

    def work(self, prepared: PreparedRows[tuple[str, int]]) -> WorkedRows[Drawn]:
        return work_rows(prepared, self._draw, self._experience)

    def finish(self, worked: WorkedRows[Drawn]) -> list[Row]:
        return finish_rows(worked, self._encode, "draw_s", self._experience, self._threads)

    def _draw(self, items: list[tuple[str, int]]) -> list[Drawn]:
        return self._engine.draw(
            [prompt for prompt, _ in items], [rng_seed for _, rng_seed in items]
        )

    def _encode(self, drawn: object) -> dict[str, Any]:
        if not isinstance(drawn, Drawn):
            message = f"the engine returned {type(drawn).__name__}, no Drawn"
            raise RowError(Reason.IMAGE_MISSING, message)
        if drawn.problem is not None:
            raise drawn.problem
        config = self._config
        image = check_image(drawn.image, config.width_px, config.height_px)
        encoded = encode_image(
            image, config.image_format, config.image_quality, config.image_effort
        )
        return {
            "image": {"bytes": encoded.data, "path": encoded.path},
            "width": encoded.width,
            "height": encoded.height,
            "image_sha256": encoded.sha256,
            "is_prompt_truncated": drawn.is_prompt_truncated,
        }


def _read_prompt(row: Row) -> tuple[str, int]:
    prompt = row["prompt"]
    if not prompt or not prompt.strip():
        raise RowError(Reason.PROMPT_EMPTY, "nothing to draw")
    return prompt, row["rng_seed_draw"]


def build_text_to_image(
    config: TextToImageConfig, expected_digest: str | None = None
) -> TextToImage:
    """Loads the model and returns the task; called in the process that will draw.

    Raises:
        ValueError: the model is not the one of `expected_digest`, which is an identity's.
    """
    if config.backend == "simulated":
        engine: ImageEngine = SimulatedImageEngine(
            config.simulated, config.width_px, config.height_px
        )
    else:
        from actors.backends.sdxl import SdxlEngine

        engine = SdxlEngine(config, expected_digest)
    return TextToImage(engine, config)
