"""Draws a few chains of a run as film strips: the seed, then each round's image and description.

Limits: for a first look at the earliest chains. Reads one unit; small images are enlarged without
smoothing, so that what is seen is what the captioner saw.
"""

import textwrap
from itertools import groupby
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from actors.images import decode_image
from actors.reasons import RowError
from actors.records import Row
from cluster.ledger import Ledger
from cluster.receipts import Receipt

CELL_PX = 192
TEXT_PX = 84
FONT_PX = 12
CHARS_A_LINE = 31
NUM_LINES = 6
PAPER, INK, FAULT = (250, 249, 246), (34, 34, 34), (176, 32, 32)
_COLUMNS = ["chain_id", "round_index", "seed", "image"]


def read_chains(ledger: Ledger, num_chains: int) -> list[list[Row]]:
    """The rows of the first chains of the first committed unit, by chain, in round order."""
    committed = ledger.committed()
    first = min(committed, default=("", 0))[0]
    receipts = ledger.receipts(one for one in committed if one[0] == first)
    rows = [row for receipt in receipts for row in _read(ledger, receipt)]
    rows.sort(key=lambda row: (row["chain_id"], row["round_index"]))
    chains = [list(rows) for _, rows in groupby(rows, key=lambda row: row["chain_id"])]
    chains.sort(key=len, reverse=True)  # whole chains first, they show more
    return chains[:num_chains]


def draw_sheet(chains: list[list[Row]], num_rounds: int) -> Image.Image:
    """One line a chain, one column for the seed and one for every round."""
    width = (num_rounds + 1) * (CELL_PX + 12) + 12
    height = len(chains) * (CELL_PX + TEXT_PX + 12) + 12
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for line, chain in enumerate(chains):
        top = 12 + line * (CELL_PX + TEXT_PX + 12)
        _write(pen, (12, top + CELL_PX // 3), "seed: " + chain[0]["seed"], INK)
        for before, row in zip([chain[0], *chain], chain, strict=False):
            left = 12 + (row["round_index"] + 1) * (CELL_PX + 12)
            _draw_cell(sheet, pen, row, (left, top))
            if row["seed"] != before["seed"]:
                _write(pen, (left, top), f"began anew: {row['seed']}", FAULT)
    return sheet


def _read(ledger: Ledger, receipt: Receipt) -> list[Row]:
    pairs = ledger.read_pairs(receipt, [*_COLUMNS, "description"]).to_pylist()
    dead = ledger.read_dead_letters(receipt, [*_COLUMNS, "reason", "message"]).to_pylist()
    return pairs + dead


def _draw_cell(sheet: Image.Image, pen: Any, row: Row, at: tuple[int, int]) -> None:
    left, top = at
    image = _decode(row)
    if image is not None:
        is_small = max(image.size) < CELL_PX
        resample = Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS
        sheet.paste(ImageOps.contain(image, (CELL_PX, CELL_PX), resample), (left, top))
    else:
        pen.rectangle((left, top, left + CELL_PX, top + CELL_PX), outline=FAULT)
    is_pair = "description" in row
    text, ink = (row["description"], INK) if is_pair else (_why(row), FAULT)
    _write(pen, (left, top + CELL_PX + 2), text, ink)


def _decode(row: Row) -> Image.Image | None:
    """None where there is no picture, or bytes that are none: a dead letter may hold what was
    refused, and says so."""
    data = (row["image"] or {}).get("bytes")
    try:
        return decode_image(data) if data else None
    except RowError:
        return None


def _why(row: Row) -> str:
    return f"{row['reason']}: {row['message']}"


def _write(pen: Any, at: tuple[int, int], text: str, ink: tuple[int, int, int]) -> None:
    lines = textwrap.wrap(text, CHARS_A_LINE)
    if len(lines) > NUM_LINES:
        lines = [*lines[: NUM_LINES - 1], "..."]
    pen.multiline_text(at, "\n".join(lines), fill=ink, font=ImageFont.load_default(FONT_PX))
