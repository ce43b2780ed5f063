"""A small run whose chains each have a story: one keeps its meaning, one loses it, one breaks off.

Written by hand like all of `corrupt`, with pictures that can be told apart and texts that are
known, so that a test can say what a gallery must show. The chains come again and again, numbered,
when more of them are asked for.

Limits: rows have seconds and rng_seeds; models are the same everywhere.
"""

import hashlib
import io
from dataclasses import dataclass
from typing import Any

from corrupt import RunWriter
from PIL import Image, ImageDraw

from actors.records import derive_chain_ids

Row = dict[str, Any]

KEPT = (
    "a large red circle above a small blue square",
    "a large red circle above a small blue square",
    "a small blue square below a large red circle above",
    "a large red circle above a small blue square",
)
# Round 1 takes large, red, circle, blue and square at once: five of seven words.
LOST = (
    "a large red circle above a small blue square",
    "a large red circle above a small blue square",
    "a tiny green star above a small yellow cross",
    "a tiny green star above a small yellow cross",
)
DRIFTED = (
    "two purple triangles beside an orange cross",
    "two purple triangles beside an orange cross",
    "two purple triangles beside an orange cross",
    "two purple triangles beside an orange star",
)
HOSTILE = (
    "</script><script>document.title='owned'</script> \u2028 \"quoted\" 'single' & <b>bold</b>",
    "<img src=x onerror=\"document.title='owned'\"> \u2029 ${document.title} </textarea>",
    "]]> --> <!-- <svg onload=document.title='owned'> \\u003cscript\\u003e `tick` \x7f",
    "javascript:document.title='owned' {{7*7}} <a href=javascript:alert(1)>link</a>",
)
FAILED = (
    "a pink hexagon on a grey background",
    "a pink hexagon on a grey background",
    "this text is never reached",
    "nor is this",
)
STORIES = (KEPT, LOST, DRIFTED, HOSTILE, FAILED)
FAILED_CHAIN, FAILED_ROUND = 4, 1
MODEL = {"id": "by-hand", "revision": "1", "digest": "sha256:0", "licence": "none", "params": "{}"}


@dataclass(kw_only=True)
class StoryRun(RunWriter):
    """`RunWriter` with stories for texts; `num_seeds` may be more than there are."""

    num_seeds: int = len(STORIES)
    unit_size: int = 2
    failures: frozenset[tuple[int, int]] = frozenset({(FAILED_CHAIN, FAILED_ROUND)})
    picture_px: int = 48

    def write_all(self) -> "StoryRun":
        """Every unit, all rounds."""
        for index in range(len(self.units)):
            self.write_unit(index)
        return self

    def chain_of(self, story: int) -> str:
        """The id of the first chain with a story."""
        return self.chain_ids[story]

    def _story(self, chain: int, at: int) -> str:
        number = chain // len(STORIES)
        text = STORIES[chain % len(STORIES)][min(at, 3)]
        return f"{text} n{number}" if number else text

    def _write_run(self) -> None:
        self.seeds = [self._story(chain, 0) for chain in range(self.num_seeds)]
        self.chain_ids = derive_chain_ids(7, self.seeds)
        super()._write_run()

    def _pair(self, row: Row, chain: int, round_index: int) -> Row:
        pair = super()._pair(row, chain, round_index)
        image = draw(chain, round_index, self.picture_px)
        text = self._story(chain, round_index + 1)
        self.texts[row["chain_id"], round_index] = text
        return pair | {
            "image": {"bytes": image, "path": None},
            "image_sha256": hashlib.sha256(image).hexdigest(),
            "description": text,
            "generator": MODEL,
            "captioner": MODEL,
            "rng_seed_draw": 2**62 + chain,
            "rng_seed_describe": chain,
            "draw_s": 0.5,
            "describe_s": 0.25,
        }

    def _dead_letter(self, row: Row, chain: int) -> Row:
        picture = {"bytes": draw(chain, 9, self.picture_px), "path": None}
        return super()._dead_letter(row, chain) | {
            "message": 'the <engine> raised & gave "up"',
            "stage": "describe",
            "image": picture,
        }


def draw(chain: int, round_index: int, size_px: int) -> bytes:
    """A PNG that differs from chain to chain and from round to round."""
    image = Image.new("RGB", (size_px, size_px), (245, 244, 240))
    pen = ImageDraw.Draw(image)
    colour = (40 + chain * 53 % 200, 40 + chain * 97 % 200, 40 + round_index * 60 % 200)
    at = size_px // 8 + round_index * size_px // 12
    pen.ellipse((at, at, at + size_px // 2, at + size_px // 2), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
