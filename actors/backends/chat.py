"""What engines of chat models share: a folder's processor, its template, the order of a prompt.

Limits: one message of one user, with at most one picture. Processors of models that read videos as
well need torchvision for their video part; those of Qwen-VL are used without that part where
torchvision is missing, others are refused with what to install.
"""

import json
from pathlib import Path
from typing import Any, Final

# Whose processors were tried without their video part.
_WORK_WITHOUT_VIDEO: Final = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def load_processor(folder: Path) -> Any:
    """The processor of `folder`, or the tokenizer where a model has no other.

    Raises:
        ValueError: its chat template cannot be used.
    """
    from transformers import AutoProcessor

    processor: Any = _suited(folder, AutoProcessor).from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    _try_template(folder, processor)
    return processor


def tokenizer_of(processor: Any) -> Any:
    """That of a processor, or what stands for one where a model reads no pictures."""
    return getattr(processor, "tokenizer", processor)


def has_pictures(processor: Any) -> bool:
    """Whether the model reads them."""
    return hasattr(processor, "image_processor")


def _suited(folder: Path, usual: Any) -> Any:
    """`usual`, or a processor without its video part where that could not be imported."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.utils import is_torchvision_available

    kind = json.loads((folder / "config.json").read_bytes()).get("model_type", "")
    if is_torchvision_available() or kind not in CONFIG_MAPPING:
        return usual
    own: Any = PROCESSOR_MAPPING.get(CONFIG_MAPPING[kind], None)
    if own is None or "video_processor" not in own.get_attributes():
        return usual
    if kind not in _WORK_WITHOUT_VIDEO:
        raise ValueError(
            f"model folder {str(folder)!r} is a {kind}, whose processor needs torchvision for its "
            "video part: pip install the torchvision that belongs to the installed torch, or take "
            "backend 'vllm', a LLaVA or a Qwen-VL"
        )
    return _without_video(own)


def _without_video(own: Any) -> Any:
    """Told which parts it has, the library loads these and asks for no other."""
    parts = [name for name in own.get_attributes() if name != "video_processor"]
    return type(own.__name__, (own,), {"get_attributes": classmethod(lambda _: list(parts))})


def question(instruction: str, order: str, image: Any) -> list[dict[str, Any]]:
    """The content of a message that asks `instruction` about `image`, in `order`."""
    text = {"type": "text", "text": instruction}
    picture = {"type": "image", "image": image}
    return [text, picture] if order == "text_first" else [picture, text]


def plain_text(processor: Any, text: str) -> Any:
    """The content of a message without a picture: of parts, where a template knows of pictures."""
    return [{"type": "text", "text": text}] if has_pictures(processor) else text


def check_text_first(processor: Any) -> None:
    """Raises ValueError if the template puts a picture before the text whatever the order."""
    content = [{"type": "text", "text": "INSTRUCTION"}, {"type": "image"}]
    text = render(processor, content)
    if not 0 <= text.find("INSTRUCTION") < text.find(processor.image_token):
        raise ValueError(
            "field 'prompt_order' is 'text_first': the model's chat template puts pictures first "
            "whatever the order; take 'image_first'"
        )


def render(processor: Any, content: list[dict[str, Any]] | str) -> str:
    """The prompt of one message, as the model's template has it."""
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )


def _try_template(folder: Path, processor: Any) -> None:
    """Renders the chat template once, in the library's sandbox: one that is missing, broken or
    reaches for Python would fail every row of the run.
    """
    try:
        render(processor, plain_text(processor, "Hello."))
    except Exception as error:
        raise ValueError(
            f"model folder {str(folder)!r} has no chat template that can be used: "
            f"{type(error).__name__}: {error}"
        ) from error
