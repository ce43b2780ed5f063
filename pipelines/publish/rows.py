"""One pair as the formats that are not Parquet hold it: a picture's name, a text, plain JSON.

Limits: LLaVA's trainer takes every `<image>` in a conversation for the place of the picture, so one
in a text is written `(image)`.
"""

import json
import math
from datetime import datetime
from typing import Any

from actors.records import Row
from cluster.errors import CommitError

IMAGE_TOKEN = "<image>"


def image_suffix(data: bytes, pair_id: str) -> str:
    """`png`, `jpg` or `webp`, told from the first bytes.

    Raises:
        CommitError: it is none of them.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    raise CommitError(
        f"the image of pair {pair_id} is neither PNG, JPEG nor WebP: it begins with {data[:8]!r}"
    )


def image_folder(chain_id: str) -> str:
    """One of 256: the hub wants no more than 10,000 files in a folder, and a chain stays whole."""
    return chain_id[:2]


def plain_row(row: Row) -> Row:
    """Everything but the picture, as JSON has it."""
    return {name: _plain(value) for name, value in row.items() if name != "image"}


def to_json(value: Any) -> str:
    """One line, keys in their order."""
    return json.dumps(value, ensure_ascii=False)


def llava_record(row: Row, image: str) -> Row:
    """A pair as `LazySupervisedDataset` of LLaVA's trainer reads it (`llava/train/train.py`)."""
    asked = str(row["instruction"] or "Describe the image.").replace(IMAGE_TOKEN, "(image)")
    return {
        "id": row["pair_id"],
        "image": image,
        "conversations": [
            {"from": "human", "value": f"{IMAGE_TOKEN}\n{asked}"},
            {"from": "gpt", "value": str(row["description"]).replace(IMAGE_TOKEN, "(image)")},
        ],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no word for it
    return value.isoformat() if isinstance(value, datetime) else value
