"""Whole runs with a scorer and rules: counted, verified, resumed; one over the embedded CLIP."""

from pathlib import Path
from typing import Any

import pytest
from runs import MakeConfig, read_pairs

from actors.backends.simulated import simulated_identity
from actors.records import SCORE_COLUMNS
from cluster.config import load
from cluster.packing import Node, check_fits
from pipelines.run import loop_demands, run
from pipelines.status import describe_status, describe_totals, read_status
from pipelines.synergy import Models, SynergyConfig, fingerprint_fields
from pipelines.verify import describe_report, verify_run

SCORED = ("scorer.backend=simulated", "pools.scorer.num_cpus=0.1")
# Vectors of noise: a third of the chains leaves in every round.
RULES = ("stop.drifted_image_below=-0.1", "num_rounds=4")
NEVER = ("created_at", "draw_s", "describe_s", "score_s")


def _same(output: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in NEVER} for row in read_pairs(output)]


def test_a_run_without_scorer_and_rules_is_what_it_was(make_config: MakeConfig) -> None:
    config = make_config("stop.converged_rounds=3", "pools.scorer.batch_size=64")
    models = Models(generator=simulated_identity("draw"), captioner=simulated_identity("describe"))
    fields = fingerprint_fields(config, models, {"num_seeds": 1})
    assert fields.keys() == {
        "pipeline", "run_seed", "num_rounds", "mode", "unit_size", "seeds", "instruction",
        "instruction_id", "instruction_sha256", "generator", "captioner",
    }  # fmt: skip
    scored = make_config(*SCORED, *RULES)
    models = Models(
        generator=models.generator, captioner=models.captioner, scorer=scored.scorer.identity()
    )
    more = fingerprint_fields(scored, models, {"num_seeds": 1}).keys() - fields.keys()
    assert more == {"scorer", "stop"}


def test_rules_that_cannot_be_asked_are_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"scorer.backend"):
        make_config("stop.converged_from=0.9")
    with pytest.raises(ValueError, match=r"'mode' is 'resample'"):
        make_config("stop.is_looping=true", "mode=resample")


def test_the_default_config_has_room_for_a_scorer_on_two_cpus() -> None:
    """The README's command for scores was refused there: a third pool asked for a whole CPU."""
    words = ["output=out/x", "scorer.backend=clip", "stop.converged_from=0.98"]
    config = load(SynergyConfig, "conf/synergy.yaml", words)
    check_fits(loop_demands(config), [Node(num_cpus=2, num_gpus=0)], can_autoscale=False)


@pytest.mark.usefixtures("local_ray")
def test_chains_stop_are_counted_and_told_of(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(*SCORED, *RULES)
    totals = run(config)
    assert totals.model_loads.keys() == {"generator", "captioner", "scorer"}
    stopped = [row for row in read_pairs(config.output) if row["stop_reason"]]
    assert len(stopped) >= 2
    assert totals.stop_reasons == {"drifted": len(stopped)}
    assert totals.num_pairs + totals.num_stopped == 40
    assert totals.saved.num_rows == totals.num_stopped > 0
    assert f"{len(stopped)} drifted" in describe_totals(totals)
    assert f"{len(stopped)} chains drifted" in describe_status(read_status(config.output))
    report = verify_run(config.output)
    assert report.is_sound, describe_report(report)
    assert report.is_finished
    assert (report.num_pairs, report.num_stopped) == (totals.num_pairs, totals.num_stopped)
    # An attempt that was cut off after round 1: the next one scores and stops alike.
    whole = _same(tmp_path / "run")
    for path in (tmp_path / "run").glob("receipts/*/[23].json"):
        path.unlink()
    assert run(config).stop_reasons == totals.stop_reasons
    assert _same(tmp_path / "run") == whole


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_scores_of_the_embedded_models(make_config: MakeConfig) -> None:
    config = make_config(
        "generator.backend=sdxl", "generator.num_steps=4", "captioner.backend=hf_mllm",
        "scorer.backend=clip", "seeds.path=conf/seeds/scenes.txt", "seeds.limit=6", "unit_size=6",
        "num_rounds=2", "pools.scorer.num_cpus=0.1",
    )  # fmt: skip
    run(config)
    pairs = read_pairs(config.output)
    assert len(pairs) == 12
    names = [name for name, _, _ in SCORE_COLUMNS[:6]]
    for row in pairs:
        assert row["caption_flags"] == []
        assert row["scorer"]["id"] == "pairloom-embedded/clip"
        previous = {name for name in names if row[name] is None}
        assert previous == {n for n in names if row["round_index"] == 0 and "previous" in n}
    # Trained on such pictures: each fits what is said of it, and what it was asked for.
    fits = [row["clip_similarity_description"] for row in pairs]
    assert sum(fits) / len(fits) > 0.5
    assert verify_run(config.output).is_sound
