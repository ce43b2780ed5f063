"""The pictures of one commit as sprites: few files with some thumbnails each.

A file for every thumbnail would be 100,000 files for as many pairs, and one sprite for a whole
unit is decoded whole for a single strip: 16 of 192 px are a quarter of a megapixel each.

Limits: pictures of one commit share a cell as large as the largest of them. Bytes depend on the
pixels and on the version of Pillow.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from actors.images import decode_image
from actors.reasons import RowError

SPRITE_COLUMNS = 4
PER_SPRITE = SPRITE_COLUMNS**2
# Method 4 took twice as long for 5 to 7 % fewer bytes of the embedded world's pictures.
_WEBP = {"quality": 82, "method": 2}


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """The sprites of one commit.

    Attributes:
        cell: width and height of a place in the grid, px.
        sizes: of each picture, width and height of its thumbnail; None where there is none.
        files: encoded sprites; picture i lies in file i // 16 at place i % 16, row by row.
    """

    cell: tuple[int, int]
    sizes: list[tuple[int, int] | None]
    files: list[bytes]


def make_sheet(pictures: Iterable[bytes | None], thumbnail_px: int) -> Sheet:
    """Draws thumbnails into sprites; bytes that do not decode are no picture."""
    thumbnails = [_thumbnail(data, thumbnail_px) for data in pictures]
    there = [one for one in thumbnails if one is not None]
    cell = (max((one.width for one in there), default=1), max((o.height for o in there), default=1))
    return Sheet(
        cell=cell,
        sizes=[None if one is None else one.size for one in thumbnails],
        files=[
            _sprite(thumbnails[start : start + PER_SPRITE], cell)
            for start in range(0, len(thumbnails) if there else 0, PER_SPRITE)
        ],
    )


def _thumbnail(data: bytes | None, thumbnail_px: int) -> Image.Image | None:
    if not data:
        return None
    try:
        image = decode_image(data)
    except RowError:
        return None  # a dead letter may hold what was refused: its message says so
    if max(image.size) > thumbnail_px:
        image.thumbnail((thumbnail_px, thumbnail_px), Image.Resampling.LANCZOS)
    return image


def _sprite(thumbnails: Sequence[Image.Image | None], cell: tuple[int, int]) -> bytes:
    num_columns = min(len(thumbnails), SPRITE_COLUMNS)
    num_rows = -(-len(thumbnails) // SPRITE_COLUMNS)
    sprite = Image.new("RGB", (num_columns * cell[0], num_rows * cell[1]))
    for place, one in enumerate(thumbnails):
        if one is not None:
            at = (place % SPRITE_COLUMNS * cell[0], place // SPRITE_COLUMNS * cell[1])
            sprite.paste(one, at)
    buffer = io.BytesIO()
    sprite.save(buffer, "WEBP", **_WEBP)
    return buffer.getvalue()
