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
