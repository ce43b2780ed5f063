import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from answers import texts_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from actors.backends.simulated import (
    SimulatedConfig,
    SimulatedImageEngine,
    SimulatedTextEngine,
    _Simulator,
    caption_of,
    draw_image,
    read_prompt,
)
from actors.images import decode_image, encode_image


@settings(max_examples=30)
@given(st.text(max_size=80), st.integers(0, 2**63 - 1))
def test_the_prompt_can_be_read_back_from_the_encoded_picture(prompt: str, rng_seed: int) -> None:
    prompt = prompt.encode("utf-8", "ignore").decode()
    image = draw_image(prompt, rng_seed, 16, 16)
    assert read_prompt(decode_image(encode_image(image).data)) == prompt[:80]
    assert image.tobytes() == draw_image(prompt, rng_seed, 16, 16).tobytes()


def test_pictures_and_captions_differ_by_rng_seed() -> None:
    first, second = draw_image("a", 1, 16, 16), draw_image("a", 2, 16, 16)
    assert first.tobytes() != second.tobytes()
    assert caption_of(first, 1) != caption_of(first, 2) != caption_of(second, 2)


def test_other_pictures_carry_no_prompt() -> None:
    assert read_prompt(Image.new("RGB", (16, 16))) is None
    assert read_prompt(Image.new("RGB", (1, 1))) is None


def test_a_call_takes_its_time() -> None:
    config = SimulatedConfig(call_s=0.05, row_s=0.01)
    engine = SimulatedTextEngine(config)
    started = time.perf_counter()
    engine.write(["a"] * 5, [0] * 5)
    assert time.perf_counter() - started >= 0.1


def test_calls_vary_around_their_mean_by_their_rng_seeds_alone() -> None:
    simulator = _Simulator(SimulatedConfig(cv=0.5), "draw")
    factors = [simulator._variation([seed]) for seed in range(20_000)]
    mean = statistics.fmean(factors)
    # Five standard errors of each: .5 / sqrt(20000) of the mean.
    assert abs(mean - 1.0) < 0.018
    assert abs(statistics.stdev(factors) / mean - 0.5) < 0.03
    assert simulator._variation([7]) == factors[7]


def test_one_gpu_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SimulatedConfig(slow_gpu=3)
    for gpu, factor in (("2", 1.0), ("3", 3.0)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpu)
        assert _Simulator(config, "draw")._variation([7]) == factor


def test_a_share_of_the_rows_fails_by_rng_seed_alone() -> None:
    engine = SimulatedTextEngine(SimulatedConfig(fault="empty", fault_rate=0.25))
    seeds = list(range(400))
    texts = texts_of(engine.write(["p"] * 400, seeds))
    faulty = [seed for seed, text in zip(seeds, texts, strict=True) if not text.strip()]
    assert 60 < len(faulty) < 140
    assert all(not engine.write(["other"], [seed])[0].text.strip() for seed in faulty[:5])


def test_a_fault_can_be_asked_for_once(tmp_path: Path) -> None:
    once = tmp_path / "happened"
    config = SimulatedConfig(fault="raise", fault_rate=1.0, fault_once_path=str(once))
    engine = SimulatedImageEngine(config, 8, 8)
    with pytest.raises(ValueError, match="simulated failure"):
        engine.draw(["a"], [1])
    assert once.exists()
    assert len(SimulatedImageEngine(config, 8, 8).draw(["a"], [1])) == 1


def test_memory_runs_out_by_size_or_by_row() -> None:
    engine = SimulatedTextEngine(SimulatedConfig(fault="oom", oom_above=2, fault_marker="BAD"))
    assert len(engine.write(["a", "b"], [1, 2])) == 2
    with pytest.raises(MemoryError, match="3 rows at once"):
        engine.write(["a", "b", "c"], [1, 2, 3])
    with pytest.raises(MemoryError, match="a row that is too large"):
        engine.write(["BAD"], [1])


def test_abort_kills_the_process() -> None:
    code = (
        "from actors.backends.simulated import *\n"
        "SimulatedTextEngine(SimulatedConfig(fault='abort', fault_rate=1.0)).write(['a'], [1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -9


def test_loads_and_calls_are_logged(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    engine = SimulatedTextEngine(SimulatedConfig(log_path=str(path)))
    engine.write(["a", "b"], [1, 2])
    load, call = [json.loads(line) for line in path.read_text().splitlines()]
    assert (load["event"], call["event"]) == ("load", "call")
    assert (call["prompts"], call["rng_seeds"], call["role"]) == (["a", "b"], [1, 2], "write")
    assert call["pid"] == load["pid"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("call_s", -1.0),
        ("row_s", float("nan")),
        ("cv", -0.5),
        ("fault_rate", -0.1),
        ("oom_above", -1),
    ],
)
def test_numbers_are_checked(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"field '{field}' is {value}"):
        SimulatedConfig(**{field: value})


def test_an_unknown_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="field 'fault' is 'explode'"):
        SimulatedConfig(fault="explode")
