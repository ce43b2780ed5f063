"""The loop on a real Ray with simulated engines: recurrence, loads, faults, independence."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import MakeConfig, read_dead_letters, read_log, read_pairs
from safetensors.numpy import save_file

from actors.backends.simulated import caption_of, read_prompt
from cluster.errors import ModelLoadError, PoolError, RunMismatchError
from pipelines.run import run

pytestmark = pytest.mark.usefixtures("local_ray")

# What must not depend on how a run was carried out.
STABLE = [
    *("pair_id", "chain_id", "unit_id", "round_index", "parent_id", "seed", "prompt"),
    *("image_sha256", "description", "rng_seed_draw", "rng_seed_describe"),
]


def _stable(output: Path, columns: list[str] = STABLE) -> list[tuple[object, ...]]:
    return [tuple(row[column] for column in columns) for row in read_pairs(output)]


def _image(row: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(row["image"]["bytes"]), formats=["PNG"])


def test_each_prompt_is_the_description_of_the_round_before(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    words = ["num_rounds=4", "seeds.path=null", "seeds.author.num_batches=2"]
    words += ["seeds.author.batch_size=3", "seeds.author.model.backend=simulated"]
    totals = run(make_config(*words))
    rows = read_pairs(tmp_path / "run")

    assert totals.num_pairs == len(rows) == 24
    assert len({row["pair_id"] for row in rows}) == 24
    assert len({row["rng_seed_draw"] for row in rows}) == 24
    for before, row in zip([None, *rows], rows, strict=False):
        if row["round_index"] == 0:
            assert row["prompt"] == row["seed"]
            assert row["parent_id"] is None
        else:
            assert before is not None
            assert row["prompt"] == before["description"]
            assert row["parent_id"] == before["pair_id"]
        # The stand-in writes its prompt into its picture, and its caption names the picture.
        assert read_prompt(_image(row)) == row["prompt"]
        assert caption_of(_image(row), row["rng_seed_describe"]) == row["description"]
    drawn = [prompt for call in read_log(tmp_path / "draw.log") for prompt in call["prompts"]]
    assert sorted(drawn) == sorted(row["prompt"] for row in rows)
    assert totals.model_loads == {"generator": 1, "captioner": 1}


def test_resample_draws_every_round_from_the_seed(make_config: MakeConfig, tmp_path: Path) -> None:
    run(make_config("mode=resample"))
    rows = read_pairs(tmp_path / "run")
    assert len(rows) == 30
    assert all(row["prompt"] == row["seed"] and row["parent_id"] is None for row in rows)
    assert len({row["image_sha256"] for row in rows}) == 30


@pytest.mark.parametrize("num_rounds", [pytest.param(1, marks=pytest.mark.slow), 6])
def test_models_load_once_however_many_rounds(
    make_config: MakeConfig, tmp_path: Path, num_rounds: int
) -> None:
    totals = run(make_config(f"num_rounds={num_rounds}"))
    assert totals.model_loads == {"generator": 1, "captioner": 1}
    assert len(read_log(tmp_path / "draw.log", "load")) == 1
    assert totals.num_pairs == 10 * num_rounds


@pytest.mark.slow
def test_pairs_do_not_depend_on_replicas_batches_or_kind_of_stage(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    run(make_config(output="a"))
    many = ["pools.generator.num_replicas=3", "pools.captioner.num_replicas=2"]
    run(make_config(*many, "pools.generator.batch_size=3", output="b"))
    run(make_config("stages.kind=actor", output="c"))
    assert _stable(tmp_path / "a") == _stable(tmp_path / "b") == _stable(tmp_path / "c")
    run(make_config("unit_size=7", output="d"))
    no_unit = [column for column in STABLE if column != "unit_id"]
    assert _stable(tmp_path / "a", no_unit) == _stable(tmp_path / "d", no_unit)
    run(make_config("run_seed=1", output="e"))
    assert not set(_stable(tmp_path / "a")) & set(_stable(tmp_path / "e"))


@pytest.mark.parametrize(
    ("model", "fault", "reason"),
    [
        ("generator", "raise", "engine_error"),
        pytest.param("generator", "wrong_count", "wrong_row_count", marks=pytest.mark.slow),
        pytest.param("generator", "broken", "image_wrong_mode", marks=pytest.mark.slow),
        pytest.param("captioner", "raise", "engine_error", marks=pytest.mark.slow),
        pytest.param("captioner", "wrong_count", "wrong_row_count", marks=pytest.mark.slow),
        ("captioner", "empty", "description_empty"),
    ],
)
def test_a_bad_row_is_an_error_row_and_the_rest_goes_on(
    make_config: MakeConfig, tmp_path: Path, model: str, fault: str, reason: str
) -> None:
    simulated = f"{model}.simulated"
    totals = run(make_config(f"{simulated}.fault={fault}", f"{simulated}.fault_marker=number 6"))
    assert (totals.num_pairs, totals.num_error_rows, totals.num_stopped) == (27, 1, 2)
    (bad,) = read_dead_letters(tmp_path / "run")
    assert bad["seed"] == bad["prompt"] == "scene number 6"
    assert (bad["reason"], bad["round_index"]) == (reason, 0)
    assert bad["stage"] == ("draw" if model == "generator" else "describe")
    assert bad["attempts"] >= 1
    assert bool(bad["image"]) == (model == "captioner")
    assert bool(bad["traceback_sha256"]) == (fault == "raise")


def test_a_fault_in_a_later_round_keeps_the_chain_s_earlier_rounds(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    run(make_config("num_rounds=1", output="first"))
    said = read_pairs(tmp_path / "first")[4]["description"]
    words = ["generator.simulated.fault=empty", f"generator.simulated.fault_marker={said}"]
    totals = run(make_config(*words))
    assert (totals.num_pairs, totals.num_error_rows, totals.num_stopped) == (28, 1, 1)
    chain_id = read_pairs(tmp_path / "first")[4]["chain_id"]
    grown = [row for row in read_pairs(tmp_path / "run") if row["chain_id"] == chain_id]
    assert [row["round_index"] for row in grown] == [0]
    (failed,) = read_dead_letters(tmp_path / "run")
    assert (failed["chain_id"], failed["round_index"]) == (chain_id, 1)
    assert failed["parent_id"] == grown[0]["pair_id"]


def test_bad_seeds_are_error_rows(make_config: MakeConfig, seed_file: Path, tmp_path: Path) -> None:
    seed_file.write_bytes(b"one\n\ntwo\n\xff\none\n" + b"y" * 3000 + b"\nthree\n")
    totals = run(make_config())
    assert (totals.num_pairs, totals.num_error_rows, totals.num_stopped) == (9, 4, 8)
    dead = read_dead_letters(tmp_path / "run")
    assert {(row["stage"], row["attempts"]) for row in dead} == {("seed", 0)}
    assert {row["reason"] for row in dead} == {
        "seed_empty",
        "seed_not_utf8",
        "seed_duplicate",
        "seed_too_long",
    }


def test_a_replica_that_is_killed_mid_batch_costs_no_row(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    simulated = "generator.simulated"
    once = [f"{simulated}.fault=abort", f"{simulated}.fault_marker=number 6"]
    totals = run(make_config(*once, f"{simulated}.fault_once_path={tmp_path}/died"))
    assert (tmp_path / "died").exists()
    assert (totals.num_pairs, totals.num_error_rows) == (30, 0)
    assert totals.model_loads["generator"] == 2
    run(make_config(output="calm"))
    assert _stable(tmp_path / "run") == _stable(tmp_path / "calm")


@pytest.mark.slow
def test_a_dead_engine_ends_the_run_with_its_own_words(make_config: MakeConfig) -> None:
    words = ["generator.simulated.fault=dead", "generator.simulated.fault_rate=1.0"]
    with pytest.raises(PoolError, match="simulated death of the engine"):
        run(make_config(*words))


def test_a_model_that_cannot_load_ends_the_run_with_its_own_words(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"x": np.zeros(1, dtype=np.float32)}, folder / "x.safetensors")
    words = ["generator.backend=sdxl", f"generator.model={folder}"]
    with pytest.raises(ModelLoadError, match="model_index"):
        run(make_config(*words))


def test_a_finished_run_is_recognised_and_nothing_runs_again(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    run(make_config())
    calls = len(read_log(tmp_path / "draw.log"))
    before = _stable(tmp_path / "run")
    totals = run(make_config("pools.generator.num_replicas=2"))
    assert totals.num_resumed == 30
    assert totals.model_loads == {}
    assert len(read_log(tmp_path / "draw.log")) == calls
    assert _stable(tmp_path / "run") == before


def test_all_seeds_bad_is_a_finished_run_without_pairs(
    make_config: MakeConfig, seed_file: Path
) -> None:
    seed_file.write_text("\n\n\n")
    totals = run(make_config())
    assert (totals.num_pairs, totals.num_error_rows, totals.num_stopped) == (0, 3, 6)
    assert totals.error_reasons == {"seed_empty": 3}


def test_one_seed_is_a_run(make_config: MakeConfig, seed_file: Path) -> None:
    seed_file.write_text("alone")
    assert run(make_config()).num_pairs == 3


@pytest.mark.slow
def test_resample_resumes_with_the_seed_s_prompt(make_config: MakeConfig, tmp_path: Path) -> None:
    run(make_config("mode=resample"))
    before = _stable(tmp_path / "run")
    for receipt in (tmp_path / "run").glob("receipts/*/2.json"):
        receipt.unlink()
    run(make_config("mode=resample"))
    assert _stable(tmp_path / "run") == before


def test_two_drivers_at_once_make_one_dataset(make_config: MakeConfig, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    config = make_config("generator.simulated.call_s=0.2")
    with ThreadPoolExecutor(2) as drivers:
        totals = list(drivers.map(run, [config, config]))
    assert [one.num_pairs for one in totals] == [30, 30]
    rows = read_pairs(tmp_path / "run")
    by_id = {row["pair_id"]: row for row in rows}
    assert len(rows) == len(by_id) == 30
    for row in rows:
        if row["round_index"]:
            assert row["prompt"] == by_id[row["parent_id"]]["description"]


def test_another_config_under_the_same_output_is_refused(make_config: MakeConfig) -> None:
    run(make_config("num_rounds=1"))
    with pytest.raises(RunMismatchError) as caught:
        run(make_config("num_rounds=2", "run_seed=9"))
    assert "num_rounds: 1 -> 2" in str(caught.value)
    assert "run_seed: 0 -> 9" in str(caught.value)
