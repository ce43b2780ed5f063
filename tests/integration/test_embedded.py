"""The loop on the embedded SDXL and LLaVA: real pictures, true lineage, the same bytes again."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import MakeConfig, read_pairs

from actors.scenes.grammar import parse
from pipelines.run import run

pytestmark = pytest.mark.usefixtures("local_ray")

EMBEDDED = ["generator.backend=sdxl", "captioner.backend=hf_mllm", "num_rounds=2", "unit_size=3"]
# Largest difference of one channel between batch sizes; measured 1/255 over batches of 1 to 16.
MAX_PIXEL_DIFFERENCE = 2


def _pixels(row: dict[str, Any]) -> np.ndarray:
    image = Image.open(io.BytesIO(row["image"]["bytes"]), formats=["PNG"])
    return np.asarray(image, dtype=np.int16)


@pytest.fixture
def scene_seeds(seed_file: Path) -> None:
    """Six seeds that the embedded models understand, over those of the module."""
    shipped = Path(__file__).parents[2] / "conf" / "seeds" / "scenes.txt"
    seed_file.write_text("\n".join(shipped.read_text().splitlines()[:6]) + "\n")


@pytest.mark.usefixtures("scene_seeds")
def test_embedded_pairs_are_true_to_their_lineage(make_config: MakeConfig, tmp_path: Path) -> None:
    totals = run(make_config(*EMBEDDED, output="a"))
    rows = read_pairs(tmp_path / "a")
    assert (totals.num_pairs, totals.num_error_rows) == (12, 0)
    assert totals.model_loads == {"generator": 1, "captioner": 1}
    by_id = {row["pair_id"]: row for row in rows}
    for row in rows:
        parent = by_id.get(row["parent_id"])
        assert row["prompt"] == (parent["description"] if parent else row["seed"])
        assert hashlib.sha256(row["image"]["bytes"]).hexdigest() == row["image_sha256"]
        assert _pixels(row).shape == (64, 64, 3)
        assert parse(row["description"]) is not None
        assert row["generator"]["digest"].startswith("sha256:")
        assert row["generator"]["licence"] == "apache-2.0"
        assert row["finish_reason"] == "stop"


@pytest.mark.slow
@pytest.mark.usefixtures("scene_seeds")
def test_a_resume_draws_the_very_same_bytes(make_config: MakeConfig, tmp_path: Path) -> None:
    run(make_config(*EMBEDDED, output="a"))
    rows = read_pairs(tmp_path / "a")
    # A crash before the last commit of one unit.
    lost = sorted((tmp_path / "a").glob("receipts/*/1.json"))[0]
    lost.unlink()
    again = run(make_config(*EMBEDDED, "pools.generator.num_replicas=2", output="a"))
    assert again.num_resumed == 9
    same = ("pair_id", "rng_seed_draw", "rng_seed_describe", "prompt", "description")
    for before, after in zip(rows, read_pairs(tmp_path / "a"), strict=True):
        assert [before[name] for name in same] == [after[name] for name in same]
        assert before["image_sha256"] == after["image_sha256"]


@pytest.mark.slow
@pytest.mark.usefixtures("scene_seeds")
def test_another_batch_size_changes_at_most_the_last_bits(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    words = [*EMBEDDED[:2], "num_rounds=1"]
    run(make_config(*words, "unit_size=6", output="a"))
    run(make_config(*words, "unit_size=4", "pools.generator.batch_size=1", output="b"))
    for one, other in zip(read_pairs(tmp_path / "a"), read_pairs(tmp_path / "b"), strict=True):
        for name in ("pair_id", "rng_seed_draw", "rng_seed_describe", "prompt"):
            assert one[name] == other[name]
        assert abs(_pixels(one) - _pixels(other)).max() <= MAX_PIXEL_DIFFERENCE


@pytest.mark.usefixtures("scene_seeds")
def test_the_embedded_author_writes_distinct_seeds(make_config: MakeConfig) -> None:
    author = ["seeds.path=null", "seeds.author.num_batches=2", "seeds.author.batch_size=8"]
    from pipelines.run import write_seeds

    table = write_seeds(make_config(*author))
    texts = table.column("seed").to_pylist()
    assert len(set(texts)) == 16
    assert sum(parse(text) is not None for text in texts) >= 14
