"""What differs between a pair as it was committed and the same pair made again. Pure.

Limits: texts are compared word by word; pictures pixel by pixel, on the 0 to 255 scale.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.images import decode_image

# What another batch size does to a picture, as measured (README, "What is guaranteed").
BATCH_NOISE = 2


@dataclass(frozen=True, kw_only=True)
class ImageDifference:
    """Two pictures; differences are of one channel of one pixel, from 0 to 255."""

    is_same_bytes: bool
    is_same_size: bool
    max_difference: int | None  # None where the sizes differ
    mean_difference: float | None
    share_of_pixels: float | None  # that differ in any channel

    @property
    def is_same_picture(self) -> bool:
        """Every pixel is equal; the bytes may not be (another encoder, other settings)."""
        return self.max_difference == 0


@dataclass(frozen=True, kw_only=True)
class TextDifference:
    """Two texts, and the second with the words marked: `[-gone-]`, `{+new+}`."""

    recorded: str
    again: str
    marked: str

    @property
    def is_same(self) -> bool:
        """Equal to the last character."""
        return self.recorded == self.again


@dataclass(frozen=True, kw_only=True)
class PairAgain:
    """One pair, made again from its record.

    Attributes:
        models: what is another model than the record names, by digest and parameters; empty where
            all is as it was.
        rng_seeds: those of the record that do not follow from run seed, chain and round.
        image: None where no picture could be drawn; `problems` says why.
        description: of the picture that is on record, so that a captioner is told apart from a
            generator; None where there is none.
        description_again: of the picture drawn now, where that is another one.
        problems: rows that failed now, `stage: code: message`.
    """

    pair_id: str
    models: list[str]
    rng_seeds: list[str]
    image: ImageDifference | None
    is_prompt_truncated: tuple[bool, bool] | None  # recorded, now
    description: TextDifference | None
    description_again: TextDifference | None
    draw_s: float | None
    describe_s: float | None
    problems: list[str]

    @property
    def is_same(self) -> bool:
        """Models, rng_seeds, picture and description are all as recorded."""
        return (
            not (self.models or self.rng_seeds or self.problems)
            and self.image is not None
            and self.image.is_same_picture
            and self.description is not None
            and self.description.is_same
        )


def compare_images(recorded: bytes, again: bytes) -> ImageDifference:
    """Decodes both, and compares.

    Raises:
        RowError: one does not decode.
    """
    pixels = [np.asarray(decode_image(data), np.int16) for data in (recorded, again)]
    is_same_size = pixels[0].shape == pixels[1].shape
    apart = np.abs(pixels[0] - pixels[1]) if is_same_size else None
    return ImageDifference(
        is_same_bytes=recorded == again,
        is_same_size=is_same_size,
        max_difference=None if apart is None else int(apart.max()),
        mean_difference=None if apart is None else float(apart.mean()),
        share_of_pixels=None if apart is None else float(apart.any(axis=-1).mean()),
    )


def compare_texts(recorded: str, again: str) -> TextDifference:
    """What was said then and what is said now."""
    return TextDifference(
        recorded=recorded, again=again, marked=_mark(recorded.split(), again.split())
    )


def _mark(before: Sequence[str], after: Sequence[str]) -> str:
    parts: list[str] = []
    matcher = difflib.SequenceMatcher(a=before, b=after, autojunk=False)
    for kind, at, until, new_at, new_until in matcher.get_opcodes():
        if kind == "equal":
            parts += before[at:until]
            continue
        if until > at:
            parts.append(f"[-{' '.join(before[at:until])}-]")
        if new_until > new_at:
            parts.append(f"{{+{' '.join(after[new_at:new_until])}+}}")
    return " ".join(parts)
