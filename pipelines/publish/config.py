"""What a published dataset is to be: its form, its splits, its filter, what the card cannot know.

Limits: two splits, train and validation. A chain goes to one of them by its id alone, so that it
stays there whatever is published later, with another filter or another run beside it.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from pipelines.filters import FilterConfig

# A shard is one put to the store (5 GiB on S3), and is in memory as often as three times.
MIN_SHARD_BYTES, MAX_SHARD_BYTES = 1 << 10, 4 << 30
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """One publish; all of it decides the bytes, so a resume must have the same."""

    # parquet: rows with their pictures. webdataset: tar files of <pair_id>.png, .txt, .json.
    # llava: pictures, and lists of conversations as LLaVA's trainer reads them. folder: pictures,
    # and metadata.jsonl as the `imagefolder` loader of `datasets` reads it, without the vectors
    format: Literal["parquet", "webdataset", "llava", "folder"] = "parquet"
    shard_bytes: int = 256 << 20  # of a Parquet or tar file, about
    rows_a_group: int = 100  # of a Parquet row group: the hub's viewer reads one whole
    validation_share: float = 0.05  # of the chains; 0: all are for training
    is_partial: bool = False  # publish what there is of a run that is not finished
    name: str = ""  # the card's title; empty: one made of the run's fingerprint
    licence: str = "unknown"  # of the dataset, as the hub names it: cc-by-4.0, apache-2.0, other
    language: str = "en"  # of the descriptions, as the hub names it
    filter: FilterConfig = field(default_factory=FilterConfig)

    def __post_init__(self) -> None:
        if not MIN_SHARD_BYTES <= self.shard_bytes <= MAX_SHARD_BYTES:
            raise ValueError(
                f"field 'shard_bytes' is {self.shard_bytes}: must be from {MIN_SHARD_BYTES} to "
                f"{MAX_SHARD_BYTES}"
            )
        if not 1 <= self.rows_a_group <= 100_000:
            raise ValueError(f"field 'rows_a_group' is {self.rows_a_group}: must be 1 to 100000")
        if not 0.0 <= self.validation_share < 1.0:
            raise ValueError(
                f"field 'validation_share' is {self.validation_share}: must be at least 0, below 1"
            )
        for name in ("licence", "language"):
            if not _TAG.fullmatch(getattr(self, name)):
                raise ValueError(
                    f"field {name!r} is {getattr(self, name)!r}: must be as the hub has it, e.g. "
                    "cc-by-4.0 or en"
                )
        if "\n" in self.name:
            raise ValueError("field 'name' must be one line")
