"""pipelines/contact_sheet.py: a sheet that shows pictures, words and faults where they belong."""

import io

import numpy as np
from PIL import Image

from actors.records import Row
from pipelines.contact_sheet import CELL_PX, FAULT, INK, draw_sheet


def _row(round_index: int, colour: tuple[int, int, int] | None, error: str | None = None) -> Row:
    data = None
    if colour:
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
        data = {"bytes": buffer.getvalue(), "path": "x.png"}
    row = {"chain_id": "c", "round_index": round_index, "seed": "a long seed " * 20, "image": data}
    if error is None:
        return row | {"description": "said"}
    return row | {"reason": "image_blank", "message": error}


def test_rounds_stand_side_by_side_and_a_failed_one_is_marked() -> None:
    chain = [_row(0, (10, 200, 30)), _row(1, None, error="nothing was drawn")]
    sheet = np.asarray(draw_sheet([chain], num_rounds=3))
    middle = 12 + CELL_PX // 2
    first, second = 12 + 1 * (CELL_PX + 12), 12 + 2 * (CELL_PX + 12)
    assert tuple(sheet[middle, first + CELL_PX // 2]) == (10, 200, 30)
    assert tuple(sheet[12, second + 5]) == FAULT
    words = sheet[12 + CELL_PX :, first:second].reshape(-1, 3)
    assert (words == INK).all(axis=1).any()


def test_a_wide_picture_keeps_its_shape() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32), (10, 200, 30)).save(buffer, "PNG")
    row = _row(0, None) | {"description": "said", "image": {"bytes": buffer.getvalue()}}
    cell = np.asarray(draw_sheet([[row]], num_rounds=1))[12:, 12 + CELL_PX + 12 :][:CELL_PX]
    is_green = (cell[:, :CELL_PX] == (10, 200, 30)).all(axis=2)
    assert (is_green.any(axis=1).sum(), is_green.any(axis=0).sum()) == (CELL_PX // 2, CELL_PX)


def test_bytes_that_are_no_picture_are_a_failed_one() -> None:
    row = _row(0, None, error="cannot be read") | {"image": {"bytes": b"no picture", "path": None}}
    sheet = np.asarray(draw_sheet([[row]], num_rounds=1))
    assert tuple(sheet[12, 12 + 1 * (CELL_PX + 12) + 5]) == FAULT
