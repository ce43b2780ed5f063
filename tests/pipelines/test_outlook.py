"""pipelines/outlook.py and overview.py: what a plan says where rates are known, and where not."""

import json
import math

import pytest

from cluster import config as config_files
from cluster.packing import Node
from pipelines.outlook import Outlook, PlanConfig, RateConfig
from pipelines.overview import describe_plan, first_lines, make_outlook, make_plan, plan_to_dict
from pipelines.synergy import SynergyConfig

RATES = ["plan.rates.generator.call_s=8", "plan.rates.captioner.call_s=2"]
EIGHT = [Node(num_cpus=64, num_gpus=8)]


def _config(*words: str) -> SynergyConfig:
    """1000 pairs on 6 + 2 GPUs; a batch is 8 images, or 16 descriptions."""
    base = ["output=out/plan", "seeds.author.num_batches=20", "unit_size=40", "num_rounds=5"]
    return config_files.load(SynergyConfig, "conf/synergy_sdxl.yaml", [*base, *words])


def _outlook(*words: str, nodes: list[Node] = EIGHT, left: int | None = None) -> Outlook:
    config = _config(*RATES, *words)
    found = make_outlook(make_plan(config), config, nodes, left)
    assert found is not None
    return found


def test_an_outlook_adds_up() -> None:
    found = _outlook("plan.rates.generator.load_s=90", "plan.gpu_hour_price=3")
    # Six generators, 8 s for 8 pairs. Units of 40 are three calls of up to 16: 2 s for 13.3 pairs.
    assert found.expected.pairs_per_s == pytest.approx(6.0)
    assert found.expected.bottleneck == "generator"
    assert found.expected.idle_shares == pytest.approx((0.0, 1 - 6 * 2 / (40 / 3) / 2))
    assert found.eta_s == pytest.approx(90 + 1000 / 6)
    assert found.gpu_hours == pytest.approx(8 * found.eta_s / 3600)
    assert found.cost == pytest.approx(3 * found.gpu_hours)
    assert found.best is not None
    assert found.best.split.num_replicas == (7, 1)
    assert not found.is_best


def test_of_a_resumed_run_only_what_is_left_takes_time() -> None:
    assert _outlook(left=60).eta_s == pytest.approx(10.0)


def test_a_plan_on_a_machine_without_the_gpus_splits_those_it_asks_for() -> None:
    assert _outlook(nodes=[Node(num_cpus=2, num_gpus=0)]).num_gpus == 8
    assert _outlook(nodes=EIGHT * 2).num_gpus == 16


def test_both_models_share_gpus_once_it_is_said_that_they_fit() -> None:
    words = [
        "pools.generator.num_replicas=1", "pools.captioner.num_replicas=1",
        "plan.rates.captioner.call_s=0.4",
    ]  # fmt: skip
    apart = _outlook(*words, nodes=[])
    assert apart.is_best
    memory = [f"plan.rates.{name}.memory_share=0.4" for name in ("generator", "captioner")]
    shared = _outlook(*words, *memory, nodes=[])
    assert shared.best is not None
    assert shared.best.split.num_replicas == (2, 1)
    assert shared.best.pairs_per_s > 1.8 * apart.expected.pairs_per_s
    costly = _outlook(*words, *memory, "plan.shared_gpu_efficiency=0.02", nodes=[])
    assert costly.is_best


def test_a_config_that_shares_a_gpu_has_said_that_its_models_fit() -> None:
    words = [f"pools.{name}.num_{what}" for name in ("generator", "captioner") for what in
             ("replicas=1", "gpus=0.5")]  # fmt: skip
    found = _outlook(*words, nodes=[])
    assert found.num_gpus == 1
    assert found.is_best
    assert found.expected.bottleneck == "generator and captioner"
    # 1 s and .15 s of the GPU a pair, and .95 of a second to be had.
    assert found.expected.pairs_per_s == pytest.approx(0.95 / 1.15)


def test_a_gpu_that_is_held_in_part_costs_a_whole_one() -> None:
    words = [
        "pools.generator.num_replicas=8", "pools.captioner.num_replicas=2",
        "pools.generator.num_gpus=0.6", "pools.captioner.num_gpus=0.4",
        "plan.gpu_hour_price=1",
    ]  # fmt: skip
    config = _config(*RATES, *words)
    plan = make_plan(config)
    for nodes in (EIGHT, [Node(num_cpus=2, num_gpus=0)]):
        found = make_outlook(plan, config, nodes)
        assert found is not None
        # 8 GPUs, two of them shared; 1 s and .15 s a pair.
        assert found.expected.pairs_per_s == pytest.approx(min(6 + 2 * 0.95, 7.9 / 1.15))
        assert (found.num_gpus, found.gpu_hours) == (8, pytest.approx(8 * found.eta_s / 3600))
    page = describe_plan(plan, config, make_outlook(plan, config, EIGHT), EIGHT).splitlines()
    assert "GPUs       5.6 asked in parts of 8, 8 in the cluster" in page


def test_replicas_are_not_forecast_on_gpus_that_they_do_not_get() -> None:
    """Ray packs halves: GPUs that stay free do not help, and once were counted."""
    words = [f"pools.{name}.num_gpus=0.5" for name in ("generator", "captioner")]
    counts = ["pools.generator.num_replicas=2", "pools.captioner.num_replicas=2"]
    found = _outlook(*words, *counts)
    assert found.expected.pairs_per_s == pytest.approx(2 * 0.95 / 1.15)
    assert not found.is_best


def test_more_rounds_are_not_more_bytes_in_flight() -> None:
    few, many = (make_plan(_config(f"num_rounds={n}"), 10**6) for n in (1, 8))
    assert few.bytes_in_flight == many.bytes_in_flight


def test_what_cannot_be_split_says_so_and_is_planned_all_the_same() -> None:
    words = ["pools.generator.num_replicas=1", "pools.generator.num_gpus=4"]
    found = _outlook(*words, nodes=[Node(num_cpus=64, num_gpus=2)] * 4)
    assert found.best is None
    assert "does not fit on 4 nodes with 8 GPUs" in found.why_no_best
    assert found.expected.pairs_per_s == pytest.approx(1.0)


def test_the_page_says_what_to_expect_what_it_costs_and_what_would_be_better() -> None:
    config = _config(*RATES, "plan.gpu_hour_price=2.5", "plan.rates.captioner.load_s=60")
    plan = make_plan(config)
    page = describe_plan(plan, config, make_outlook(plan, config, EIGHT), EIGHT)
    for line in (
        "GPUs       8 asked, 8 in the cluster",
        "expected   6 pairs/s, bottleneck generator; idle: generator 0%, captioner 55%",
        "time       about 3 min for 1000 pairs, of it 1 min to load the models",
        "cost       8 GPUs x 0.063 h = 0.504 GPU-hours, 1.26 at 2.5 a GPU-hour",
        "split      of 8 GPUs the best split gives 6.67 pairs/s, 11% more: "
        "pools.generator.num_replicas=7 pools.generator.num_gpus=1 "
        "pools.captioner.num_replicas=1 pools.captioner.num_gpus=1",
    ):
        assert line in page.splitlines()
    # The words are a config, and what it plans is what was promised.
    words = page.splitlines()[-1].partition("more: ")[2].split()
    better = _config(*RATES, *words)
    again = make_outlook(make_plan(better), better, EIGHT)
    assert again is not None
    assert again.is_best
    assert again.expected.pairs_per_s == pytest.approx(20 / 3)


def test_a_scorer_s_gpus_are_asked_for_paid_for_and_left_out_of_the_split() -> None:
    words = ["scorer.backend=clip", "pools.scorer.num_gpus=0.5", "pools.scorer.num_replicas=2"]
    config = _config(*RATES, *words, "plan.gpu_hour_price=2")
    plan = make_plan(config)
    assert plan.gpus == 9
    ten = [Node(num_cpus=64, num_gpus=5)] * 2
    found = make_outlook(plan, config, ten)
    assert found is not None
    assert found.num_gpus == 9, "one of ten is the scorer's"
    plain = _outlook("plan.gpu_hour_price=2", nodes=ten)
    assert plain.num_gpus == 10
    assert found.expected == plain.expected
    assert found.gpu_hours == pytest.approx(plain.gpu_hours * 9 / 8)
    page = describe_plan(plan, config, found, ten).splitlines()
    assert "scorer     clip embedded: 2 replicas, 0.5 GPU each, 125 calls of up to 8" in page
    assert "GPUs       9 asked, 10 in the cluster" in page
    assert any(line.startswith("cost       9 GPUs x ") for line in page)
    assert "scorer 2 x 0.5 GPU" in first_lines(config, 200, 1000)[0]


def test_without_rates_one_line_says_what_is_not_known_and_how_to_get_it() -> None:
    for words in ([], RATES[:1], RATES[1:]):
        config = _config(*words)
        plan = make_plan(config)
        outlook = make_outlook(plan, config, EIGHT)
        assert outlook is None
        last = describe_plan(plan, config, outlook).splitlines()[-1]
        assert last.startswith("unknown    pairs/s, bottleneck, time, cost: ")
        assert "pairloom plan --measure" in last
        assert plan_to_dict(plan, outlook)["outlook"] is None


def test_a_run_begins_its_log_with_two_or_three_lines() -> None:
    two = first_lines(_config(), 200, 1000)
    assert two[0] == (
        "generator 6 x 1 GPU, captioner 2 x 1 GPU; 1000 of up to 1000 pairs left, "
        "up to 52.4 MB in flight"
    )
    assert len(two) == 2
    assert "--measure" in two[1]
    three = first_lines(_config(*RATES), 200, 600)
    assert len(three) == 3
    assert three[1].startswith("6 pairs/s, bottleneck generator")
    assert "600 pairs, and however long it takes to load the models" in three[1]
    assert "about 1 min for 600 pairs" in three[1]
    assert "pools.generator.num_replicas=7" in three[2]


def test_numbers_come_out_as_json() -> None:
    config = _config(*RATES)
    plan = make_plan(config)
    found = json.loads(json.dumps(plan_to_dict(plan, make_outlook(plan, config, EIGHT))))
    assert found["outlook"]["expected"]["pairs_per_s"] == pytest.approx(6.0)
    assert found["outlook"]["cost"] is None
    assert found["num_pairs"] == 1000


def test_replicas_on_cpus_have_a_rate_and_no_split() -> None:
    words = [f"pools.{name}.num_gpus=0" for name in ("generator", "captioner")]
    found = _outlook(*words, nodes=[Node(num_cpus=2, num_gpus=0)])
    assert found.best is None
    assert found.why_no_best == ""
    assert found.expected.pairs_per_s == pytest.approx(6.0)
    assert found.gpu_hours == 0


@pytest.mark.parametrize(
    "values",
    [
        {"call_s": 0.0},
        {"call_s": math.nan},
        {"load_s": -1.0},
        {"memory_share": 0.0},
        {"memory_share": 1.5},
    ],
)
def test_a_rate_that_cannot_be_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"field {next(iter(values))!r} is .* must be from"):
        RateConfig(**values)


def test_a_price_or_efficiency_that_cannot_be_is_refused() -> None:
    for values in ({"gpu_hour_price": -1.0}, {"gpu_hour_price": math.inf}):
        with pytest.raises(ValueError, match="field 'gpu_hour_price'"):
            PlanConfig(**values)
    with pytest.raises(ValueError, match="field 'shared_gpu_efficiency' is 0"):
        PlanConfig(shared_gpu_efficiency=0.0)
