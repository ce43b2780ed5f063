"""Rows that failed run again beside what is there; damaged units are made anew; nothing else."""

import json
from collections import Counter
from pathlib import Path

import pytest
from runs import MakeConfig, read_dead_letters, read_log, read_pairs

from pipelines.overview import config_of_run
from pipelines.repair import repair
from pipelines.run import replay, run
from pipelines.status import read_status
from pipelines.verify import verify_run

pytestmark = pytest.mark.usefixtures("local_ray")

STABLE = ("pair_id", "prompt", "parent_id", "image_sha256", "description")
FAULTY = ["generator.simulated.fault=raise", "generator.simulated.fault_marker=number 6"]
MENDED = ["generator.simulated.fault=none"]


def _stable(output: Path) -> list[tuple[object, ...]]:
    return [tuple(row[name] for name in STABLE) for row in read_pairs(output)]


def _check(output: Path) -> None:
    report = verify_run(str(output))
    assert report.is_sound, report.findings
    assert report.is_finished
    assert report.num_orphans == 0


def test_a_replay_grows_what_failed_as_if_it_had_never_failed(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    assert run(make_config(*FAULTY)).num_error_rows == 1
    before = {receipt: receipt.read_bytes() for receipt in output.glob("receipts/*/*.json")}
    drawn = len(read_log(tmp_path / "draw.log"))

    totals = replay(config_of_run(str(output), MENDED))
    assert (totals.num_pairs, totals.num_error_rows, totals.num_stopped) == (30, 0, 0)
    assert totals.error_reasons == {}
    assert len(read_log(tmp_path / "draw.log")) == drawn + 3, "only the failed chain is grown"
    assert all(path.read_bytes() == data for path, data in before.items())
    run(make_config(output="calm"))
    assert _stable(output) == _stable(tmp_path / "calm")
    _check(output)
    status = read_status(str(output))
    assert status.is_finished
    assert (status.num_pairs, status.error_reasons) == (30, {})
    with pytest.raises(ValueError, match="nothing to replay"):
        replay(config_of_run(str(output), MENDED))


def test_what_fails_again_is_the_next_replay_s(make_config: MakeConfig, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run(make_config("num_rounds=2", *FAULTY))
    again = replay(config_of_run(str(output), []))
    assert (again.num_pairs, again.num_error_rows, again.num_stopped) == (18, 1, 1)
    assert again.error_reasons == {"engine_error": 1}
    _check(output)
    with pytest.raises(ValueError, match="failed for image_blank"):
        replay(config_of_run(str(output), MENDED), ["image_blank"])
    done = replay(config_of_run(str(output), MENDED), ["engine_error"])
    assert (done.num_pairs, done.num_error_rows, done.num_stopped) == (20, 0, 0)
    assert len(read_dead_letters(output)) == 2, "what was committed stays"
    _check(output)


def test_a_replay_that_was_cut_off_is_finished_by_the_run(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    run(make_config(*FAULTY))
    replay(config_of_run(str(output), MENDED))
    for receipt in output.glob("receipts/*replay*/[12].json"):
        receipt.unlink()
    assert not verify_run(str(output)).is_finished
    totals = run(make_config(*MENDED))
    assert totals.num_pairs == 30
    _check(output)


def test_a_bad_seed_is_not_replayed(make_config: MakeConfig, seed_file: Path) -> None:
    seed_file.write_text("one\n\ntwo\n")
    config = make_config("num_rounds=1")
    run(config)
    with pytest.raises(ValueError, match="nothing to replay"):
        replay(config)


def test_an_unfinished_run_is_not_replayed(make_config: MakeConfig, tmp_path: Path) -> None:
    run(make_config(*FAULTY))
    next((tmp_path / "run").glob("receipts/*/2.json")).unlink()
    with pytest.raises(ValueError, match="not finished"):
        replay(config_of_run(str(tmp_path / "run"), MENDED))


def _damage(output: Path, kind: str) -> None:
    receipt = sorted(output.glob("receipts/*/1.json"))[1]
    shard = output / json.loads(receipt.read_text())["data"]["file"]
    if kind == "file flipped":
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(bytes(data))
    elif kind == "file gone":
        shard.unlink()
    elif kind == "receipt gone":
        receipt.unlink()
    elif kind == "receipt torn":
        receipt.write_bytes(receipt.read_bytes()[:50])


@pytest.mark.parametrize("kind", ["file flipped", "file gone", "receipt gone", "receipt torn"])
def test_a_repair_makes_the_damaged_unit_anew_and_no_other(
    make_config: MakeConfig, tmp_path: Path, kind: str
) -> None:
    output = tmp_path / "run"
    run(make_config())
    before = _stable(output)
    _damage(output, kind)
    assert not verify_run(str(output)).is_sound
    log = tmp_path / "draw.log"
    log.unlink()
    totals = repair(config_of_run(str(output), []))
    assert totals.num_pairs == 30
    assert _stable(output) == before
    drawn = Counter(prompt for call in read_log(log) for prompt in call["prompts"])
    assert drawn.total() == 8, "rounds 1 and 2 of one unit of four chains"
    _check(output)


def test_a_repair_takes_the_replays_that_rest_on_a_damaged_unit_with_it(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    run(make_config(*FAULTY))
    replay(config_of_run(str(output), MENDED))
    before = _stable(output)
    (dead,) = output.glob("dead_letter/*/*.parquet")
    dead.unlink()
    totals = repair(config_of_run(str(output), MENDED))
    assert (totals.num_pairs, totals.num_error_rows) == (30, 0)
    assert _stable(output) == before
    _check(output)


def test_a_damaged_seed_table_is_read_again_from_its_file(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    run(make_config("num_rounds=1"))
    table = output / "seeds" / "seeds.parquet"
    data = table.read_bytes()
    table.write_bytes(data[:-40])
    assert not verify_run(str(output)).is_sound
    repair(config_of_run(str(output), []))
    assert table.read_bytes() == data
    _check(output)


def test_a_sound_run_is_left_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    run(make_config("num_rounds=1"))
    with pytest.raises(ValueError, match="nothing to repair"):
        repair(config_of_run(str(tmp_path / "run"), []))
