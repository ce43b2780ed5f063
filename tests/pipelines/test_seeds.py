"""pipelines/seeds.py: a resume takes the committed table while it would be read the same."""

from pathlib import Path

import pytest

from cluster.storage import open_store
from pipelines.seeds import commit_table, find_table, read_table, table_identity
from pipelines.sources import SeedsConfig


def _config(
    tmp_path: Path, text: str = "a cup\n\na cup\na red door\n", **more: object
) -> SeedsConfig:
    path = tmp_path / "seeds.txt"
    path.write_text(text)
    return SeedsConfig(path=str(path), **more)


def test_the_committed_table_is_taken_as_it_is_for_the_same_file(tmp_path: Path) -> None:
    config = _config(tmp_path)
    table = read_table(config, 7)
    store = open_store(str(tmp_path / "run"))
    assert commit_table(store, table).equals(table)
    committed = find_table(store)
    assert read_table(config, 7, committed) is committed
    assert committed is not None
    assert committed.equals(table)
    assert table_identity(committed) == table_identity(table)


@pytest.mark.parametrize(
    ("text", "run_seed", "more"),
    [
        ("a cup\n\na cup\na red door.\n", 7, {}),
        ("a cup\n\na cup\na red door\n", 8, {}),
        ("a cup\n\na cup\na red door\n", 7, {"limit": 3}),
        ("a cup\n\na cup\na red door\n", 7, {"max_chars": 6}),
        ("a cup\n\na cup\na red door\n", 7, {"has_text_rules": False}),
    ],
)
def test_another_file_or_another_reading_of_it_is_read_anew(
    tmp_path: Path, text: str, run_seed: int, more: dict[str, object]
) -> None:
    committed = read_table(_config(tmp_path), 7)
    anew = read_table(_config(tmp_path, text, **more), run_seed, committed)
    assert anew is not committed


def test_the_same_seeds_in_other_bytes_are_the_same_to_a_run(tmp_path: Path) -> None:
    unix = read_table(_config(tmp_path), 7)
    windows = read_table(_config(tmp_path, "a cup\r\n\r\na cup\r\na red door\r\n"), 7, unix)
    assert windows is not unix
    assert table_identity(windows) == table_identity(unix)
