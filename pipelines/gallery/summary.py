"""What the first page of a gallery says of its run, before any chain is loaded.

Limits: everything comes from sums; chains that were not begun are in none of them.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipelines.gallery.config import GalleryConfig
from pipelines.gallery.meaning import IGNORED_WORDS
from pipelines.gallery.pictures import SPRITE_COLUMNS
from pipelines.gallery.search import ID_CHARS, MAX_WORD_CHARS
from pipelines.gallery.segments import SCORE_SCALE, SEGMENT_CHAINS, Sums, units_a_segment


@dataclass(frozen=True, kw_only=True)
class Overview:
    """A run as far as its gallery has read it."""

    output: str
    run: dict[str, Any]
    sums: Sums
    num_seeds: int | None  # None while the author is still writing them
    is_finished: bool
    version: str  # changes with every commit
    config: GalleryConfig
    spent_s: dict[str, float]  # GPU-seconds by pool, as far as attempts have put them on record

    @property
    def record(self) -> dict[str, Any]:
        """The config that the run was begun with."""
        return self.run["record"]

    @property
    def name(self) -> str:
        """The last part of the output, for titles: a place is nobody's business."""
        return PurePosixPath(self.output.rstrip("/")).name or "run"


def make_head(overview: Overview, segments: list[str]) -> dict[str, Any]:
    """What gallery.js needs before it loads an index."""
    sums, record = overview.sums, overview.record
    return {
        "name": overview.name,
        "mode": record["mode"],
        "version": overview.version,
        "is_finished": overview.is_finished,
        "num_rounds": record["num_rounds"],
        "num_seeds": overview.num_seeds,
        "num_chains": sums.get("num_chains", 0),
        "num_pairs": sums.get("num_pairs", 0),
        "status": sums.get("status", {}),
        "turned": sums.get("turned", {}),
        "codes": sums.get("codes", {}),
        "seed_recall": _seed_recall(sums, record["num_rounds"]),
        "num_truth_chains": _num_truth_chains(sums),
        "scores": list(sums.get("scores", {})),
        "score_scale": SCORE_SCALE,
        "kept_from": overview.config.kept_from,
        "lost_below": overview.config.lost_below,
        "segments": segments,
        "segment_units": units_a_segment(record["unit_size"]),
        "segment_chains": max(SEGMENT_CHAINS, record["unit_size"]),
        "unit_size": record["unit_size"],
        "sprite_columns": SPRITE_COLUMNS,
        "ignored_words": sorted(IGNORED_WORDS),
        "max_word_chars": MAX_WORD_CHARS,
        "id_chars": ID_CHARS,
    }


def _seed_recall(sums: Sums, num_rounds: int) -> list[float | None]:
    """Of what the seeds say, the share that is still said, by round; empty without an oracle."""
    rounds: dict[str, dict[str, int]] = sums.get("truth", {}).get("seed_recall", {})
    found = [rounds.get(str(index)) for index in range(num_rounds)] if rounds else []
    return [round(one["right"] / one["total"], 4) if one else None for one in found]


def _num_truth_chains(sums: Sums) -> int:
    """Chains of which the oracle was asked."""
    rounds: dict[str, dict[str, int]] = sums.get("truth", {}).get("seed_recall", {})
    return max((one["num_pairs"] for one in rounds.values()), default=0)
