"""The task of scoring: rows with an image and a description in, the same rows with scores out.

Fills `SCORE_COLUMNS`. How alike two things are is the cosine of their CLIP vectors: of the image
and its prompt (CLIP-T; Hessel et al., "CLIPScore", EMNLP 2021, without its factor), of the image
and its description, and of both with those of round 0 and of the round before, whose vectors come
with the row (`MEMORY_VECTORS`). A prompt that is the description of the round before is not encoded
again.

What is configured must answer: a row whose image cannot be read or that any of the models fails on,
or gives no number for, becomes an error row. Nothing passes unchecked.
Limits: `score_s` is the row's equal share of its batch, reading the picture left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.backends.simulated import SimulatedScoreEngine
from actors.caption_hygiene import find_flags
from actors.engines import Scored, ScoreEngine
from actors.images import decode_image
from actors.isolation import (
    Experience,
    PreparedRows,
    WorkedRows,
    finish_rows,
    prepare_rows,
    work_rows,
)
from actors.phash import phash
from actors.reasons import Reason, RowError
from actors.records import MEMORY_VECTORS, Row
from actors.scoring_config import ScorerConfig

Vector = np.ndarray[Any, np.dtype[np.float32]]
_PROBABILITIES = ("punsafe", "pwatermark")


@dataclass(frozen=True, eq=False)
class ToScore:
    """What is known of a row before its engine; `texts` has the description first, then the prompt
    if it is new."""

    picture: Any
    phash: str
    flags: list[str]
    texts: list[str]
    memory: dict[str, Vector]


Result = tuple[ToScore, Scored]


class Scoring:
    """A batch of rows in, the same rows with scores out; also in steps (cluster's BatchSteps)."""

    def __init__(self, engine: ScoreEngine, config: ScorerConfig, instruction: str = "") -> None:
        self._engine = engine
        self._heads = config.heads()
        self._hygiene = config.hygiene
        self._instruction = instruction
        self._experience = Experience()

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        return self.finish(self.work(self.prepare(rows)))

    def prepare(self, rows: Sequence[Row]) -> PreparedRows[ToScore]:
        return prepare_rows(rows, self._read, self._experience)

    def work(self, prepared: PreparedRows[ToScore]) -> WorkedRows[Result]:
        return work_rows(prepared, self._score, self._experience)

    def finish(self, worked: WorkedRows[Result]) -> list[Row]:
        return finish_rows(worked, self._columns, "score_s", self._experience)

    def _read(self, row: Row) -> ToScore:
        image = row["image"]
        if not image or not image["bytes"]:
            raise RowError(Reason.IMAGE_MISSING, "nothing to score")
        if not row["description"]:
            raise RowError(Reason.DESCRIPTION_EMPTY, "nothing to score")
        picture = decode_image(image["bytes"])
        memory = {
            name: np.frombuffer(row[name], np.dtype("<f4")) for name in MEMORY_VECTORS if row[name]
        }
        is_known = row["parent_id"] is not None and "text_embedding_previous" in memory
        return ToScore(
            picture=self._engine.preprocess(picture),
            phash=phash(picture),
            flags=find_flags(row["description"], self._instruction, self._hygiene),
            texts=[row["description"]] if is_known else [row["description"], row["prompt"]],
            memory=memory,
        )

    def _score(self, items: list[ToScore]) -> list[Any]:
        scored = self._engine.score([one.picture for one in items], [one.texts for one in items])
        # Another number of answers is for whoever isolates rows to see.
        return list(zip(items, scored, strict=True)) if len(scored) == len(items) else scored

    def _columns(self, result: Result) -> Row:
        item, scored = result
        image, text = scored.image, scored.texts[0]
        memory = item.memory
        prompt = scored.texts[1] if len(scored.texts) > 1 else memory["text_embedding_previous"]
        if not all(np.isfinite(one).all() for one in (image, *scored.texts)):
            raise RowError(Reason.SCORE_MISSING, "a vector with a NaN or an infinity")
        return {
            "clip_similarity": cosine(image, prompt),
            "clip_similarity_description": cosine(image, text),
            **_compare("image", image, memory),
            **_compare("text", text, memory),
            **{name: self._head(name, scored) for name in self._heads},
            "phash": item.phash,
            "caption_flags": item.flags,
            "image_embedding": image.astype("<f4").tobytes(),
            "text_embedding": text.astype("<f4").tobytes(),
        }

    def _head(self, name: str, scored: Scored) -> float:
        value = scored.heads.get(name)
        if (
            value is None
            or not np.isfinite(value)
            or (name in _PROBABILITIES and not 0.0 <= value <= 1.0)
        ):
            raise RowError(Reason.SCORE_MISSING, f"{name} is {value}")
        return float(np.float32(value))


def cosine(one: Vector, other: Vector) -> float:
    """Of two vectors of length 1, as a float32 has it."""
    return float(np.float32(np.clip(np.dot(one.astype(np.float64), other), -1.0, 1.0)))


def _compare(kind: str, vector: Vector, memory: dict[str, Vector]) -> Row:
    """Round 0 is its own first, and has none before it."""
    first = memory.get(f"{kind}_embedding_first")
    previous = memory.get(f"{kind}_embedding_previous")
    return {
        f"{kind}_similarity_first": 1.0 if first is None else cosine(vector, first),
        f"{kind}_similarity_previous": None if previous is None else cosine(vector, previous),
    }


def build_scoring(
    config: ScorerConfig, expected_digest: str | None = None, instruction: str = ""
) -> Scoring:
    """Loads the models and returns the task; called in the process that will score.

    `instruction` is what the descriptions are answers to.

    Raises:
        ValueError: the models are not those of `expected_digest`, which is an identity's.
    """
    if config.backend == "simulated":
        engine: ScoreEngine = SimulatedScoreEngine(config.simulated)
    else:
        from actors.backends.encoders import ClipEngine

        engine = ClipEngine(config, expected_digest)
    return Scoring(engine, config, instruction)
