"""The one training loop: every phase of every net runs through `run_phase`.

Adam with warm-up and a single cosine over the phase's time budget, gradient clipping, an optional
moving average of the weights, a checkpoint every few minutes, and resume from it.

Limits: the schedule follows the clock (a fixed budget matters more here than a fixed number of
steps), so two runs with one seed see the same data but not the same number of steps; they agree in
quality, not in bits.
"""

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from actors.scenes.stream import step_rng

logger = logging.getLogger(__name__)

CHECKPOINT_EVERY_S = 150.0
WARMUP_STEPS = 100
LAST_LR_SHARE = 0.02


@dataclass(frozen=True)
class RunSettings:
    """What all phases of one training run share."""

    out: Path
    seed: int = 0
    device: str = "cpu"
    log_every_s: float = 20.0


@dataclass(frozen=True)
class Phase:
    """One optimisation: `loss(rng)` makes its own batch and returns the loss and what to log."""

    name: str
    module: nn.Module
    loss: Callable[[Any], tuple[Tensor, dict[str, float]]]
    budget_s: float
    lr: float
    batch_size: int
    weight_decay: float = 0.01
    ema_decay: float | None = None
    max_steps: int | None = None


@dataclass
class _Progress:
    step: int = 0
    spent_s: float = 0.0
    ema: dict[str, Tensor] = field(default_factory=dict)


def half_precision(device: str) -> torch.autocast:
    """bfloat16 where it pays: the autoencoder's step took 1.2 s instead of 2.2 s on one core."""
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def trained_path(settings: RunSettings, name: str) -> Path:
    """Where a finished (or interim) phase keeps its weights."""
    return settings.out / f"{name}.safetensors"


def load_trained(settings: RunSettings, name: str, module: nn.Module) -> None:
    """Load a phase's weights into a module of the same shape."""
    module.load_state_dict(load_file(trained_path(settings, name)))


def is_finished(settings: RunSettings, name: str) -> bool:
    """Whether the phase ran to the end of its budget."""
    return (settings.out / f"{name}.done.json").exists()


def _save(phase: Phase, settings: RunSettings, progress: _Progress, optimiser: Any) -> None:
    """Checkpoint and interim weights, each replaced in one move so that a kill leaves the old."""
    state = phase.module.state_dict()
    weights = {name: progress.ema.get(name, value) for name, value in state.items()}
    target = trained_path(settings, phase.name)
    partial = target.with_suffix(".partial")
    save_file({name: value.contiguous().cpu() for name, value in weights.items()}, partial)
    partial.replace(target)
    target = settings.out / f"{phase.name}.checkpoint.pt"
    partial = target.with_suffix(".partial")
    torch.save(
        {
            "step": progress.step,
            "spent_s": progress.spent_s,
            "ema": progress.ema,
            "module": state,
            "optimiser": optimiser.state_dict(),
        },
        partial,
    )
    partial.replace(target)


def _resume(phase: Phase, settings: RunSettings, optimiser: Any) -> _Progress:
    path = settings.out / f"{phase.name}.checkpoint.pt"
    if path.exists():
        saved = torch.load(path, map_location=settings.device, weights_only=True)
        phase.module.load_state_dict(saved["module"])
        optimiser.load_state_dict(saved["optimiser"])
        logger.info("%s: resumed at step %d", phase.name, saved["step"])
        return _Progress(saved["step"], saved["spent_s"], saved["ema"])
    progress = _Progress()
    if phase.ema_decay is not None:
        progress.ema = {
            name: value.detach().clone() for name, value in phase.module.state_dict().items()
        }
    return progress


def _learning_rate(phase: Phase, progress: _Progress) -> float:
    share = min(1.0, progress.spent_s / phase.budget_s)
    if phase.max_steps:
        share = max(share, progress.step / phase.max_steps)
    cosine = LAST_LR_SHARE + (1 - LAST_LR_SHARE) * 0.5 * (1 + math.cos(math.pi * share))
    return phase.lr * cosine * min(1.0, (progress.step + 1) / WARMUP_STEPS)


@torch.no_grad()
def _update_ema(phase: Phase, progress: _Progress) -> None:
    """Moving average whose memory starts short, so that early snapshots are usable."""
    if phase.ema_decay is None:
        return
    decay = min(phase.ema_decay, (1 + progress.step) / (10 + progress.step))
    for name, value in phase.module.state_dict().items():
        if value.is_floating_point():
            progress.ema[name].lerp_(value, 1 - decay)


def _optimise(
    phase: Phase, settings: RunSettings, progress: _Progress, optimiser: Any
) -> dict[str, float]:
    rng = step_rng(settings.seed, phase.name, progress.step)
    torch.manual_seed(int(rng.integers(2**31)))
    for group in optimiser.param_groups:
        group["lr"] = _learning_rate(phase, progress)
    optimiser.zero_grad(set_to_none=True)
    loss, shown = phase.loss(rng)
    loss.backward()
    trainable = [value for value in phase.module.parameters() if value.requires_grad]
    nn.utils.clip_grad_norm_(trainable, 1.0)
    optimiser.step()
    _update_ema(phase, progress)
    return {"loss": loss.item(), **shown}


def run_phase(phase: Phase, settings: RunSettings) -> None:
    """Train a phase to the end of its budget; returns at once if that was done before."""
    settings.out.mkdir(parents=True, exist_ok=True)
    phase.module.to(settings.device)
    if is_finished(settings, phase.name):
        logger.info("%s: finished before, weights loaded", phase.name)
        load_trained(settings, phase.name, phase.module)
        phase.module.eval()
        return
    phase.module.train()
    trainable = [value for value in phase.module.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(trainable, betas=(0.9, 0.98), weight_decay=phase.weight_decay)
    progress = _resume(phase, settings, optimiser)
    start_s = time.monotonic() - progress.spent_s
    saved_s, logged_s, smooth = progress.spent_s, progress.spent_s, dict[str, float]()
    while progress.spent_s < phase.budget_s and progress.step != phase.max_steps:
        for name, value in _optimise(phase, settings, progress, optimiser).items():
            smooth[name] = 0.98 * smooth.get(name, value) + 0.02 * value
        progress.step += 1
        progress.spent_s = time.monotonic() - start_s
        if progress.spent_s - logged_s >= settings.log_every_s:
            logged_s = progress.spent_s
            shown = " ".join(f"{name} {value:.4f}" for name, value in smooth.items())
            logger.info(
                "%s: %d samples, %.0f of %.0f s, %s",
                phase.name, progress.step * phase.batch_size, logged_s, phase.budget_s, shown,
            )  # fmt: skip
        if progress.spent_s - saved_s >= CHECKPOINT_EVERY_S:
            saved_s = progress.spent_s
            _save(phase, settings, progress, optimiser)
    _save(phase, settings, progress, optimiser)
    summary = {
        "samples": progress.step * phase.batch_size,
        "seconds": round(progress.spent_s),
        **smooth,
    }
    (settings.out / f"{phase.name}.done.json").write_text(json.dumps(summary))
    load_trained(settings, phase.name, phase.module)
    phase.module.eval()
