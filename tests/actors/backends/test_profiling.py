"""actors/backends/profiling.py: a trace of real models, and a run that does not mind its loss."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from actors.backends.profiling import ProfileConfig, ProfiledTask, build_profiled
from actors.image_to_text import ImageToTextConfig, build_image_to_text
from actors.images import encode_image
from actors.text_to_image import TextToImageConfig, build_text_to_image
from cluster.dispatch import BatchSteps

Row = dict[str, Any]


def _prompts(number: int) -> list[Row]:
    return [{"prompt": "a large red circle", "rng_seed_draw": i} for i in range(number)]


def _pictures(number: int) -> list[Row]:
    data = encode_image(Image.new("RGB", (64, 64), "red").effect_spread(9)).data
    return [{"image": {"bytes": data}, "rng_seed_describe": i} for i in range(number)]


def _events(path: Path) -> list[Row]:
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def test_a_trace_of_the_generator_holds_its_convolutions_and_only_the_calls_asked_for(
    tmp_path: Path,
) -> None:
    config = ProfileConfig(torch=True, skip_calls=1, record_calls=2)
    build = TextToImageConfig(num_steps=1)
    task = build_profiled(lambda: build_text_to_image(build), "generator", config, str(tmp_path))
    assert isinstance(task, BatchSteps)
    answers = [task.finish(task.work(task.prepare(_prompts(2)))) for _ in range(4)]
    assert all(row["image"]["bytes"] for rows in answers for row in rows)
    (path,) = tmp_path.glob("generator-*.json.gz")
    names = [event.get("name", "") for event in _events(path)]
    assert {"aten::conv2d", "aten::linear", "aten::group_norm"} <= set(names)
    spans = {name for name in names if name.startswith("generator call")}
    assert spans == {"generator call 2", "generator call 3"}


def test_a_trace_of_the_captioner_holds_its_attention(tmp_path: Path) -> None:
    config = ProfileConfig(torch=True, skip_calls=0, record_calls=1)
    build = ImageToTextConfig(max_new_tokens=4)
    task = build_profiled(lambda: build_image_to_text(build), "captioner", config, str(tmp_path))
    rows = task.finish(task.work(task.prepare(_pictures(2))))
    assert len(rows) == 2
    (path,) = tmp_path.glob("captioner-*.json.gz")
    names = {event.get("name", "") for event in _events(path)}
    assert {"aten::scaled_dot_product_attention", "aten::embedding"} <= names


def test_a_place_that_cannot_be_written_costs_the_trace_and_no_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    config = ProfileConfig(torch=True, skip_calls=0, record_calls=1)
    task = ProfiledTask(lambda rows: rows, "generator", config, str(tmp_path / "file" / "folder"))
    assert task.finish(task.work(task.prepare([{"x": 1}]))) == [{"x": 1}]
    assert "no trace of torch, it did not store" in caplog.text


def test_a_call_that_fails_raises_its_own_error_and_the_next_one_works(tmp_path: Path) -> None:
    fails = [True, False]

    def task(rows: list[Row]) -> list[Row]:
        if fails.pop(0):
            raise RuntimeError("the engine's own words")
        return rows

    config = ProfileConfig(torch=True, skip_calls=0, record_calls=2)
    profiled = ProfiledTask(task, "generator", config, str(tmp_path / "traces"))
    with pytest.raises(RuntimeError, match="own words"):
        profiled.work([])
    assert profiled.finish(profiled.work([{"x": 1}])) == [{"x": 1}]
    assert not (tmp_path / "traces").exists()


@pytest.mark.parametrize("wrong", [{"skip_calls": -1}, {"record_calls": 0}, {"record_calls": 101}])
def test_a_number_of_calls_that_makes_no_sense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ProfileConfig(**wrong)
