"""Rows that failed run again beside what is there; damaged units are made anew; nothing else."""

import builtins
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from runs import MakeConfig, read_dead_letters, read_log, read_pairs

from actors.records import DEAD_LETTER_SCHEMA
from cluster.errors import CommitError, RunMismatchError
from cluster.ledger import Ledger
from cluster.receipts import Counts
from cluster.storage import LocalStore
from pipelines.attempt import prepare
from pipelines.configs import config_of_run
from pipelines.repair import remove_damaged, repair
from pipelines.replay import claim_replays
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


@pytest.mark.faults
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


@pytest.mark.faults
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


@pytest.mark.faults
def test_a_replay_that_was_cut_off_before_its_first_commit_is_finished_by_the_run(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    run(make_config("num_rounds=2", *FAULTY))
    attempt = prepare(config_of_run(str(output), MENDED))
    planned = claim_replays(attempt.ledger, [], 2, offset=0)
    report = verify_run(str(output))
    assert report.is_sound
    assert not report.is_finished
    assert planned.starts["replaces"].to_pylist() == ["engine_error"]
    totals = run(make_config("num_rounds=2", *MENDED))
    assert (totals.num_pairs, totals.num_error_rows, totals.num_stopped) == (20, 0, 0)
    _check(output)


def _two_reasons(make_config: MakeConfig, output: Path) -> Ledger:
    """Ten seeds in one round; two of the first unit have failed, each for a reason of its own."""
    config = make_config("num_rounds=1", *FAULTY, "generator.simulated.fault_marker=number 1")
    run(config)
    attempt = prepare(config)
    (receipt,) = [one for one in attempt.ledger.receipts() if one.num_error_rows]
    row = attempt.ledger.read_dead_letters(receipt).to_pylist()[0]
    pairs = attempt.ledger.read_pairs(receipt)
    other = row | {
        name: pairs[name][0].as_py() for name in ("pair_id", "chain_id", "seed", "prompt")
    }
    other["reason"] = "call_timeout"
    for file in receipt.files:
        (output / file).unlink()
    attempt.ledger.remove(receipt.unit_id, 0)
    attempt.ledger.commit(
        receipt.unit_id,
        0,
        pairs.slice(1),
        pa.Table.from_pylist([row, other], schema=DEAD_LETTER_SCHEMA),
        Counts(
            num_pairs=pairs.num_rows - 1,
            num_error_rows=2,
            num_stopped=0,
            error_reasons={row["reason"]: 1, "call_timeout": 1},
        ),
    )
    run(config)
    _check(output)
    return attempt.ledger


class _Early(LocalStore):
    """Looked for plans a moment before somebody else claimed one."""

    has_looked = False

    def list(self, prefix: str = "") -> builtins.list[str]:
        if prefix != "replays" or self.has_looked:
            return super().list(prefix)
        self.has_looked = True
        return []


@pytest.mark.faults
def test_of_two_replays_at_once_one_is_refused_unless_both_planned_the_same(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    ledger = _two_reasons(make_config, output)
    early = [Ledger(_Early(str(output)), ledger.fingerprint) for _ in range(2)]
    first = claim_replays(ledger, [], 1, offset=0)
    assert (len(first.units), first.units[0].num_chains) == (1, 2)
    for late in (ledger, early[0]):
        with pytest.raises(CommitError, match=r"another replay .* is under way"):
            claim_replays(late, ["call_timeout"], 1, offset=0)
    assert claim_replays(early[1], [], 1, offset=0).units == first.units
    assert ledger.store.list("replays") == ["replays/1.json"]
    totals = run(config_of_run(str(output), MENDED))
    assert (totals.num_pairs, totals.num_error_rows) == (10, 0)
    _check(output)


@pytest.mark.faults
@pytest.mark.parametrize("gone", [[0], [1], [0, 1]])
def test_a_replay_with_a_gap_is_named_and_repaired(
    make_config: MakeConfig, tmp_path: Path, gone: list[int]
) -> None:
    output = tmp_path / "run"
    run(make_config(*FAULTY))
    replay(config_of_run(str(output), MENDED))
    before = _stable(output)
    for round_index in gone:
        next(output.glob(f"receipts/*replay*/{round_index}.json")).unlink()
    with pytest.raises(CommitError, match=r"replay1r0 has a receipt for round 2 but none .*verify"):
        run(make_config(*MENDED))
    assert not verify_run(str(output)).is_sound
    assert repair(config_of_run(str(output), MENDED)).num_pairs == 30
    assert _stable(output) == before
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


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("file flipped", marks=pytest.mark.faults),
        pytest.param("file gone", marks=pytest.mark.faults),
        "receipt gone",
        pytest.param("receipt torn", marks=pytest.mark.faults),
    ],
)
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


@pytest.mark.faults
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
    assert json.loads((output / "replays/1.json").read_text())["units"] == {}


@pytest.mark.faults
def test_what_a_damaged_plan_had_planned_can_be_replayed_again(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    run(make_config("num_rounds=2", *FAULTY))
    replay(config_of_run(str(output), MENDED))
    before = _stable(output)
    (output / "replays/1.json").write_bytes(b'{"format": 1')
    with pytest.raises(CommitError, match=r"replays/1\.json.*not JSON.*verify"):
        run(make_config("num_rounds=2", *MENDED))
    totals = repair(config_of_run(str(output), MENDED))
    assert (totals.num_error_rows, totals.num_stopped) == (1, 1)
    _check(output)
    replay(config_of_run(str(output), MENDED))
    assert _stable(output) == before
    _check(output)


def _files(output: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in output.rglob("*")
        if path.is_file() and not {".tmp", ".probe"} & {*path.parts}
    }


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["file flipped", "seed table"])
@pytest.mark.parametrize(
    "mistake", ["num_rounds=5", "seeds.path=elsewhere.txt", "pools.generator.num_cpus=99"]
)
def test_a_repair_that_the_run_would_refuse_deletes_nothing(
    make_config: MakeConfig, tmp_path: Path, kind: str, mistake: str
) -> None:
    output = tmp_path / "run"
    run(make_config("num_rounds=2"))
    if kind == "seed table":
        table = output / "seeds" / "seeds.parquet"
        table.write_bytes(table.read_bytes()[:-40])
    else:
        _damage(output, kind)
    before = _files(output)
    with pytest.raises((ValueError, RunMismatchError)):
        repair(config_of_run(str(output), [mistake]))
    assert _files(output) == before


@pytest.mark.faults
def test_a_repair_that_was_killed_is_finished_by_the_run(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    run(make_config("num_rounds=2"))
    _damage(output, "file flipped")
    attempt = prepare(config_of_run(str(output), []))
    remove_damaged(attempt.ledger, verify_run(str(output)).damaged_units)
    run(make_config("num_rounds=2"))
    _check(output)
    assert DeltaTable(str(output / "data")).to_pyarrow_table().num_rows == 20


@pytest.mark.faults
def test_a_repair_mends_units_behind_a_damaged_seed_table(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    run(make_config("num_rounds=2"))
    before = _stable(output)
    table = output / "seeds" / "seeds.parquet"
    table.write_bytes(table.read_bytes()[:-40])
    _damage(output, "file gone")
    repair(config_of_run(str(output), []))
    assert _stable(output) == before
    _check(output)


@pytest.mark.faults
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
