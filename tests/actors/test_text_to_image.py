import hashlib
import json
from pathlib import Path

import pytest

from actors.backends.simulated import SimulatedConfig, draw_image, read_prompt
from actors.engines import Drawn, EngineDeadError
from actors.images import FORMATS, decode_image
from actors.reasons import Reason
from actors.records import Row
from actors.text_to_image import TextToImage, TextToImageConfig, build_text_to_image
from cluster.dispatch import BatchSteps


def _rows(*prompts: str | None) -> list[Row]:
    return [
        {"chain_id": str(i), "prompt": prompt, "rng_seed_draw": 100 + i, "error": None}
        for i, prompt in enumerate(prompts)
    ]


def _task(**simulated: object) -> TextToImage:
    return build_text_to_image(
        TextToImageConfig(backend="simulated", simulated=SimulatedConfig(**simulated))
    )


def test_every_row_gets_the_picture_of_its_own_prompt() -> None:
    rows = _task()(_rows("one", "two", "three"))
    for row, prompt in zip(rows, ["one", "two", "three"], strict=True):
        data = row["image"]["bytes"]
        assert read_prompt(decode_image(data)) == prompt == row["prompt"]
        assert row["image_sha256"] == hashlib.sha256(data).hexdigest()
        assert row["image"]["path"].endswith(".png")
        assert (row["width"], row["height"], row["is_prompt_truncated"]) == (64, 64, False)
        assert row["draw_s"] >= 0.0
        assert row["error"] is None


def test_equal_seeds_give_equal_bytes_whatever_the_batch() -> None:
    together = _task()(_rows("one", "two"))
    alone = [row for each in _rows("one", "two") for row in _task()([each])]
    assert [r["image_sha256"] for r in together] == [r["image_sha256"] for r in alone]
    other = _task()([_rows("one")[0] | {"rng_seed_draw": 7}])
    assert other[0]["image_sha256"] != together[0]["image_sha256"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise", Reason.ENGINE_ERROR),
        ("wrong_count", Reason.WRONG_ROW_COUNT),
        ("empty", Reason.IMAGE_BLANK),
        ("broken", Reason.IMAGE_WRONG_MODE),
        ("wrong_size", Reason.IMAGE_WRONG_SIZE),
        ("nan", Reason.IMAGE_NOT_FINITE),
        ("oom", Reason.OUT_OF_MEMORY),
    ],
)
def test_a_faulty_row_fails_alone(fault: str, reason: Reason) -> None:
    rows = _task(fault=fault, fault_marker="BAD")(_rows("a", "b", "BAD c", "d", "e"))
    assert [row["error"] is None for row in rows] == [True, True, False, True, True]
    assert rows[2]["error"].startswith(f"{reason}: ")
    assert "image" not in rows[2]
    assert [row["chain_id"] for row in rows] == list("01234")


def test_a_batch_that_does_not_fit_is_cut_and_so_are_later_ones(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    task = _task(fault="oom", oom_above=2, log_path=str(log))
    for _ in range(2):
        assert all(row["error"] is None for row in task(_rows(*"abcdefgh")))
    calls = [json.loads(line) for line in log.read_text().splitlines()][1:]
    assert [len(call["prompts"]) for call in calls] == [2] * 8  # those that went through


def test_pictures_that_changed_places_lose_no_row_and_are_recorded_as_they_are() -> None:
    # A task cannot see it (actors/isolation.py, Limits). What stays true: every row has one
    # picture, with that picture's own hash; the describer then speaks of the picture that is there.
    rows = _task(fault="permuted", fault_marker="BAD")(_rows("a", "BAD", "c"))
    pictures = [row["image"]["bytes"] for row in rows]
    assert [read_prompt(decode_image(data)) for data in pictures] == ["BAD", "c", "a"]
    assert [row["error"] for row in rows] == [None] * 3
    for row, data in zip(rows, pictures, strict=True):
        assert row["image_sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("answer", [None, draw_image("a", 1, 64, 64), "text", b"bytes"])
def test_a_result_that_is_no_drawn_picture_is_an_error_of_its_row(answer: object) -> None:
    class OddEngine:
        def draw(self, prompts: list[str], rng_seeds: list[int]) -> list[Drawn]:
            good = Drawn(image=draw_image(prompts[0], rng_seeds[0], 64, 64))
            return [good, answer]

    rows = TextToImage(OddEngine(), TextToImageConfig())(_rows("a", "b"))
    assert rows[0]["error"] is None
    assert rows[1]["error"].startswith("image_missing: the engine returned ")


@pytest.mark.parametrize("prompt", ["", "  ", None])
def test_an_empty_prompt_is_not_sent_to_the_engine(prompt: str | None) -> None:
    rows = _task()(_rows("a", prompt))
    assert [row["error"] for row in rows] == [None, "prompt_empty: nothing to draw"]


def test_a_dead_engine_is_no_row_error() -> None:
    with pytest.raises(EngineDeadError):
        _task(fault="dead", fault_marker="BAD")(_rows("a", "BAD"))


def test_no_rows_are_no_call() -> None:
    assert _task()([]) == []


def test_a_long_prompt_is_marked_as_cut() -> None:
    config = TextToImageConfig(backend="simulated", width_px=8, height_px=8)
    (row,) = build_text_to_image(config)(_rows("x" * 300))
    assert row["is_prompt_truncated"] is True
    assert row["prompt"] == "x" * 300


@pytest.mark.parametrize(
    ("image_format", "head"),
    [
        ("png", b"\x89PNG"),
        ("jpeg", b"\xff\xd8\xff"),
        ("webp", b"RIFF"),
        ("webp_lossless", b"RIFF"),
    ],
)
def test_the_format_is_the_configs(image_format: str, head: bytes) -> None:
    config = TextToImageConfig(backend="simulated", image_format=image_format)
    (row,) = build_text_to_image(config)(_rows("a"))
    data = row["image"]["bytes"]
    assert data.startswith(head)
    is_kept = decode_image(data).tobytes() == draw_image("a", 100, 64, 64).tobytes()
    assert is_kept is FORMATS[image_format].is_lossless


def test_what_decides_the_bytes_is_recorded_and_nothing_else() -> None:
    params = {name: set(TextToImageConfig(image_format=name).sampling_params()) for name in FORMATS}
    other = params["jpeg"] - {"image_quality"}
    assert params["png"] == params["webp_lossless"] == other | {"image_effort"}
    assert params["webp"] == other | {"image_quality", "image_effort"}


def test_in_steps_it_does_the_same() -> None:
    task = _task(fault="nan", fault_marker="BAD")
    assert isinstance(task, BatchSteps)
    rows = _rows("a", "BAD", None, "b")
    stepped = task.finish(task.work(task.prepare(rows)))
    assert [row | {"draw_s": 0} for row in stepped] == [row | {"draw_s": 0} for row in task(rows)]
    assert "image" not in rows[0]


def test_the_engine_is_in_the_middle_step_alone_and_encoding_in_the_last() -> None:
    calls: list[str] = []

    class Engine:
        def draw(self, prompts: list[str], rng_seeds: list[int]) -> list[Drawn]:
            calls.append(f"draw {len(prompts)}")
            if "BAD" in prompts:
                raise ValueError("a bad prompt")
            return [Drawn(image=draw_image(p, 0, 64, 64)) for p in prompts]

    task = TextToImage(Engine(), TextToImageConfig())
    prepared = task.prepare(_rows("a", "BAD"))
    assert calls == []
    worked = task.work(prepared)
    assert calls == ["draw 2", "draw 2", "draw 1", "draw 1", "draw 1"], "halving is its part"
    assert all("image" not in row for row in worked.rows)
    good, bad = task.finish(worked)
    assert len(calls) == 5
    assert good["image"]["bytes"]
    assert (bad["error"], bad["error_attempts"]) == ("engine_error: ValueError: a bad prompt", 4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_steps", 0),
        ("guidance_scale", -1.0),
        ("width_px", 60),
        ("height_px", 8192),
        ("image_quality", 101),
        ("image_format", "gif"),
        ("image_effort", 10),
        ("image_threads", 0),
    ],
)
def test_fields_are_checked(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"field '{field}' is {value!r}"):
        TextToImageConfig(**{field: value})
