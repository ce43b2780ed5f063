"""Synergy: from every seed, n rounds of draw and describe, each round feeding the next.

    M_j = G(D_{j-1}),  D_j = F(I, M_j),  S = b batches x m seeds x n rounds

(Synergy-General-MultimodalPairs.) `mode: resample` draws n images of the one seed description
instead; the published notebook did that under the loop's name, here the two are told apart.

Limits: rounds of one chain are a sequence; it is the many chains that run in parallel.
"""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from actors.backends.profiling import ProfileConfig
from actors.engines import THREAD_SAFE_BACKENDS
from actors.image_to_text import ImageToTextConfig
from actors.models import ModelIdentity
from actors.records import Row
from actors.scoring_config import ScorerConfig
from actors.text_to_image import TextToImageConfig
from cluster.ledger import Ledger
from cluster.metrics import Observer
from cluster.pool import PoolConfig
from cluster.session import SessionConfig
from cluster.telemetry import Board
from pipelines.drift import StopConfig
from pipelines.inject import InjectConfig
from pipelines.limits import LimitsConfig
from pipelines.outlook import PlanConfig
from pipelines.record import Recording, catch_up_with, record_to
from pipelines.sources import SeedsConfig
from pipelines.stages import (
    DEFAULT_UNITS_IN_FLIGHT,
    RowPool,
    Stage,
    StagesConfig,
    Work,
    describe_with,
    draw_with,
    lay_out,
    score_with,
)

if TYPE_CHECKING:
    from ray.data import Dataset


@dataclass(frozen=True, kw_only=True)
class PoolsConfig:
    """The shared pool of each model; it is loaded once a replica, whatever the number of rounds."""

    generator: PoolConfig = field(default_factory=PoolConfig)
    captioner: PoolConfig = field(default_factory=PoolConfig)
    scorer: PoolConfig = field(default_factory=PoolConfig)  # started where `scorer.backend` is set


@dataclass(frozen=True, kw_only=True)
class SynergyConfig:
    """One run. `generator`, `captioner`, `scorer`, `stop`, `inject`, `seeds`, `mode` and numbers
    decide what the pairs are; `pools`, `stages`, `cluster` and `limits` only decide how fast they
    come and when the run gives up, `plan` what is said of it beforehand, `profile` what is recorded
    of where its time goes; they may change on a resume."""

    output: str  # folder or URI: s3://bucket/prefix, gs://..., az://...
    # Your word that no second driver writes there, for a store that ignores put-if-absent
    is_single_writer: bool = False
    run_seed: int = 0  # every rng_seed of the run derives from it
    num_rounds: int = 3  # n
    mode: Literal["loop", "resample"] = "loop"
    unit_size: int = 64  # chains that are worked on and committed together
    seeds: SeedsConfig = field(default_factory=SeedsConfig)
    generator: TextToImageConfig = field(default_factory=TextToImageConfig)
    captioner: ImageToTextConfig = field(default_factory=ImageToTextConfig)
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    inject: InjectConfig = field(default_factory=InjectConfig)
    pools: PoolsConfig = field(default_factory=PoolsConfig)
    stages: StagesConfig = field(default_factory=StagesConfig)
    cluster: SessionConfig = field(default_factory=SessionConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)

    def __post_init__(self) -> None:
        for name, least, most in (
            ("num_rounds", 1, 999),  # three digits in a pair_id
            ("unit_size", 1, 4096),
            ("run_seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"field {name!r} is {value}: must be from {least} to {most}")
        if not self.output:
            raise ValueError("field 'output' is empty: give a folder or a URI such as s3://b/run1")
        if self.seeds.path is None and self.seeds.author.num_batches == 0:
            raise ValueError(
                "field 'seeds.path' is null and 'seeds.author.num_batches' is 0: "
                "give a seed file, or let the author write b batches"
            )
        self.limits.budget.gpu_s(self.plan.gpu_hour_price)  # a cost without a price is refused
        for name in ("stop", "inject"):
            if getattr(self, name).is_on and self.mode != "loop":
                raise ValueError(
                    f"field {name!r} is in use, and 'mode' is {self.mode!r}: only the rounds of a "
                    "loop follow from each other"
                )
        if self.inject.is_on and self.inject.from_round >= self.num_rounds:
            raise ValueError(
                f"field 'inject.from_round' is {self.inject.from_round}: no round of "
                f"{self.num_rounds} would begin anew"
            )
        if self.stop.needs_scores and not self.scorer.is_on:
            raise ValueError(
                "field 'stop' compares similarities, and 'scorer.backend' is 'none': set it to "
                "'clip'"
            )
        self._check_pools()

    def _check_pools(self) -> None:
        pools, author = self.pools, self.seeds.author
        for name, backend, pool in (
            ("pools.generator", self.generator.backend, pools.generator),
            ("pools.captioner", self.captioner.backend, pools.captioner),
            ("pools.scorer", self.scorer.backend, pools.scorer),
            ("seeds.author.pool", author.model.backend, author.pool),
        ):
            if pool.calls_per_replica > 1 and backend not in THREAD_SAFE_BACKENDS:
                raise ValueError(
                    f"field '{name}.calls_per_replica' is {pool.calls_per_replica}: an engine "
                    f"{backend!r} answers one call at a time; take 1"
                )
        for model, name, pool in (
            (self.captioner, "captioner", pools.captioner),
            (author.model, "seeds.author.model", author.pool),
        ):
            num_shards = model.vllm.tensor_parallel_size
            if model.backend == "vllm" and max(pool.num_gpus, 1) != num_shards and pool.num_gpus:
                raise ValueError(
                    f"field '{name}.vllm.tensor_parallel_size' is {num_shards}, and a replica of "
                    f"its pool holds {pool.num_gpus:g} GPUs: the two must be the same"
                )

    @property
    def is_loop(self) -> bool:
        """Whether each description becomes the next prompt."""
        return self.mode == "loop"

    @property
    def has_memory(self) -> bool:
        """Whether a round needs more of the earlier ones than the last description."""
        return self.scorer.is_on or self.stop.is_on


@dataclass(frozen=True, kw_only=True)
class Models:
    """Which models a run uses, as its records and its fingerprint state them."""

    generator: ModelIdentity
    captioner: ModelIdentity
    scorer: ModelIdentity | None = None


@dataclass(frozen=True, kw_only=True)
class Pools:
    """The shared pools of a run."""

    generator: RowPool
    captioner: RowPool
    scorer: RowPool | None = None


def build(
    chains: "Dataset",
    pools: Pools,
    config: SynergyConfig,
    ledger: Ledger,
    constants: dict[str, Any],
    board: Board | None = None,
) -> "Dataset":
    """The loop as a dataset: three or four stages a round, nothing runs until it is consumed."""
    seed, group_size = config.run_seed, units_a_group(config)
    see_commit = Observer("pairloom_commit_seconds")
    how = Recording(
        is_loop=config.is_loop, constants=constants, has_memory=config.has_memory, stop=config.stop
    )
    stages: list[Stage] = []

    def add(verb: str, work: Work, is_by_row: bool = True) -> None:
        stages.append(Stage(verb=verb, round_index=r, work=work, is_by_row=is_by_row, board=board))

    for r in range(config.num_rounds):
        add("draw", draw_with(pools.generator, r, seed, group_size))
        add("describe", describe_with(pools.captioner, r, seed, group_size))
        if pools.scorer is not None:
            add("score", score_with(pools.scorer, r, group_size))
        is_last = r == config.num_rounds - 1  # no chain can stop any more
        last = replace(how, stop=None) if is_last or not config.stop.is_on else how
        add("record", record_to(ledger, r, last, see_commit), is_by_row=False)
    return lay_out(chains, stages, catch_up_with(ledger, how), config.stages, part_size(config))


def part_size(config: SynergyConfig) -> int:
    """Rows that can be handed from one pool to the other with the batches of both full.

    Of batch sizes without a small common multiple that is the whole unit.
    """
    return math.lcm(*(_rows_a_call(config, pool) for pool in _turn_pools(config)))


def units_a_group(config: SynergyConfig) -> int:
    """Units that go through their rounds together: enough to keep every replica busy to the end.

    Eight batches a replica: with four, one slow GPU of 8 and calls that vary by cv .5, efficiency
    was .94 and at worst .90, with eight .97 and at worst .94.
    """
    rows = max(8 * pool.num_replicas * _rows_a_call(config, pool) for pool in _turn_pools(config))
    return math.ceil(rows / config.unit_size)


def units_in_flight(config: SynergyConfig) -> int:
    """Units that a stage (`actor`), or all stages together (`walker`), hold at once."""
    default = max(DEFAULT_UNITS_IN_FLIGHT, units_a_group(config))
    return config.stages.num_units_in_flight or default


def _turn_pools(config: SynergyConfig) -> tuple[PoolConfig, PoolConfig]:
    return config.pools.generator, config.pools.captioner


def _rows_a_call(config: SynergyConfig, pool: PoolConfig) -> int:
    """A batch is of one unit."""
    return min(pool.batch_size, config.unit_size)


def stages_of_round(config: SynergyConfig, round_index: int) -> list[str]:
    """The stages of one round in order, as the dashboard names them."""
    scores = ("score",) if config.scorer.is_on else ()
    return [f"{verb}[r{round_index}]" for verb in ("draw", "describe", *scores, "record")]


def constant_columns(config: SynergyConfig, models: Models) -> Row:
    """The columns that are the same in every row of a run."""
    instruction = config.captioner.instruction_used()
    return {
        "instruction": instruction.text,
        "instruction_id": instruction.id,
        "instruction_sha256": instruction.sha256,
        "generator": _model_column(models.generator, config.generator.sampling_params()),
        "captioner": _model_column(models.captioner, config.captioner.sampling_params()),
        **_scorer_column(config, models),
    }


def _scorer_column(config: SynergyConfig, models: Models) -> Row:
    """None of it in a run without a scorer: its fingerprint is that of before there were any."""
    if models.scorer is None:
        return {}
    return {"scorer": _model_column(models.scorer, config.scorer.params())}


def fingerprint_fields(
    config: SynergyConfig, models: Models, seeds: Row, fresh: Row | None = None
) -> Row:
    """What decides the pairs, and so must not differ under one output prefix.

    Where the output and the models lie, how many replicas there are and in what batches they work
    is left out: a run may move to another machine and go on. Models count by digest, seeds by
    content; `fresh` is None where these are the fresh descriptions too.
    """
    inject = {"share": config.inject.share, "from_round": config.inject.from_round, "fresh": fresh}
    constants = constant_columns(config, models)
    for role in ("generator", "captioner", "scorer"):
        if role not in constants:
            continue
        model = constants[role]
        # The same bytes under another name, or in another folder, are the same model.
        constants[role] = {"is": model["digest"] or model["id"], "params": model["params"]}
    return {
        "pipeline": "synergy",
        "run_seed": config.run_seed,
        "num_rounds": config.num_rounds,
        "mode": config.mode,
        "unit_size": config.unit_size,
        "seeds": seeds,
        **constants,
        **({"stop": asdict(config.stop)} if config.stop.is_on else {}),
        **({"inject": inject} if config.inject.is_on else {}),
    }


def _model_column(model: ModelIdentity, params: Row) -> Row:
    return {
        "id": model.id,
        "revision": model.revision,
        "digest": model.digest,
        "licence": model.licence,
        "params": json.dumps(params, sort_keys=True),
    }
