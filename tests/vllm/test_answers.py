"""What vLLM answers: beside the transformers backend, and by the rules that all backends share."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from answers import texts_of
from PIL import Image
from vllm_shared import INSTRUCTION, RNG_SEEDS, SharedEngine, picture_rows

from actors.backends.hf_mllm import HfMllmEngine
from actors.backends.vllm_processes import processes_with
from actors.engines import Answer
from actors.image_to_text import ImageToText, ImageToTextConfig
from actors.reasons import Reason, RowError

pytestmark = pytest.mark.vllm

# The embedded model is sure of what it sees: as hot as vLLM allows it says several things of it.
HOT = {"temperature": 2.0}


def test_greedy_captions_are_those_of_transformers_in_every_row(
    shared: SharedEngine, pictures: list[Image.Image]
) -> None:
    said = shared.describe(pictures, INSTRUCTION, RNG_SEEDS)
    plain = HfMllmEngine(ImageToTextConfig())
    transformers = texts_of(plain.describe(pictures, INSTRUCTION, RNG_SEEDS))
    pairs = zip(said, transformers, strict=True)
    assert {i: pair for i, pair in enumerate(pairs) if pair[0] != pair[1]} == {}
    assert len(set(said)) > 150  # not one answer to all


@pytest.mark.parametrize("options", [{}, HOT, HOT | {"top_p": 0.8}], ids=str)
def test_a_text_does_not_depend_on_its_batch(
    shared: SharedEngine, pictures: list[Image.Image], options: dict[str, Any]
) -> None:
    together = shared.describe(pictures[:48], INSTRUCTION, RNG_SEEDS[:48], **options)
    for size in (1, 7):
        parts: list[str] = []
        for i in range(0, 48, size):
            last = min(i + size, 48)
            parts += shared.describe(pictures[i:last], INSTRUCTION, RNG_SEEDS[i:last], **options)
        assert parts == together


def test_rng_seeds_matter_when_sampling_and_only_then(
    shared: SharedEngine, pictures: list[Image.Image]
) -> None:
    grey = [Image.new("RGB", (64, 64), (90, 90, 90))] * 16
    assert len(set(shared.describe(grey, INSTRUCTION, RNG_SEEDS[:16]))) == 1
    sampled = shared.describe(grey, INSTRUCTION, RNG_SEEDS[:16], **HOT)
    assert len(set(sampled)) > 8
    assert shared.describe(grey, INSTRUCTION, RNG_SEEDS[:16][::-1], **HOT) == sampled[::-1]


def test_an_answer_ends_before_a_stop_string(
    shared: SharedEngine, pictures: list[Image.Image]
) -> None:
    free = shared.describe(pictures[:16], INSTRUCTION, RNG_SEEDS[:16])
    stopped = shared.ask(pictures[:16], INSTRUCTION, RNG_SEEDS[:16], stop_strings=[" on a"])
    assert stopped == [
        Answer(text=text.partition(" on a")[0], finish_reason="stop") for text in free
    ]


def test_a_long_answer_is_cut_and_says_so(
    shared: SharedEngine, pictures: list[Image.Image]
) -> None:
    free = shared.describe(pictures[:16], INSTRUCTION, RNG_SEEDS[:16])
    cut = shared.ask(pictures[:16], INSTRUCTION, RNG_SEEDS[:16], max_new_tokens=5)
    assert {one.finish_reason for one in cut} == {"length"}
    pairs = zip(texts_of(cut), free, strict=True)
    assert all(len(a) < len(b) and b.startswith(a) for a, b in pairs)


def test_a_prompt_that_is_too_long_fails_its_row_alone(
    shared: SharedEngine, pictures: list[Image.Image]
) -> None:
    (told,) = shared.describe(pictures[:1], "long " * 400, [1])
    assert isinstance(told, RowError)
    assert told.reason == Reason.ENGINE_ERROR
    assert "maximum context length is 256 tokens" in told.message


def test_bytes_that_are_no_picture_fail_their_row_alone(
    shared: SharedEngine, pictures: list[Image.Image]
) -> None:
    rows = picture_rows(pictures[:8])
    good = rows[2]["image"]["bytes"]
    rows[2]["image"] = {"bytes": good[: len(good) // 2], "path": None}
    rows[5]["image"] = {"bytes": b"GIF89a" + bytes(40), "path": None}
    done = ImageToText(shared.engine, ImageToTextConfig(backend="vllm"))(rows)
    reasons = [row["error"] and row["error"].partition(":")[0] for row in done]
    unreadable = str(Reason.IMAGE_UNREADABLE)
    assert reasons == [None, None, unreadable, None, None, unreadable, None, None]
    alone = shared.describe(pictures[:1], INSTRUCTION, RNG_SEEDS[:1])[0]
    assert done[0]["description"] == alone.strip()


def test_calls_from_several_threads_do_not_mix(
    shared: SharedEngine, pictures: list[Image.Image]
) -> None:
    expected = shared.engine.describe(pictures[:32], INSTRUCTION, RNG_SEEDS[:32])
    with ThreadPoolExecutor(8) as threads:
        parts = threads.map(
            lambda i: shared.engine.describe(
                pictures[i : i + 4], INSTRUCTION, RNG_SEEDS[i : i + 4]
            ),
            range(0, 32, 4),
        )
        assert [text for part in parts for text in part] == expected


def test_rows_of_several_calls_are_with_the_engine_at_once(
    shared: SharedEngine, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, under_way, most = shared.engine._generate, 0, 0

    async def generate(prompt: dict[str, Any], rng_seed: int) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await own(prompt, rng_seed)
        finally:
            under_way -= 1

    monkeypatch.setattr(shared.engine, "_generate", generate)
    with ThreadPoolExecutor(4) as threads:
        calls = [
            threads.submit(shared.engine.describe, pictures[i : i + 8], INSTRUCTION, RNG_SEEDS[:8])
            for i in range(0, 32, 8)
        ]
        assert all(len(call.result()) == 8 for call in calls)
    assert most > 8, "more than any one call has"
    assert under_way == 0


def test_every_process_of_the_engine_carries_its_mark(shared: SharedEngine) -> None:
    processes = shared.engine.processes
    assert len(processes_with(processes._mark)) == 2  # the core and its one worker
