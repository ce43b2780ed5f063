"""The ways to run the loop that are compared, each written as those who use it would tune it.

 - `pairloom`: the product, ledger and all: every pair is committed, twice fsynced.
 - `chained`: one Ray Data chain with 2 pools a round, as the documentation would have it, one block
   a batch, pools sized by the rates (fixed) or left to Ray Data (autoscaling from 1).
 - `rounds`: a dataset a round with both pools, run to its end before the next begins.
 - `phases`: no Ray: a process on every GPU draws its share, then every GPU describes; a model is
   loaded at the start of each phase, because both do not fit.
 - `walker`: one pool whose replicas hold both models and walk their chains through all rounds.

Limits: the other arms write Parquet files without a commit, a lineage, or a resume.
"""

import contextlib
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import loop_work
import pyarrow as pa
from loop_work import BATCH_SIZE, UNIT_SIZE, Describer, Drawer, Row, Work

Arm = Callable[[Work, Path], None]
ROOT = Path(__file__).parents[2]


def pairloom(work: Work, folder: Path) -> None:
    from cluster.config import load
    from pipelines.run import run
    from pipelines.synergy import SynergyConfig

    seeds = folder / "seeds.txt"
    seeds.write_text("\n".join(loop_work.make_seeds(work)))
    words = [
        f"output={folder / 'run'}",
        f"seeds.path={seeds}",
        f"num_rounds={work.num_rounds}",
        f"unit_size={UNIT_SIZE}",
    ]
    for verb, role, num_replicas in (
        ("draw", "generator", work.num_generators),
        ("describe", "captioner", work.num_captioners),
    ):
        simulated = work.simulated(verb, folder)
        words += [
            f"{role}.backend=simulated",
            *(
                f"{role}.simulated.{name}={getattr(simulated, name)}"
                for name in ("load_s", "call_s", "cv", "slow_gpu", "log_path")
            ),
            f"pools.{role}.num_replicas={num_replicas}",
            f"pools.{role}.num_gpus=1",
            f"pools.{role}.num_cpus=0.01",
            f"pools.{role}.batch_size={BATCH_SIZE}",
        ]
    totals = run(load(SynergyConfig, str(ROOT / "conf" / "synergy.yaml"), [*words, *work.extra]))
    assert totals.num_pairs == work.num_batches * BATCH_SIZE


class _DrawStage(Drawer):
    def __call__(self, block: pa.Table) -> pa.Table:
        return pa.Table.from_pylist(super().__call__(block.to_pylist()))


class _DescribeStage(Describer):
    def __call__(self, block: pa.Table) -> pa.Table:
        return pa.Table.from_pylist(super().__call__(block.to_pylist()))


class _WalkStage:
    def __init__(self, work: Work, folder: Path) -> None:
        self._num_rounds = work.num_rounds
        self._draw, self._describe = Drawer(work, folder), Describer(work, folder)

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = block.to_pylist()
        for r in range(self._num_rounds):
            rows = self._describe(self._draw(rows, r), r)
        return pa.Table.from_pylist(rows)


def _blocks(rows: list[Row]) -> Any:
    import ray

    tables = [
        pa.Table.from_pylist(rows[n : n + BATCH_SIZE]) for n in range(0, len(rows), BATCH_SIZE)
    ]
    return ray.data.from_arrow(tables)


def _stage(dataset: Any, stage: type, arguments: tuple[Any, ...], compute: Any) -> Any:
    return dataset.map_batches(
        stage,
        fn_constructor_args=arguments,
        batch_size=BATCH_SIZE,
        batch_format="pyarrow",
        compute=compute,
        num_gpus=1,
        num_cpus=0.01,
    )


def _chained(work: Work, folder: Path, *, is_fixed: bool) -> None:
    from ray.data import ActorPoolStrategy

    dataset = _blocks(loop_work.make_rows(work))
    for r in range(work.num_rounds):
        for stage, total in (
            (_DrawStage, work.num_generators),
            (_DescribeStage, work.num_captioners),
        ):
            size = max(1, total // work.num_rounds)
            compute = (
                ActorPoolStrategy(size=size)
                if is_fixed
                else ActorPoolStrategy(min_size=1, max_size=work.num_gpus)
            )
            dataset = _stage(dataset, stage, (work, folder, r), compute)
    dataset.materialize()


def chained_fixed(work: Work, folder: Path) -> None:
    _chained(work, folder, is_fixed=True)


def chained_autoscaling(work: Work, folder: Path) -> None:
    _chained(work, folder, is_fixed=False)


def rounds(work: Work, folder: Path) -> None:
    from ray.data import ActorPoolStrategy

    rows = loop_work.make_rows(work)
    for r in range(work.num_rounds):
        drawn = _stage(
            _blocks(rows),
            _DrawStage,
            (work, folder, r),
            ActorPoolStrategy(size=work.num_generators),
        )
        told = _stage(
            drawn, _DescribeStage, (work, folder, r), ActorPoolStrategy(size=work.num_captioners)
        )
        rows = told.take_all()


def walker(work: Work, folder: Path) -> None:
    from ray.data import ActorPoolStrategy

    blocks = _blocks(loop_work.make_rows(work))
    _stage(blocks, _WalkStage, (work, folder), ActorPoolStrategy(size=work.num_gpus)).materialize()


def _phase(work: Work, folder: Path, verb: str, r: int, rows: list[Row], gpu: int) -> list[Row]:
    import os

    os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    model = (Drawer if verb == "draw" else Describer)(work, folder, r)
    batches = [rows[n : n + BATCH_SIZE] for n in range(0, len(rows), BATCH_SIZE)]
    return [row for batch in batches for row in model(batch)]


def phases(work: Work, folder: Path) -> None:
    rows = loop_work.make_rows(work)
    # Forked from a server without Ray in it: what a script pays to start is not what is measured.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["loop_arms"])
    with contextlib.closing(context.Pool(work.num_gpus)) as pool:
        for r in range(work.num_rounds):
            for verb in ("draw", "describe"):
                batches = [rows[n : n + BATCH_SIZE] for n in range(0, len(rows), BATCH_SIZE)]
                shares = [
                    [row for batch in batches[gpu :: work.num_gpus] for row in batch]
                    for gpu in range(work.num_gpus)
                ]
                jobs = [(work, folder, verb, r, share, gpu) for gpu, share in enumerate(shares)]
                rows = [row for done in pool.starmap(_phase, jobs, chunksize=1) for row in done]


ARMS: dict[str, Arm] = {
    "pairloom": pairloom,
    "phases": phases,
    "chained_fixed": chained_fixed,
    "chained_autoscaling": chained_autoscaling,
    "rounds": rounds,
    "walker": walker,
}
SHARED = {"phases", "walker", "chained_autoscaling"}
"""Arms that are free to use any GPU for either model: their ideal is all work on all GPUs."""
