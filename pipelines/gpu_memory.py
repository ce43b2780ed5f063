"""Whether a replica of each pool fits into its share of a GPU: estimated, told, refused.

Weights that alone are more than the share are refused: that is counted. A sum that is more is only
warned of: the rest is an estimate that no GPU has confirmed (actors/vram.py).
Limits: the GPU is `plan.gpu_gib`, or the smallest that nvidia-smi shows on this machine; which GPUs
the nodes of a cluster have is not asked. Replicas of another job on the GPU are not known.
"""

import logging
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from actors.vram import MemoryNeed, estimate_generator, estimate_language_model
from cluster.pool import PoolConfig
from pipelines.synergy import SynergyConfig

logger = logging.getLogger(__name__)

_GIB = 1 << 30
_SMI = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True, kw_only=True)
class PoolMemory:
    """What one replica of a pool needs, and what it has."""

    name: str
    model: str
    need: MemoryNeed | None  # None: not known
    share: float  # of one GPU's memory that is the replica's
    gpu_gib: float | None  # None: not known
    is_filling: bool = False  # an engine that takes all of its share
    asked_share: float = 1.0  # of one GPU, as Ray counts it

    @property
    def has_gib(self) -> float | None:
        """The replica's part of a GPU."""
        return None if self.gpu_gib is None else self.gpu_gib * self.share


def estimate_memory(config: SynergyConfig, gpu_gib: float | None = None) -> list[PoolMemory]:
    """Of every pool that asks for GPUs.

    Raises:
        ValueError: a model's folder is missing or may not be loaded.
    """
    pools, author, image = config.pools, config.seeds.author, config.generator
    found: list[PoolMemory] = []
    if pools.generator.num_gpus:
        need = estimate_generator(image, pools.generator.batch_size)
        rate = config.plan.rates.generator.memory_share
        share = rate or _share(pools.generator)
        found.append(_pool("generator", image.model, need, share, gpu_gib))
    models: list[tuple[str, Any, PoolConfig, tuple[int, int] | None]] = []
    px = (image.width_px, image.height_px)
    models += [("captioner", config.captioner, pools.captioner, px)]
    models += [] if config.seeds.path is not None else [("author", author.model, author.pool, None)]
    for name, model, pool, seen_px in models:
        if pool.num_gpus:
            need = estimate_language_model(model, pool.batch_size, seen_px)
            rate = config.plan.rates.captioner.memory_share if name == "captioner" else None
            is_vllm = model.backend == "vllm"
            share = model.vllm.gpu_memory_utilization if is_vllm else rate or _share(pool)
            one = _pool(name, model.model, need, share, gpu_gib, is_filling=is_vllm)
            found.append(replace(one, asked_share=_share(pool)))
    if config.scorer.is_on and pools.scorer.num_gpus:  # nobody has reckoned yet what one needs
        found.append(_pool("scorer", config.scorer.model, None, _share(pools.scorer), gpu_gib))
    return found


def plan_memory(config: SynergyConfig) -> list[PoolMemory]:
    """`estimate_memory` for `plan.gpu_gib`, or the GPUs of this machine; `ValueError` likewise."""
    return estimate_memory(config, config.plan.gpu_gib or find_gpu_gib())


def find_gpu_gib() -> float | None:
    """GiB of the smallest GPU of this machine; None without nvidia-smi, or if it fails."""
    if shutil.which(_SMI[0]) is None:
        return None
    try:
        done = subprocess.run(_SMI, capture_output=True, text=True, timeout=10, check=True)
        return min(float(line) for line in done.stdout.split()) / 1024
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        logger.warning("%s: no GPU's memory is known: %s", " ".join(_SMI), error)
        return None


def check_memory(memory: Sequence[PoolMemory]) -> None:
    """Refuses what cannot be.

    Raises:
        ValueError: the weights of a replica alone are more than its share of a GPU.
    """
    for one in memory:
        if one.need is None or one.has_gib is None:
            continue
        weights = one.need.weights_bytes / _GIB
        if weights > one.has_gib:
            raise ValueError(
                f"pool {one.name!r}: the weights of {one.model} alone are {weights:.3g} GiB, a "
                f"replica has {one.has_gib:.3g} GiB ({one.share:g} of a GPU of {one.gpu_gib:.3g}): "
                f"take a smaller model or dtype, a larger share, GPUs with more memory, or vllm "
                "with tensor_parallel_size"
            )


def describe_memory(memory: Sequence[PoolMemory]) -> list[str]:
    """A line for each pool, and one for what may not fit."""
    lines = [line for one in memory for line in (*_describe(one), *_describe_overfull(one))]
    return [f"memory     {line}" for line in lines]


def memory_to_dict(memory: Sequence[PoolMemory]) -> list[dict[str, Any]]:
    """As JSON-able values."""
    return [
        asdict(one)
        | {"total_bytes": None if one.need is None else one.need.total_bytes}
        | {"has_gib": one.has_gib}
        for one in memory
    ]


def _describe(one: PoolMemory) -> list[str]:
    if one.need is None:
        return [
            f"{one.name}: not known, {one.model} is not on this machine or of no kind that is "
            "reckoned with; `pairloom models fetch` brings it"
        ]
    need = one.need
    parts = [
        ("weights", need.weights_bytes),
        ("at work", need.working_bytes),
        ("cache", need.cache_bytes),
        ("CUDA", need.other_bytes),
    ]
    told = ", ".join(f"{name} {size / _GIB:.2g}" for name, size in parts if size)
    total = need.total_bytes / _GIB
    least = "at least " if one.is_filling else "about "
    line = f"{one.name} {least}{total:.3g} GiB of a GPU (estimated: {told})"
    if one.has_gib is None:
        return [f"{line}; set plan.gpu_gib to see whether it fits"]
    if total <= one.has_gib:
        return [f"{line}, has {one.has_gib:.3g}"]
    return [
        f"{line}, has {one.has_gib:.3g}",
        f"{one.name} may run out of memory: lower its batch_size, or raise its share of a GPU",
    ]


def _describe_overfull(one: PoolMemory) -> list[str]:
    if not one.is_filling or one.share <= one.asked_share:
        return []
    return [
        f"{one.name} fills {one.share:g} of a GPU and asks for {one.asked_share:g} of it: who "
        f"shares it finds no room; set its vllm.gpu_memory_utilization to {one.asked_share:g}"
    ]


def _share(pool: PoolConfig) -> float:
    return min(pool.num_gpus, 1.0)


def _pool(
    name: str,
    model: str,
    need: MemoryNeed | None,
    share: float,
    gpu_gib: float | None,
    *,
    is_filling: bool = False,
) -> PoolMemory:
    return PoolMemory(
        name=name, model=model, need=need, share=share, gpu_gib=gpu_gib, is_filling=is_filling
    )
