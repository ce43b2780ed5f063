"""Grows a small run in this process, through the stages themselves, without Ray and without pools.

Limits: one unit, one batch a round, and so no replicas, no retries and no board.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from actors.image_to_text import build_image_to_text
from actors.scoring import build_scoring
from actors.text_to_image import build_text_to_image
from pipelines.attempt import fresh_of, prepare
from pipelines.record import Recording, record_to
from pipelines.stages import describe_with, draw_with, score_with
from pipelines.synergy import SynergyConfig, constant_columns
from pipelines.units import slice_units, start_chains, to_starts

Row = dict[str, Any]


@dataclass(frozen=True)
class _Pool:
    """A task where a stage expects the pool of it."""

    task: Callable[[Sequence[Row]], list[Row]]

    async def run(self, rows: list[Row], *, order: int = 0) -> list[Any]:
        return self.task(rows)


@dataclass(frozen=True)
class Models:
    """The models of a run; several runs may share them."""

    generator: _Pool
    captioner: _Pool
    scorer: _Pool | None


def load_models(config: SynergyConfig) -> Models:
    """What `config` draws, describes and scores with."""
    return Models(
        generator=_Pool(build_text_to_image(config.generator)),
        captioner=_Pool(build_image_to_text(config.captioner)),
        scorer=_Pool(build_scoring(config.scorer)) if config.scorer.is_on else None,
    )


def grow_here(config: SynergyConfig, models: Models | None = None) -> list[str]:
    """Runs `config` on one unit of all its seeds; returns the chain ids in their order."""
    attempt = prepare(config)
    assert attempt.seeds is not None
    starts = to_starts(attempt.seeds)
    (unit,) = slice_units(starts, config.unit_size)
    models = models or load_models(config)
    how = Recording(
        is_loop=config.is_loop,
        constants=constant_columns(config, attempt.models),
        has_memory=config.has_memory,
    )

    async def grow() -> None:
        fresh = fresh_of(attempt, starts)
        rows = start_chains(
            unit, starts, config.is_loop, attempt.ledger, config.has_memory, fresh
        ).to_pylist()
        for r in range(config.num_rounds):
            can_stop = config.stop.is_on and r < config.num_rounds - 1
            works = [
                draw_with(models.generator, r, config.run_seed),
                describe_with(models.captioner, r, config.run_seed),
                *([score_with(models.scorer, r)] if models.scorer else ()),
                record_to(attempt.ledger, r, replace(how, stop=config.stop if can_stop else None)),
            ]
            for work in works:
                rows = await work(rows)

    asyncio.run(grow())
    return starts.column("chain_id").to_pylist()
