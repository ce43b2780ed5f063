"""pipelines/gallery/pictures.py: each picture where the page looks for it, small, and none lost."""

import io

import numpy as np
from PIL import Image

from pipelines.gallery.pictures import PER_SPRITE, SPRITE_COLUMNS, make_sheet


def picture(colour: tuple[int, int, int], width: int = 64, height: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_lies_at_its_place() -> None:
    pictures = [picture((10 * at, 255 - 10 * at, 0)) for at in range(PER_SPRITE + 3)]
    sheet = make_sheet(pictures, 192)
    assert sheet.cell == (64, 64)
    assert len(sheet.files) == 2
    for at in (0, 5, PER_SPRITE + 2):
        with Image.open(io.BytesIO(sheet.files[at // PER_SPRITE])) as sprite:
            place = at % PER_SPRITE
            x, y = place % SPRITE_COLUMNS * 64 + 32, place // SPRITE_COLUMNS * 64 + 32
            found = np.array(sprite.convert("RGB").getpixel((x, y)))
        assert np.abs(found - (10 * at, 255 - 10 * at, 0)).max() < 16


def test_large_pictures_become_thumbnails_of_the_same_shape() -> None:
    sheet = make_sheet([picture((1, 2, 3), 1024, 512)], 192)
    assert (sheet.cell, sheet.sizes) == ((192, 96), [(192, 96)])


def test_what_is_no_picture_has_no_size_and_shifts_none() -> None:
    sheet = make_sheet([None, b"no picture", picture((200, 0, 0))], 192)
    assert sheet.sizes == [None, None, (64, 64)]
    assert make_sheet([None, b""], 192).files == []
