"""One Chromium for all tests of this folder, and a gallery of stories to click through."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chromium import chromium, find_browser, set_screen
from scored import add_columns
from story_run import StoryRun

from pipelines.gallery import GalleryConfig, build_gallery

NUM_CHAINS = 50  # three pages of strips


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if find_browser() is None:
        pytest.skip("no chromium and chromedriver on the path: `make test-browser` installs them")
    with chromium() as driver:
        yield driver


@pytest.fixture
def driver(browser: Any) -> Any:
    """The browser with a fresh profile's storage and the screen of a desk."""
    set_screen(browser, 1280, 900)
    return browser


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stories without scores; ten chains of each."""
    folder = tmp_path_factory.mktemp("stories") / "run"
    folder.mkdir()
    failures = frozenset({(chain, 1) for chain in range(4, NUM_CHAINS, 5)})
    StoryRun(folder=folder, num_seeds=NUM_CHAINS, unit_size=4, failures=failures).write_all()
    build_gallery(str(folder), None, GalleryConfig())
    return folder / "gallery"


@pytest.fixture(scope="session")
def scored_gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Likewise with a score that rises with the place of the chain, and flags."""
    folder = tmp_path_factory.mktemp("scored") / "run"
    folder.mkdir()
    run = StoryRun(folder=folder, num_seeds=10, unit_size=4).write_all()
    place = {chain_id: at for at, chain_id in enumerate(run.chain_ids)}
    fields = [
        pa.field("clip_similarity", pa.float32()),
        pa.field("caption_flags", pa.list_(pa.string())),
    ]
    add_columns(
        folder,
        fields,
        lambda row: {
            "clip_similarity": 0.1 + place[row["chain_id"]] / 100 - row["round_index"] / 20,
            "caption_flags": ["too_short"] if row["round_index"] == 1 else [],
        },
    )
    build_gallery(str(folder), None, GalleryConfig())
    return folder / "gallery"
