"""The fixed texts that models are asked with, each with an id and a hash, and the rules by which
text is cleaned.

A changed text gets a new id: ids are written into every record. A config may bring its own text
under its own id.
Limits: cleaning is about characters, not about meaning; a filter for links, instructions or
toxic text is another stage. Zero-width joiners go as well, which alters some emoji and Indic or
Persian spellings.
"""

import difflib
import hashlib
import unicodedata
from dataclasses import dataclass
from typing import Final

from actors.scenes.defaults import AUTHOR_PROMPT, DEFAULT_INSTRUCTION
from actors.scenes.defaults import INSTRUCTIONS as EMBEDDED_INSTRUCTIONS


@dataclass(frozen=True)
class Instruction:
    """A text a model is asked with."""

    id: str
    text: str

    @property
    def sha256(self) -> str:
        """Of the text alone, so that one text under two ids is found out."""
        return hashlib.sha256(self.text.encode()).hexdigest()


INSTRUCTIONS: Final[dict[str, Instruction]] = {
    instruction.id: instruction
    for instruction in (
        # What the embedded models were trained with.
        Instruction("describe-v1", DEFAULT_INSTRUCTION),
        Instruction("describe-short-v1", EMBEDDED_INSTRUCTIONS["short"]),
        Instruction("describe-long-v1", EMBEDDED_INSTRUCTIONS["long"]),
        Instruction("write-v1", AUTHOR_PROMPT),
        # For full-size models. SDXL reads 77 tokens: a longer answer would be cut.
        Instruction(
            "describe-sentence-v1",
            "Describe this image in one sentence of at most 45 words: the main subject, its "
            "appearance, where things are, the setting and the style. Say only what can be seen. "
            "Answer with the sentence alone.",
        ),
        Instruction(
            "write-sentence-v1",
            "Write one vivid, specific description of a scene that could be drawn or photographed, "
            "in one sentence of at most 45 words: the main subject, its appearance, where things "
            "are, the setting and the style. Answer with the sentence alone.",
        ),
    )
}


def find_instruction(
    instruction_id: str, text: str = "", *, field: str = "instruction"
) -> Instruction:
    """The shipped instruction of that id, or `text` under an id of its own.

    Args:
        instruction_id: a shipped id, or a new one for `text`.
        text: empty for a shipped instruction.
        field: the config field that holds `text`; the id's is called the same with `_id` behind.

    Raises:
        ValueError: an unknown id without text, a shipped id with another text, or a text that
            cannot be written down because it holds a lone surrogate.
    """
    if any(unicodedata.category(char) == "Cs" for char in text):
        raise ValueError(f"field {field!r} is {text!r}: holds half a character; write it in UTF-8")
    shipped = INSTRUCTIONS.get(instruction_id)
    if shipped is None and not text:
        nearest = difflib.get_close_matches(instruction_id, INSTRUCTIONS, n=1, cutoff=0.0)
        raise ValueError(
            f"field '{field}_id' is {instruction_id!r}: must be one of "
            f"{', '.join(INSTRUCTIONS)}; did you mean {nearest[0]!r}? "
            f"For a text of your own, set {field!r} as well"
        )
    if shipped is not None and text and text != shipped.text:
        raise ValueError(
            f"field {field!r} is {text!r}, but {instruction_id!r} names another text: "
            f"give your text an '{field}_id' of its own"
        )
    return shipped or Instruction(instruction_id, text)


def clean_text(text: str) -> str:
    """NFC; controls, zero-width, private and unassigned characters and lone surrogates dropped;
    white space runs made one space.
    """
    spaced = " ".join(unicodedata.normalize("NFC", text).split())
    kept = "".join(char for char in spaced if unicodedata.category(char)[0] != "C")
    # Dropping a character may leave two spaces side by side, or one at an end.
    return " ".join(kept.split())
