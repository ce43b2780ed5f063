"""pipelines/synergy.py without Ray: what a config may ask for, and what its numbers come to."""

import pytest
from runs import MakeConfig

from pipelines.overview import make_plan
from pipelines.synergy import part_size, units_a_group, units_in_flight


@pytest.mark.parametrize(("num_gpus", "num_shards"), [(1, 2), (0.5, 2), (2, 1), (4, 2)])
@pytest.mark.parametrize("role", ["captioner", "author"])
def test_shards_of_a_model_are_as_many_as_the_gpus_of_its_replica(
    make_config: MakeConfig, role: str, num_gpus: float, num_shards: int
) -> None:
    model, pool = {
        "captioner": ("captioner", "pools.captioner"),
        "author": ("seeds.author.model", "seeds.author.pool"),
    }[role]
    words = [f"{model}.backend=vllm", f"{model}.vllm.tensor_parallel_size={num_shards}"]
    with pytest.raises(ValueError, match=rf"'{model}.vllm.tensor_parallel_size' is {num_shards}"):
        make_config(*words, f"{pool}.num_gpus={num_gpus}")
    make_config(*words, f"{pool}.num_gpus={num_shards}")
    make_config(*words)  # without a GPU vLLM shards over processes


@pytest.mark.parametrize(
    ("words", "pool"),
    [
        (["generator.backend=sdxl"], "pools.generator"),
        (["captioner.backend=hf_mllm"], "pools.captioner"),
        (["scorer.backend=clip"], "pools.scorer"),
        (["seeds.author.model.backend=hf_mllm"], "seeds.author.pool"),
    ],
)
def test_an_engine_that_answers_one_call_at_a_time_is_sent_one(
    make_config: MakeConfig, words: list[str], pool: str
) -> None:
    """Engines are not thread-safe, but for those that batch by themselves (actors/engines.py)."""
    make_config(*words, f"{pool}.calls_per_replica=1")
    with pytest.raises(ValueError, match=rf"'{pool}\.calls_per_replica' is 2: an engine"):
        make_config(*words, f"{pool}.calls_per_replica=2")


def test_an_engine_that_batches_by_itself_is_sent_several(make_config: MakeConfig) -> None:
    config = make_config("captioner.backend=vllm", "pools.captioner.calls_per_replica=4")
    assert config.pools.captioner.calls_per_replica == 4


def test_a_part_fills_the_batches_of_both_models(make_config: MakeConfig) -> None:
    words = ["unit_size=64", "pools.generator.batch_size=8", "pools.captioner.batch_size=12"]
    assert part_size(make_config(*words)) == 24
    assert part_size(make_config(*words, "unit_size=6")) == 6


def test_a_plan_knows_how_many_units_hold_their_images_at_once(make_config: MakeConfig) -> None:
    words = ["unit_size=64", "pools.generator.num_replicas=100", "num_rounds=2"]
    config = make_config(*words)
    assert units_in_flight(config) == units_a_group(config) == 100
    assert make_plan(config, 64_000).bytes_in_flight == 100 * 64 * make_plan(config, 1).row_bytes
    assert units_in_flight(make_config(*words, "stages.num_units_in_flight=3")) == 3
    assert units_in_flight(make_config("unit_size=64")) == 8
    by_stage = make_plan(make_config(*words, "stages.kind=actor"), 64_000)
    assert by_stage.num_units_in_flight == 2 * 6
