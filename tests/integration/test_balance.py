"""A run whose pools are split badly moves a GPU, once, and finishes whole."""

import logging
from pathlib import Path

import pytest
from runs import MakeConfig

from pipelines.run import run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

WORDS = [
    "num_rounds=2",
    "unit_size=16",
    "generator.simulated.call_s=0.5",
    "captioner.simulated.call_s=0.05",
    "pools.generator.num_replicas=2",
    "pools.captioner.num_replicas=2",
    "pools.generator.num_gpus=1",
    "pools.captioner.num_gpus=1",
]


def _seeds(tmp_path: Path) -> str:
    path = tmp_path / "many.txt"
    path.write_text("".join(f"scene number {n}\n" for n in range(640)))
    return f"seeds.path={path}"


def test_a_gpu_moves_to_the_pool_that_all_wait_for(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        totals = run(make_config(*WORDS, _seeds(tmp_path)))
    assert totals.num_pairs == 1280
    moves = [one.getMessage() for one in caplog.records if "split of GPUs" in one.getMessage()]
    assert len(moves) == 1
    assert "moves: 2 + 2 gives" in moves[0]
    assert ", 3 + 1 " in moves[0]
    assert totals.model_loads == {"generator": 3, "captioner": 2}


def test_a_run_that_may_not_move_keeps_its_split(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        totals = run(make_config(*WORDS, _seeds(tmp_path), "plan.can_move=false"))
    assert totals.model_loads == {"generator": 2, "captioner": 2}
    assert "split of GPUs" not in caplog.text
