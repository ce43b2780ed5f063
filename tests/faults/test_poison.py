"""One row that nothing can be done with costs itself, and nothing else, on a real Ray."""

from pathlib import Path

import pytest
from runs import MakeConfig, read_dead_letters, read_pairs

from pipelines.run import run
from pipelines.verify import verify_run

pytestmark = pytest.mark.usefixtures("local_ray")

STABLE = ("pair_id", "prompt", "image_sha256", "description")


@pytest.mark.parametrize(
    ("model", "fault", "reason"),
    [
        ("generator", "abort", "replica_died"),
        pytest.param("generator", "hang", "call_timeout", marks=pytest.mark.faults),
        ("generator", "oom", "out_of_memory"),
        pytest.param("generator", "nan", "image_not_finite", marks=pytest.mark.faults),
        pytest.param("captioner", "abort", "replica_died", marks=pytest.mark.faults),
        pytest.param("captioner", "dead", "engine_dead", marks=pytest.mark.faults),
        pytest.param("captioner", "wrong_count", "wrong_row_count", marks=pytest.mark.faults),
    ],
)
def test_a_poison_row_is_one_dead_letter_and_its_neighbours_are_committed(
    make_config: MakeConfig, tmp_path: Path, model: str, fault: str, reason: str
) -> None:
    config = make_config(
        "num_rounds=2",
        f"{model}.simulated.fault={fault}",
        f"{model}.simulated.fault_marker=number 6",
        f"pools.{model}.call_timeout_s=2",
    )
    totals = run(config)
    assert (totals.num_pairs, totals.num_error_rows, totals.num_stopped) == (18, 1, 1)
    (dead,) = read_dead_letters(tmp_path / "run")
    assert (dead["seed"], dead["reason"], dead["round_index"]) == ("scene number 6", reason, 0)
    assert dead["stage"] == ("draw" if model == "generator" else "describe")
    if reason in ("replica_died", "call_timeout", "engine_dead"):
        assert dead["attempts"] == 3
        # The poison row's own two lives and the one it fell in with its batch; one more where the
        # answer before it was lost with the process, which is then charged for that one first.
        assert totals.model_loads[model] in (4, 5)
    report = verify_run(config.output)
    assert report.is_sound, report.findings
    assert report.is_finished


@pytest.mark.faults
def test_neighbours_of_poison_rows_are_what_they_would_have_been(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    words = ["num_rounds=2", "generator.simulated.fault=abort"]
    run(make_config(*words, "generator.simulated.fault_marker=number 6"))
    run(make_config("num_rounds=2", output="calm"))
    kept = {tuple(row[name] for name in STABLE) for row in read_pairs(tmp_path / "run")}
    calm = {tuple(row[name] for name in STABLE) for row in read_pairs(tmp_path / "calm")}
    assert kept < calm
    assert len(calm - kept) == 2


def test_several_poison_rows_in_one_batch_do_not_end_the_pool(
    make_config: MakeConfig, seed_file: Path, tmp_path: Path
) -> None:
    seeds = [f"bad {i}" if i in (2, 3, 5, 6, 7) else f"good {i}" for i in range(12)]
    seed_file.write_text("\n".join(seeds))
    words = ["num_rounds=1", "unit_size=8", "generator.simulated.fault=abort"]
    totals = run(make_config(*words, "generator.simulated.fault_marker=bad"))
    assert (totals.num_pairs, totals.num_error_rows) == (7, 5)
    assert {row["reason"] for row in read_dead_letters(tmp_path / "run")} == {"replica_died"}
