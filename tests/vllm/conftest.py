"""One vLLM engine for all tests that can share it: it takes half a minute and more to start."""

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from vllm_shared import CONFIG, SharedEngine

from actors.backends.vllm_engine import VllmEngine
from actors.scenes.stream import draw_pictures


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def shared() -> Iterator[SharedEngine]:
    engine = VllmEngine(CONFIG, has_images=True)
    yield SharedEngine(engine)
    engine.close()


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Scenes of the embedded world, rendered, not drawn by a model."""
    batch = draw_pictures(np.random.default_rng(11), 192)
    return [Image.fromarray(each) for each in batch.pictures]
