"""`pairloom plan --measure`: real pools over simulated engines, whose times are known."""

from pathlib import Path

import cli
import pytest
from runs import MakeConfig, read_log

from cluster.errors import PairloomError
from pipelines.measure import measure, with_rates
from pipelines.overview import make_outlook, make_plan

CALL_S = ["generator.simulated.call_s=0.3", "captioner.simulated.call_s=0.1"]
ONE_GPU_EACH = ["pools.generator.num_gpus=1", "pools.captioner.num_gpus=1"]


@pytest.mark.usefixtures("local_ray")
def test_one_replica_of_each_is_timed_on_full_batches_of_the_first_seeds(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(*CALL_S, *ONE_GPU_EACH, "pools.generator.num_replicas=6")
    found = measure(config, num_batches=3)
    generator, captioner = found.pools
    # Never shorter than the sleep; on a machine at its limit rather longer.
    assert 0.3 <= generator.call_s < 1.5
    assert 0.1 <= captioner.call_s < 1.5
    assert len(generator.calls_s) == 3
    assert min(generator.calls_s) <= generator.call_s <= max(generator.calls_s)
    for name in ("draw", "describe"):
        log = tmp_path / f"{name}.log"
        assert len(read_log(log, "load")) == 1
        assert [len(call["prompts"]) for call in read_log(log)] == [8, 8, 8, 8]
    assert {p for call in read_log(tmp_path / "draw.log") for p in call["prompts"]} == {
        f"scene number {i}" for i in range(10)
    }
    assert not (tmp_path / "run").exists()

    config = with_rates(config, found)
    outlook = make_outlook(make_plan(config), config, found.nodes)
    assert outlook is not None
    # As many as the Ray at hand has, which other tests may have started, or as are asked for.
    assert outlook.num_gpus == max(7, sum(int(node.num_gpus) for node in found.nodes))
    assert outlook.expected.bottleneck in ("generator", "captioner")


@pytest.mark.usefixtures("local_ray")
def test_calls_that_an_engine_works_on_together_are_timed_together(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """Four calls of .4 s at a time: a tenth of a second of the replica each."""
    words = ["captioner.simulated.call_s=0.4", "pools.captioner.calls_per_replica=4"]
    captioner = measure(make_config(*words), num_batches=2).pools[1]
    assert [len(one["prompts"]) for one in read_log(tmp_path / "describe.log")] == [8] * 12
    assert 0.09 <= captioner.call_s < 0.3


@pytest.mark.usefixtures("local_ray")
def test_models_that_draw_nothing_end_a_measurement_with_their_words(
    make_config: MakeConfig,
) -> None:
    faults = ["generator.simulated.fault=empty", "generator.simulated.fault_rate=1.0"]
    with pytest.raises(PairloomError, match="generator: not one of 8 rows came out: image_"):
        measure(make_config(*faults), num_batches=1)


def test_seeds_that_an_author_has_yet_to_write_cannot_be_measured(make_config: MakeConfig) -> None:
    config = make_config("seeds.path=null", "seeds.author.num_batches=2")
    with pytest.raises(ValueError, match="`pairloom seeds` first"):
        measure(config)


@pytest.mark.slow
def test_the_verb_measures_on_one_gpu_prints_the_spread_and_plans_with_it(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("".join(f"scene number {i}\n" for i in range(40)))
    backends = ["generator.backend=simulated", "captioner.backend=simulated"]
    cluster = ["cluster.has_dashboard=false", "cluster.num_gpus=1"]
    words = [f"output={tmp_path}/run", f"seeds.path={seeds}", *backends, *CALL_S, *cluster]
    done = cli.call("plan", "--measure", "conf/synergy.yaml", *words, *ONE_GPU_EACH, "--json")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("measured   generator: ")
    assert "in 5 calls; the first took" in lines[0]
    assert lines[2].startswith("keep it    plan.rates.generator.call_s=")
    assert "GPUs       2 asked, 1 in the cluster" in lines
    assert any(line.startswith("expected   ") for line in lines)
    outlook = done.totals["outlook"]
    assert 8 / 1.5 < outlook["expected"]["pairs_per_s"] <= 8 / 0.3
    assert not (tmp_path / "run").exists()
    # What was printed can be kept, and gives the same plan without measuring.
    kept = lines[2].removeprefix("keep it    ").split()
    again = cli.call("plan", "conf/synergy.yaml", *words, *ONE_GPU_EACH, *kept, "--json")
    assert again.totals["outlook"]["eta_s"] == pytest.approx(outlook["eta_s"], rel=0.01)
