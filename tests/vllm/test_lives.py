"""How vLLM starts, dies and is replaced: real processes, real signals, a real Ray."""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vllm_shared import (
    CONFIG,
    INSTRUCTION,
    RNG_SEEDS,
    SMALL,
    SharedEngine,
    descendants,
    is_running,
    picture_rows,
    titles,
)

from actors.backends.hf_mllm import HfMllmEngine
from actors.backends.vllm_engine import VllmEngine
from actors.backends.vllm_folder import needs_older_names
from actors.backends.vllm_processes import processes_with
from actors.engines import EngineDeadError
from actors.image_to_text import build_image_to_text
from actors.scenes.defaults import AUTHOR_PROMPT, EMBEDDED_MODELS
from actors.text_to_text import TextToTextConfig, build_text_to_text
from cluster.pool import PoolConfig, start_pool
from cluster.session import SessionConfig, session

pytestmark = pytest.mark.vllm

START_S = 300.0


def _soon(is_met: Callable[[], bool], within_s: float = 20.0) -> bool:
    ends = time.monotonic() + within_s
    while not is_met():
        if time.monotonic() > ends:
            return False
        time.sleep(0.2)
    return True


def _gone(pids: list[int]) -> bool:
    return _soon(lambda: not any(map(is_running, pids)))


def _left() -> set[Path]:
    """Folders of engines, of any age and owner."""
    return set(Path(tempfile.gettempdir()).glob("pairloom-vllm-*"))


@pytest.fixture(scope="module")
def newer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped LLaVA with the names that transformers 5.23 saves a CLIP tower under."""
    folder = tmp_path_factory.mktemp("models") / "newer"
    folder.mkdir()
    for path in EMBEDDED_MODELS["llava"].iterdir():
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            size = int.from_bytes(data[:8], "little")
            header = data[8 : 8 + size].replace(b"vision_tower.vision_model.", b"vision_tower.")
            data = len(header).to_bytes(8, "little") + header + data[8 + size :]
        (folder / path.name).write_bytes(data)
    return folder


def test_a_newer_folder_says_the_same_and_a_killed_core_is_a_dead_engine(
    newer_folder: Path, shared: SharedEngine, pictures: list[Image.Image]
) -> None:
    assert needs_older_names(newer_folder)
    engine = VllmEngine(replace(CONFIG, model=str(newer_folder)), has_images=True)
    said = engine.describe(pictures[:32], INSTRUCTION, RNG_SEEDS[:32])
    assert said == shared.ask(pictures[:32], INSTRUCTION, RNG_SEEDS[:32])
    assert not [*engine.processes.folder.rglob("*.safetensors")]  # they went once they were loaded

    pids = processes_with(engine.processes._mark)
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(engine.describe, pictures, INSTRUCTION, RNG_SEEDS)
        os.kill(titles(pids)["VLLM::EngineCore"], signal.SIGKILL)
        with pytest.raises(EngineDeadError, match=r"its exit code is \[-9\]: killed"):
            call.result()
    with pytest.raises(EngineDeadError):  # at once: nobody waits for a call's timeout
        engine.describe(pictures[:1], INSTRUCTION, [1])
    folder = engine.processes.folder
    engine.close()
    assert not any(map(is_running, pids))
    assert not folder.exists()


def test_what_keeps_the_engine_from_starting_is_told() -> None:
    config = replace(CONFIG, vllm=replace(SMALL, kv_cache_bytes=1 << 20, max_model_len=256))
    with pytest.raises(RuntimeError, match=r"vLLM did not start: .*KV cache"):
        VllmEngine(config, has_images=True)


def test_a_device_that_this_build_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="'device' is 'cuda': this vLLM is built for 'cpu'"):
        VllmEngine(replace(CONFIG, device="cuda"), has_images=True)


def test_a_template_that_puts_pictures_first_refuses_another_order() -> None:
    config = replace(CONFIG, vllm=replace(SMALL, prompt_order="text_first"))
    with pytest.raises(ValueError, match="puts pictures first whatever the order"):
        VllmEngine(config, has_images=True)


def test_an_author_writes_without_pictures() -> None:
    config = TextToTextConfig(backend="vllm", vllm=SMALL)
    task = build_text_to_text(config)
    engine: Any = task._engine
    rows = [
        {"prompt": AUTHOR_PROMPT, "rng_seed": rng_seed, "error": None} for rng_seed in range(24)
    ]
    try:
        texts = [row["text"] for row in task([*rows, {"prompt": " ", "rng_seed": 1}])[:24]]
        again = [row["text"] for row in task(rows[5:9])]
        engine._config = replace(config, temperature=0.0)
        prompts = [AUTHOR_PROMPT, "Describe the image.", "Hello."]
        greedy = engine.write(prompts, [1, 2, 3])
    finally:
        engine.close()
    assert again == texts[5:9]
    assert len(set(texts)) > 12
    transformers = HfMllmEngine(TextToTextConfig(temperature=0.0))
    assert greedy == transformers.write(prompts, [1, 2, 3])


@pytest.fixture
def local_ray() -> Iterator[None]:
    with session(SessionConfig(num_cpus=2, has_dashboard=False, object_store_bytes=128 << 20)):
        yield


@pytest.mark.usefixtures("local_ray")
@pytest.mark.timeout(1200)
def test_a_pool_replaces_a_replica_whose_engine_died_and_leaves_no_process(
    shared: SharedEngine, pictures: list[Image.Image]
) -> None:
    expected = [text.strip() for text in shared.describe(pictures, INSTRUCTION, RNG_SEEDS)]
    rows = picture_rows(pictures)
    before = _left()
    config = PoolConfig(batch_size=16, calls_per_replica=4, num_cpus=1)
    pool = start_pool("captioner", lambda: build_image_to_text(CONFIG), config)
    try:
        pool.wait_ready(START_S)
        seen: list[int] = []
        # First the engine's worker dies under its replica, then the replica above its engine.
        for victim in ("VLLM::Worker", "replica"):
            (replica,) = pool.stats().replica_pids
            children = descendants(replica)
            seen += [replica, *children]
            pid = replica if victim == "replica" else titles(children)[victim]
            assert [row["description"] for row in pool.run_blocking(rows)] == expected
            os.kill(pid, signal.SIGKILL)
            done = pool.run_blocking(rows)
            assert [row["description"] for row in done] == expected
            assert _gone([replica, *children]), titles(children)
        stats = pool.stats()
        assert (stats.num_restarts, stats.num_poison) == (2, 0)
        seen += descendants(stats.replica_pids[0])
    finally:
        pool.close()
    assert _gone(seen)
    assert _soon(lambda: _left() <= before)
