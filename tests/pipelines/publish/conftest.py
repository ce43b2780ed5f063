"""A run to publish: two chains failed, one was replayed, no scores."""

from pathlib import Path

import pytest
from corrupt import RunWriter


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    """Forty chains in units of eight, three rounds; 113 pairs of 120 rows."""
    folder = tmp_path / "run"
    folder.mkdir()
    failures = frozenset({(1, 1), (2, 1), (5, 0)})
    writer = RunWriter(folder=folder, num_seeds=40, unit_size=8, failures=failures)
    for index in range(len(writer.units)):
        writer.write_unit(index)
    writer.write_replay(0, 1, 1, [1])
    return writer
