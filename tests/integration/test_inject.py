"""Whole runs whose chains begin anew with fresh descriptions: killed, cut off, cut otherwise."""

import signal
from pathlib import Path
from typing import Any

import cli
import pytest
from runs import MakeConfig, read_pairs
from whole_runs import check_whole, receipts_of, wait_for, words_of

from pipelines.configs import config_of_run
from pipelines.repair import repair
from pipelines.run import run
from pipelines.verify import describe_report, verify_run

INJECT = ("num_rounds=4", "inject.share=0.3")
SCORED = ("scorer.backend=simulated", "pools.scorer.num_cpus=0.1", "stop.drifted_image_below=0.0")
CHANCE = ("created_at", "draw_s", "describe_s", "score_s")


def _fresh(tmp_path: Path) -> str:
    path = tmp_path / "fresh.txt"
    path.write_text("".join(f"a fresh scene {i}\n" for i in range(12)))
    return f"inject.path={path}"


def _without(output: str, *names: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in names} for row in read_pairs(output)]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_run_that_was_cut_off_or_is_cut_otherwise_begins_the_same_rounds_anew(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    words = (*INJECT, *SCORED, _fresh(tmp_path))
    config = make_config(*words)
    totals = run(config)
    report = verify_run(config.output)
    assert report.is_finished, describe_report(report)
    whole = _without(config.output, *CHANCE)
    anew = [row for row in whole if row["round_index"] and row["parent_id"] is None]
    assert len(anew) >= 4
    assert all(row["image_similarity_first"] == 1.0 for row in anew)
    # Some of those that begin anew leave as well: by their distance from there.
    stopped = {row["seed"] for row in whole if row["stop_reason"]}
    assert {seed.startswith("a fresh") for seed in stopped} == {True, False}
    assert totals.num_stopped > 0
    for path in (tmp_path / "run").glob("receipts/*/[23].json"):
        path.unlink()
    assert run(config).stop_reasons == totals.stop_reasons
    assert _without(config.output, *CHANCE) == whole
    table = tmp_path / "run/seeds/fresh.parquet"
    data = table.read_bytes()
    table.write_bytes(data[:-40])
    assert not verify_run(config.output).is_sound
    repair(config_of_run(config.output, []))
    assert table.read_bytes() == data
    other = make_config(*words, "unit_size=3", "stages.kind=actor", output="other")
    run(other)
    names = (*CHANCE, "unit_id")
    assert _without(other.output, *names) == _without(config.output, *names)


@pytest.mark.slow
def test_a_run_that_was_killed_ends_with_the_lineage_that_is_due(tmp_path: Path) -> None:
    words = words_of(tmp_path, *INJECT, "unit_size=2", "generator.simulated.call_s=0.4")
    output = tmp_path / "run"
    process = cli.start(["run", *words])
    wait_for(lambda: len(receipts_of(output)) >= 6, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 6 <= len(receipts_of(output)) < 20
    done = cli.call("run", *words, "--json")
    assert done.code == 0, done.err
    check_whole(output, tmp_path / "draw.log", 40, most=1.5)
    pairs = read_pairs(output)
    seeds = {row["seed"] for row in pairs if row["round_index"] == 0}
    anew = [row for row in pairs if row["round_index"] and row["parent_id"] is None]
    assert len(anew) >= 4
    assert {row["prompt"] for row in anew} <= seeds, "without a file they are the run's own"
