"""A small run of the embedded world, written by hand: what is said is true until an object goes.

In round 2 every picture and its description have lost the last object of the seed.
Limits: pictures are rendered, no model drew them.
"""

import hashlib
import io
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from corrupt import RunWriter, put_json
from PIL import Image

from actors.records import derive_chain_ids
from actors.scenes.grammar import Scene, caption, sample_scene
from actors.scenes.render import render

Row = dict[str, Any]


@dataclass(kw_only=True)
class SceneRun(RunWriter):
    """`RunWriter` with scenes of two objects and more; `pairs` are those that were written."""

    unit_size: int = 2

    def write_all(self) -> "SceneRun":
        """Every unit, all rounds."""
        for index in range(len(self.units)):
            self.write_unit(index)
        return self

    def _write_run(self) -> None:
        rng = np.random.default_rng(0)
        sampled = (sample_scene(rng) for _ in range(100))
        self.scenes = [one for one in sampled if len(one.objects) > 1][: self.num_seeds]
        self.pairs: list[Row] = []
        self.seeds = [caption(one) for one in self.scenes]
        self.chain_ids = derive_chain_ids(7, self.seeds)
        super()._write_run()
        path = self.folder / "run.json"
        record = json.loads(path.read_text())
        record["record"]["generator"] = {"width_px": 64, "height_px": 64}
        put_json(path, record)

    def _pair(self, row: Row, chain: int, round_index: int) -> Row:
        scene: Scene = self.scenes[chain]
        if round_index == 2:
            scene = replace(scene, objects=scene.objects[:-1])
        sink = io.BytesIO()
        Image.fromarray(render(scene, np.random.default_rng(chain))).save(sink, "PNG")
        self.texts[row["chain_id"], round_index] = caption(scene)
        pair = super()._pair(row, chain, round_index) | {
            "image": {"bytes": sink.getvalue(), "path": None},
            "image_sha256": hashlib.sha256(sink.getvalue()).hexdigest(),
            "description": caption(scene),
        }
        self.pairs.append(pair)
        return pair
