"""The training loop: budgets, checkpoints, resume."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actors.scenes import loop
from actors.scenes.loop import Phase, RunSettings, is_finished, load_trained, run_phase


def line_phase(max_steps: int, stop_at: int | None = None, budget_s: float = 1e9) -> Phase:
    """Fits y = 2x; may be interrupted at a step."""
    module = nn.Linear(1, 1)
    with torch.no_grad():
        module.weight.zero_()
        module.bias.zero_()
    calls = iter(range(10**9))

    def loss(rng: Any) -> tuple[Tensor, dict[str, float]]:
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        x = torch.from_numpy(rng.normal(size=(8, 1))).float() + 0.01 * torch.randn(8, 1)
        return (module(x) - 2 * x).square().mean(), {"seen": 1.0}

    return Phase(
        name="line", module=module, loss=loss, budget_s=budget_s, lr=0.05, batch_size=8,
        ema_decay=0.9, max_steps=max_steps,
    )  # fmt: skip


def test_a_phase_learns_and_says_that_it_is_done(tmp_path: Path) -> None:
    settings = RunSettings(tmp_path)
    phase = line_phase(300)
    run_phase(phase, settings)
    assert is_finished(settings, "line")
    assert json.loads((tmp_path / "line.done.json").read_text())["samples"] == 2_400
    assert phase.module.weight.item() == pytest.approx(2.0, abs=0.1)


def test_an_interrupted_phase_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    whole, broken = RunSettings(tmp_path / "whole"), RunSettings(tmp_path / "broken")
    run_phase(line_phase(30), whole)
    with pytest.raises(KeyboardInterrupt):
        run_phase(line_phase(30, stop_at=17), broken)
    assert not is_finished(broken, "line")
    run_phase(line_phase(30), broken)
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    load_trained(whole, "line", first)
    load_trained(broken, "line", second)
    assert first.weight.item() == pytest.approx(second.weight.item(), abs=1e-6)


def test_a_finished_phase_is_not_run_again(tmp_path: Path) -> None:
    settings = RunSettings(tmp_path)
    run_phase(line_phase(5), settings)
    done = (tmp_path / "line.done.json").read_bytes()
    run_phase(line_phase(5, stop_at=0), settings)  # its first step would stop it
    assert (tmp_path / "line.done.json").read_bytes() == done


def test_a_phase_stops_when_its_time_is_up(tmp_path: Path) -> None:
    run_phase(line_phase(10**9, budget_s=0.2), RunSettings(tmp_path))
    assert json.loads((tmp_path / "line.done.json").read_text())["seconds"] <= 2
