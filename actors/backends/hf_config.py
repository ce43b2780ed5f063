"""How an image-text-to-text model of transformers is asked, apart from which one and how long.

Limits: keys and checks only; nothing here imports torch. What a model's processor and template
allow is found when it is loaded.
"""

from dataclasses import dataclass
from typing import Any, Final

from actors.validation import check_choice, check_range

ORDERS: Final = ("image_first", "text_first")
CACHES: Final = ("dynamic", "static")


@dataclass(frozen=True, kw_only=True)
class HfMllmConfig:
    """Options of the engine `hf_mllm`."""

    # text_first puts the instruction before the picture, so that an engine that caches prefixes
    # computes it once. Qwen-VL, InternVL, Idefics and Gemma render what they are given; the
    # templates of LLaVA (and the embedded model's) put pictures first whatever the order, which is
    # refused. The model reads another prompt, so it may answer otherwise: this is recorded
    prompt_order: str = "image_first"
    # pictures of more pixels than this squared are read at this size; 0: the model's own limit.
    # 672 is a third to a half of the work of 1024 for Qwen-VL. Recorded; refused by models of one
    # size (LLaVA: 336), which every picture is resized to anyway
    max_image_px: int = 0
    # static: keys and values in tensors of one size, and on a GPU transformers then compiles the
    # decoding step, once for each batch size and prompt length. Moves the last bits only
    kv_cache: str = "dynamic"

    def __post_init__(self) -> None:
        check_choice("prompt_order", self.prompt_order, ORDERS)
        check_choice("kv_cache", self.kv_cache, CACHES)
        check_range("max_image_px", self.max_image_px, 0, 8192)
        if 0 < self.max_image_px < 56:
            raise ValueError(
                f"field 'max_image_px' is {self.max_image_px}: less than two patches; take 56 or "
                "more, or 0 for the model's own limit"
            )

    def sampling_params(self) -> dict[str, Any]:
        """What decides the answer."""
        return {"prompt_order": self.prompt_order, "max_image_px": self.max_image_px}
