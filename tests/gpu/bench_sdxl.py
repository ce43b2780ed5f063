"""How fast the SDXL engine is on this GPU: no Ray unless asked for, no download, random weights.

    python tests/gpu/bench_sdxl.py [--compile none regional full] [--batches 8 1 4 16] [--fp8]
                                   [--pool] [--budget-s 500] [--out out/bench_sdxl.json] [--tiny]

Real-size UNet, VAE and text encoders (shapes.py) through the production engine. First what the
device can do at best (a matrix product, a copy) and the work that is counted; then, for each way of
compiling, the UNet alone, the VAE alone and whole pictures in 20, 30 and 4 steps, with guidance and
without, over batches; with --pool what a pool makes of the bare loop's rate. Goals stand beside.

The most telling cases come first, and what does not fit into the budget is left out and named: run
it once more with other --compile and --batches for those. --tiny is a CPU's rehearsal of it all.
Limits: pictures of random weights: speed only. One GPU. A first batch of each shape, which
compiles, is not counted but reported (`first_s`).
"""

import argparse
import gc
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import (
    Clock,
    Limits,
    Table,
    conditions,
    count_tflop,
    goal,
    measure_limits,
    middle,
    pick_device,
    print_table,
    say,
    spread,
    time_calls,
    write_report,
)
from shapes import build_sdxl

from actors.backends.sdxl import SdxlEngine
from actors.backends.sdxl_config import COMPILES, SdxlConfig
from actors.backends.sdxl_load import SdxlPipes, prepare_pipes
from actors.text_to_image import TextToImage, TextToImageConfig

PROMPT = "a large red circle at the top left of a grey ground, with a small blue star below it"
# (steps, guidance): what the goals are about
CASES = ((20, 5.0), (30, 5.0), (4, 0.0), (20, 0.0))
GOALS = (  # of the issue; MLPerf's best H100 is 2.263 at 20 steps in FP8
    ("UNet, share of the measured product's rate", "unet_mfu", 0.60, ""),
    ("20 steps with guidance", (20, 5.0), 1.7, "img/s"),
    ("30 steps with guidance", (30, 5.0), 1.1, "img/s"),
    ("4 steps without", (4, 0.0), 11.0, "img/s"),
    ("pool-fed over bare loop", "pool", 0.98, ""),
)
GOAL_FP8_20 = 2.3
POOL_S = 150.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and on what."""

    is_tiny: bool
    is_fp8: bool
    vae_dtype: str
    batches: tuple[int, ...]
    repeats: int
    device: torch.device

    @property
    def size_px(self) -> int:
        return 64 if self.is_tiny else 1024

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.device.type == "cpu" else torch.bfloat16

    def config(self, compile_mode: str, num_steps: int, guidance_scale: float) -> TextToImageConfig:
        return TextToImageConfig(
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            width_px=self.size_px,
            height_px=self.size_px,
            image_format="jpeg",
            sdxl=SdxlConfig(
                compile=compile_mode,
                is_channels_last=True,
                is_qkv_fused=True,
                vae_dtype=self.vae_dtype,
                vae_batch=2,
                quantization="fp8" if self.is_fp8 else "none",
            ),
        )


def build_pipes(plan: Plan, compile_mode: str) -> SdxlPipes:
    """A pipeline of random weights, prepared as the engine's loader prepares one."""
    pipe = build_sdxl(plan.is_tiny, plan.device, plan.dtype)
    pipes = SdxlPipes(base=pipe)
    prepare_pipes(pipes, plan.config(compile_mode, 20, 5.0).sdxl, 20)
    return pipes


def unet_call(plan: Plan, pipe: Any, rows: int) -> Any:
    """One forward of the UNet, as the pipeline calls it."""
    side, width = plan.size_px // 8, pipe.unet.config.cross_attention_dim
    pooled = pipe.text_encoder_2.config.projection_dim
    fresh = partial(torch.randn, device=plan.device, dtype=plan.dtype)
    arguments = (fresh(rows, 4, side, side), torch.tensor(500, device=plan.device))
    added = {"text_embeds": fresh(rows, pooled), "time_ids": fresh(rows, 6)}
    return partial(
        pipe.unet,
        *arguments,
        encoder_hidden_states=fresh(rows, 77, width),
        added_cond_kwargs=added,
        return_dict=False,
    )


@torch.no_grad()
def count_work(plan: Plan, pipe: Any) -> dict[str, float]:
    """TFLOP of one UNet row and one picture decoded, counted on pipelines that are not compiled."""
    side = plan.size_px // 8
    latent = torch.randn(1, 4, side, side, device=plan.device, dtype=pipe.vae.dtype)
    return {
        "unet_row": count_tflop(unet_call(plan, pipe, 1)),
        "vae_picture": count_tflop(lambda: pipe.vae.decode(latent, return_dict=False)),
    }


@torch.no_grad()
def measure_unet(plan: Plan, pipe: Any, work: dict[str, float], limits: Limits, rows: int) -> Any:
    call = unet_call(plan, pipe, rows)
    seconds = time_calls(call, plan.device, plan.repeats + 2)
    tflops = work["unet_row"] * rows / middle(seconds)
    return {
        "rows": rows,
        "ms": middle(seconds) * 1000,
        "spread": spread(seconds),
        "TFLOP/s": tflops,
        "MFU": tflops / limits.tflops,
    }


@torch.no_grad()
def measure_vae(plan: Plan, engine: SdxlEngine, work: dict[str, float], limits: Limits) -> Any:
    """Latents to pictures in memory, the copy from the device with it."""
    side, count = plan.size_px // 8, 4
    latents = torch.randn(count, 4, side, side, device=plan.device)
    seconds = time_calls(
        lambda: engine._decode(latents, [False] * count), plan.device, plan.repeats + 2
    )
    each_s = middle(seconds) / count
    return {
        "ms/picture": each_s * 1000,
        "spread": spread(seconds),
        "MFU": work["vae_picture"] / each_s / limits.tflops,
    }


def draw_call(engine: SdxlEngine, batch: int) -> Any:
    prompts = [f"{PROMPT}, number {i}" for i in range(batch)]
    return partial(engine.draw, prompts, list(range(batch)))


def measure_case(
    plan: Plan, config: TextToImageConfig, pipes: SdxlPipes, batch: int, work: dict[str, float]
) -> dict[str, Any]:
    """Whole pictures: prompts in, pictures in memory out."""
    engine = SdxlEngine(config, pipes=pipes)
    call = draw_call(engine, batch)
    started_s = time.monotonic()
    call()
    first_s = time.monotonic() - started_s
    seconds = time_calls(call, plan.device, plan.repeats)
    is_guided = config.guidance_scale > 1
    tflop = config.num_steps * work["unet_row"] * (1 + is_guided) + work["vae_picture"]
    each_s = middle(seconds) / batch
    return {
        "steps": config.num_steps,
        "guided": is_guided,
        "batch": batch,
        "img/s": 1 / each_s,
        "spread": spread(seconds),
        "TFLOP/img": tflop,
        "TFLOP/s": tflop / each_s,
        "first_s": first_s,
    }


def measure_mode(
    plan: Plan, mode: str, work: dict[str, float], limits: Limits, clock: Clock
) -> dict[str, Any]:
    """Everything of one way of compiling."""
    pipes = build_pipes(plan, mode)
    first = plan.batches[0]
    engine = SdxlEngine(plan.config(mode, 20, 5.0), pipes=pipes)
    drawn = draw_call(engine, 1)()
    if any(each.image is None for each in drawn):
        raise SystemExit(f"compile={mode}: the pictures are not finite: {drawn[0].problem}")
    unet = [measure_unet(plan, pipes.base, work, limits, rows=2 * first)]
    vae = measure_vae(plan, engine, work, limits)
    pictures: Table = []
    for batch in plan.batches:
        for num_steps, guidance in CASES:
            what = f"{mode}, batch {batch}, {num_steps} steps, guidance {guidance}"
            # as long as the case before, scaled by its rows and steps
            if not clock.has_time(what, _expected_s(pictures, num_steps, guidance, batch, plan)):
                continue
            case = measure_case(plan, plan.config(mode, num_steps, guidance), pipes, batch, work)
            case |= {"MFU": case["TFLOP/s"] / limits.tflops}
            case |= {"VAE share": vae["ms/picture"] / 1000 * case["img/s"]}
            pictures.append(case)
    print_table(f"compile={mode}: the UNet alone", unet)
    print_table(f"compile={mode}: the VAE alone, {plan.vae_dtype}", [vae])
    print_table(f"compile={mode}: whole pictures", pictures)
    return {"compile": mode, "unet": unet, "vae": vae, "pictures": pictures}


def _expected_s(done: Table, num_steps: int, guidance: float, batch: int, plan: Plan) -> float:
    if not done:
        return 0.0
    last = done[-1]
    each_s = 1 / last["img/s"] * num_steps * (1 + (guidance > 1))
    each_s /= last["steps"] * (1 + last["guided"])
    return each_s * batch * (plan.repeats + 2)


def measure_pool(plan: Plan, mode: str, clock: Clock) -> dict[str, Any] | None:
    """A pool's rate over that of a bare loop over the same engine, both in 4 steps: the fastest
    pictures are the hardest to feed.
    """
    config, batch = plan.config(mode, 4, 0.0), plan.batches[0]
    num_batches = 4 if plan.is_tiny else 24
    if not clock.has_time("the pool"):
        return None
    bare_s = _bare_loop(plan, config, mode, batch, num_batches)
    gc.collect()  # the replica is another process: what this one holds, it cannot have
    if plan.device.type == "cuda":
        torch.cuda.empty_cache()
    fed_s = _pool_loop(plan, config, mode, batch, num_batches)
    row = {
        "pictures": batch * num_batches,
        "bare img/s": batch * num_batches / bare_s,
        "fed img/s": batch * num_batches / fed_s,
        "ratio": bare_s / fed_s,
    }
    print_table(f"compile={mode}: fed by a pool", [row])
    return row


def _bare_loop(plan: Plan, config: TextToImageConfig, mode: str, batch: int, count: int) -> float:
    """The engine alone: no task, no encoding, no Ray."""
    call = draw_call(SdxlEngine(config, pipes=build_pipes(plan, mode)), batch)
    call()
    started_s = time.monotonic()
    for _ in range(count):
        call()
    return time.monotonic() - started_s


def _make_task(plan: Plan, config: TextToImageConfig, mode: str) -> TextToImage:
    return TextToImage(SdxlEngine(config, pipes=build_pipes(plan, mode)), config)


def _pool_loop(plan: Plan, config: TextToImageConfig, mode: str, batch: int, count: int) -> float:
    """The same through the production pool: rows in, encoded pictures out, one replica."""
    from cluster.pool import PoolConfig, start_pool
    from cluster.session import SessionConfig, session

    num_gpus = 1.0 if plan.device.type == "cuda" else 0.0
    pool_config = PoolConfig(num_gpus=num_gpus, num_cpus=0.5, batch_size=batch)
    rows = [{"prompt": f"{PROMPT}, number {i}", "rng_seed_draw": i} for i in range(batch * count)]
    with session(SessionConfig()):
        pool = start_pool("generator", partial(_make_task, plan, config, mode), pool_config)
        try:
            pool.run_blocking(rows[:batch])  # what compiles does so here
            started_s = time.monotonic()
            done = pool.run_blocking(rows)
            seconds = time.monotonic() - started_s
        finally:
            pool.close()
    errors = [row for row in done if not isinstance(row, dict) or row.get("error")]
    if errors:
        raise SystemExit(f"the pool gave {len(errors)} error rows, the first: {errors[0]}")
    return seconds


def goals(modes: list[dict[str, Any]], pool: dict[str, Any] | None, is_fp8: bool) -> Table:
    """The best of all that was measured, beside what the issue asks for."""
    pictures = [case for mode in modes for case in mode["pictures"]]
    best: dict[Any, float] = {}
    for case in pictures:
        key = (case["steps"], 5.0 if case["guided"] else 0.0)
        best[key] = max(best.get(key, 0.0), case["img/s"])
    for row in (row for mode in modes for row in mode["unet"]):
        best["unet_mfu"] = max(best.get("unet_mfu", 0.0), row["MFU"])
    if pool is not None:
        best["pool"] = pool["ratio"]
    rows = [goal(name, best.get(key), target, unit) for name, key, target, unit in GOALS]
    if is_fp8:
        rows.append(goal("20 steps with guidance, FP8", best.get((20, 5.0)), GOAL_FP8_20, "img/s"))
    return rows


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--compile", nargs="+", choices=COMPILES, default=["regional", "none"])
    parser.add_argument("--batches", nargs="+", type=int)
    parser.add_argument(
        "--vae-dtype", default="float16", choices=("float32", "bfloat16", "float16")
    )
    parser.add_argument("--fp8", action="store_true")
    parser.add_argument("--pool", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--budget-s", type=float, default=500.0)
    parser.add_argument("--out", default="out/bench_sdxl.json")
    words = parser.parse_args()
    words.batches = words.batches or ([1] if words.tiny else [8, 1, 4, 16])
    words.repeats = words.repeats or (1 if words.tiny else 3)
    return words


def main() -> None:
    words = _read_arguments()
    clock = Clock(budget_s=words.budget_s)
    device = pick_device(words.tiny)
    plan = Plan(
        is_tiny=words.tiny,
        is_fp8=words.fp8,
        vae_dtype=words.vae_dtype if device.type == "cuda" else "float32",
        batches=tuple(words.batches),
        repeats=words.repeats,
        device=device,
    )
    where = conditions(device)
    for name, value in where.items():
        say(f"{name}: {value}")
    limits = measure_limits(device, plan.dtype, 256 if plan.is_tiny else 8192)
    say(f"measured here: {limits.tflops:.3g} TFLOP/s, copies {limits.copy_gb_s:.3g} GB/s")
    work = count_work(plan, build_sdxl(plan.is_tiny, device, plan.dtype))
    say(f"counted, TFLOP: {work['unet_row']:.3g} a UNet row, {work['vae_picture']:.3g} a decode")
    # Two more models are built and compiled for the pool: kept free, or the sweep would take it.
    pool_s = POOL_S if words.pool and not plan.is_tiny else 0.0
    clock.budget_s -= pool_s
    modes = [measure_mode(plan, mode, work, limits, clock) for mode in words.compile]
    clock.budget_s += pool_s
    pool = measure_pool(plan, words.compile[0], clock) if words.pool else None
    # Tiny models reach anything: only full size is held against the goals.
    reached = goals([] if plan.is_tiny else modes, None if plan.is_tiny else pool, plan.is_fp8)
    print_table("goals, for one H100 at full size", reached)
    report = {"conditions": where, "work": work, "modes": modes, "pool": pool, "goals": reached}
    write_report(str(Path(words.out)), report, clock, limits)


if __name__ == "__main__":
    main()
