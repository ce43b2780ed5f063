"""What engines of chat models share: a folder's processor, its template, the order of a prompt.

Limits: one message of one user, with at most one picture.
"""

from pathlib import Path
from typing import Any


def load_processor(folder: Path) -> Any:
    """The processor of `folder`, or the tokenizer where a model has no other.

    Raises:
        ValueError: its chat template cannot be used.
    """
    from transformers import AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    _try_template(folder, processor)
    return processor


def question(instruction: str, order: str, image: Any) -> list[dict[str, Any]]:
    """The content of a message that asks `instruction` about `image`, in `order`."""
    text = {"type": "text", "text": instruction}
    picture = {"type": "image", "image": image}
    return [text, picture] if order == "text_first" else [picture, text]


def plain_text(processor: Any, text: str) -> Any:
    """The content of a message without a picture: of parts, where a template knows of pictures."""
    is_mllm = hasattr(processor, "tokenizer")
    return [{"type": "text", "text": text}] if is_mllm else text


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
