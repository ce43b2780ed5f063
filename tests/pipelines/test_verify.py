"""The verifier on runs written by hand: what is sound, what is not finished, what is damaged."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corrupt import RunWriter, put_json

from cluster.storage import open_store
from pipelines import cli
from pipelines.verify import Report, describe_report, exit_code, verify_run
from pipelines.verify.report import Finding, damaged_units

ROOT = Path(__file__).parents[2]
# All that the verifier may share with the writer.
SHARED = {"cluster", "cluster.errors", "pipelines"}


def test_the_verifier_shares_no_code_with_the_writer() -> None:
    for path in (ROOT / "pipelines/verify").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                is_ours = str(name).partition(".")[0] in {"cluster", "actors", "pipelines"}
                assert not is_ours or str(name).startswith("pipelines.verify") or name in SHARED


def test_importing_the_verifier_loads_nothing_of_the_writer() -> None:
    code = (
        "import sys, pipelines.verify;"
        "ours = {n for n in sys.modules if n.split('.')[0] in ('cluster', 'actors', 'pipelines')};"
        f"odd = {{n for n in ours if not n.startswith('pipelines.verify')}} - {SHARED!r};"
        "assert not odd, odd; assert not {'ray', 'obstore'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.fixture
def writer(tmp_path: Path) -> RunWriter:
    """Ten chains in three units: one bad seed, two chains that fail together, one alone."""
    return RunWriter(
        folder=tmp_path, bad_seeds=frozenset({9}), failures=frozenset({(1, 1), (2, 1), (5, 0)})
    )


def finish(writer: RunWriter) -> None:
    for index in range(len(writer.units)):
        writer.write_unit(index)
    writer.fold()


def verify(writer: RunWriter) -> Report:
    return verify_run(str(writer.folder))


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


def test_a_whole_run_is_sound_and_every_cell_is_counted(writer: RunWriter) -> None:
    finish(writer)
    report = verify(writer)
    assert report.findings == []
    assert (report.num_pairs, report.num_error_rows, report.num_stopped) == (20, 4, 6)
    assert (report.num_not_committed, report.num_unaccounted) == (0, 0)
    assert report.num_receipts == 9
    assert exit_code(report) == 0
    assert "sound and finished" in describe_report(report)


def test_a_run_under_way_is_sound_so_far(writer: RunWriter) -> None:
    writer.write_unit(0)
    writer.write_unit(1, until=1)
    writer.fold(writer.refs[:2])
    report = verify(writer)
    assert report.findings == []
    assert report.num_not_committed == 2 * 4 + 3 * 2
    assert report.num_not_folded == 2
    assert exit_code(report) == 3
    assert "not finished" in describe_report(report)


def test_a_run_whose_log_is_behind_is_sound_but_not_finished(writer: RunWriter) -> None:
    finish(writer)
    writer.fold(writer.refs[:-1])
    report = verify(writer)
    assert (report.findings, report.num_not_folded, exit_code(report)) == ([], 1, 3)


def test_a_run_whose_author_still_writes_has_nothing_to_find(writer: RunWriter) -> None:
    (writer.folder / "seeds/seeds.parquet").unlink()
    report = verify(writer)
    assert (report.findings, report.num_chains, exit_code(report)) == ([], 0, 3)


def test_no_run_is_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run\.json"):
        verify_run(str(tmp_path))
    with pytest.raises(ValueError, match="credentials"):
        verify_run("s3://key:secret@bucket/run")


def test_replays_take_the_place_of_what_failed(writer: RunWriter) -> None:
    finish(writer)
    writer.write_replay(0, 1, 1, [1, 2], fail_at=2)
    writer.fold()
    report = verify(writer)
    assert report.findings == []
    assert (report.num_pairs, report.num_error_rows, report.num_stopped) == (22, 4, 4)
    writer.write_replay(0, 2, 2, [1, 2])
    writer.write_replay(1, 2, 0, [5])
    writer.fold()
    report = verify(writer)
    assert report.findings == []
    assert (report.num_pairs, report.num_error_rows, report.num_stopped) == (27, 1, 2)
    assert exit_code(report) == 0


def test_a_replay_that_stands_still_is_not_finished(writer: RunWriter) -> None:
    finish(writer)
    writer.write_replay(0, 1, 1, [1, 2], until=2)
    writer.fold()
    report = verify(writer)
    assert report.findings == []
    assert (report.num_not_committed, exit_code(report)) == (2, 3)


@pytest.mark.parametrize(
    ("chains", "start", "kind"),
    [
        pytest.param([0], 1, "duplicated", id="of a pair"),
        pytest.param([5], 1, "unexpected", id="of a chain that was stopped"),
        pytest.param([9], 0, "unexpected", id="of a bad seed"),
        pytest.param([1], 1, "replay", id="under another unit"),
    ],
)
def test_a_replay_of_what_is_no_dead_letter_is_damage(
    writer: RunWriter, chains: list[int], start: int, kind: str
) -> None:
    finish(writer)
    writer.texts[writer.chain_ids[5], 0] = "no such description"
    unit_index = 2 if chains == [1] else chains[0] // 4
    unit_id = writer.write_replay(unit_index, 1, start, chains)
    writer.fold()
    report = verify(writer)
    assert kind in kinds(report)
    assert report.damaged_units[unit_id] == start


STOPS = frozenset({(0, 0), (3, 1), (6, 1)})


def test_chains_that_a_rule_ended_are_counted_as_stopped(writer: RunWriter) -> None:
    writer.stops = STOPS
    finish(writer)
    report = verify(writer)
    assert report.findings == []
    assert (report.num_pairs, report.num_error_rows, report.num_stopped) == (16, 4, 10)


def test_a_replay_of_a_chain_that_a_rule_ended_is_damage(writer: RunWriter) -> None:
    writer.stops = STOPS
    finish(writer)
    unit_id = writer.write_replay(0, 1, 2, [3])
    writer.fold()
    report = verify(writer)
    assert "unexpected" in kinds(report)
    assert report.damaged_units[unit_id] == 2


@pytest.mark.parametrize(
    ("stop_reasons", "kind"),
    [
        pytest.param({"converged": 2}, "receipt", id="another number"),
        pytest.param({"looping": 1}, "receipt", id="another reason"),
        pytest.param({}, "receipt", id="none"),
        pytest.param({"converged": -1}, "receipt", id="no count"),
        pytest.param(7, "receipt", id="no object"),
    ],
)
def test_a_receipt_that_says_otherwise_who_stopped_is_damage(
    writer: RunWriter, stop_reasons: Any, kind: str
) -> None:
    writer.stops = STOPS
    finish(writer)
    path = writer.folder / f"receipts/{writer.unit_id(0)}/0.json"
    put_json(path, json.loads(path.read_text()) | {"stop_reasons": stop_reasons})
    report = verify(writer)
    assert kind in kinds(report)
    assert report.damaged_units == {writer.unit_id(0): 0}


def test_a_chain_that_goes_on_after_its_end_is_damage(writer: RunWriter) -> None:
    finish(writer)
    writer.stops = frozenset({(3, 0)})
    writer.commit(writer.unit_id(0), 0, [0, 1, 2, 3], set(), num_stopped=0)
    report = verify(writer)
    assert "failed or ended in an earlier round" in describe_report(report)
    assert writer.unit_id(0) in report.damaged_units


def test_a_replay_that_was_planned_and_not_begun_is_not_finished(writer: RunWriter) -> None:
    finish(writer)
    writer.write_replay(0, 1, 1, [1, 2], until=1)
    report = verify(writer)
    assert report.findings == []
    assert (report.num_error_rows, report.num_not_committed, exit_code(report)) == (2, 4, 3)


def test_a_replay_without_one_of_the_chains_of_its_plan_is_damage(writer: RunWriter) -> None:
    finish(writer)
    planned = writer.write_replay(0, 1, 1, [1, 2], until=1)
    for round_index in (1, 2):
        counts = {"num_stopped": 0, "num_replaced_stopped": round_index - 1}
        counts |= {"num_replaced_errors": 2 - round_index}
        reasons = {"engine_error": 1} if round_index == 1 else {}
        writer.commit(planned, round_index, [1], set(), **counts, replaced_reasons=reasons)
    writer.fold()
    report = verify(writer)
    assert report.num_lost == 2
    assert report.damaged_units == {planned: 1}


def test_a_replay_that_nothing_has_planned_is_damage(writer: RunWriter) -> None:
    finish(writer)
    unit_id = writer.write_replay(0, 1, 1, [1, 2])
    writer.fold()
    (writer.folder / "replays/1.json").unlink()
    report = verify(writer)
    assert report.damaged_units == {unit_id: 1}
    assert "nor a plan of replays" in describe_report(report)


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param({"format": 2}, id="another format"),
        pytest.param({"fingerprint": "0" * 16}, id="another run"),
        pytest.param({"units": []}, id="no units"),
        pytest.param({"units": {"0000000-01234567.replay1r1": []}}, id="no chains"),
        pytest.param({"units": {"0000000-01234567.replay1r1": 7}}, id="a number"),
        pytest.param({"units": {"0000000-01234567": []}}, id="a unit of the run"),
    ],
)
def test_a_plan_that_is_none_is_damage(writer: RunWriter, edit: dict[str, Any]) -> None:
    finish(writer)
    unit_id = writer.write_replay(0, 1, 1, [1, 2])
    path = writer.folder / "replays/1.json"
    put_json(path, json.loads(path.read_text()) | edit)
    report = verify(writer)
    assert (report.num_replay, exit_code(report)) == (1, 1)
    assert unit_id in report.damaged_units
    assert "replays/1.json" in describe_report(report)


def test_a_copy_that_a_file_manager_made_is_no_receipt(writer: RunWriter) -> None:
    finish(writer)
    unit_id = writer.unit_id(0)
    copy = writer.folder / f"receipts/{unit_id} copy/0.json"
    copy.parent.mkdir()
    copy.write_bytes((writer.folder / f"receipts/{unit_id}/0.json").read_bytes())
    report = verify(writer)
    assert (report.num_orphans, exit_code(report)) == (1, 0)


def test_resample_starts_every_round_from_the_seed(tmp_path: Path) -> None:
    writer = RunWriter(folder=tmp_path, mode="resample", failures=frozenset({(1, 1)}))
    finish(writer)
    assert verify(writer).findings == []
    looped = tmp_path / "loop"
    looped.mkdir()
    other = RunWriter(folder=looped, mode="resample")
    other.mode = "loop"  # prompts of the loop in a run that says resample
    finish(other)
    report = verify(other)
    assert kinds(report) == {"lineage"}
    assert set(report.damaged_units.values()) == {1}


def test_files_that_no_receipt_names_are_counted_and_no_damage(writer: RunWriter) -> None:
    finish(writer)
    for name in ("data/round=0/x.parquet", "dead_letter/round=0/y", "receipts/.DS_Store"):
        (writer.folder / name).write_bytes(b"?")
    report = verify(writer)
    assert (report.num_orphans, exit_code(report)) == (3, 0)


def test_the_log_must_name_what_receipts_name(writer: RunWriter) -> None:
    finish(writer)
    ref = writer.refs[0]
    stranger = {"file": f"data/round=0/{writer.unit_id(1)}-0123456789abcdef.parquet"}
    writer.fold([ref | {"num_rows": 77}, *writer.refs[1:], ref | stranger])
    report = verify(writer)
    assert (kinds(report), report.num_snapshot) == ({"snapshot"}, 2)
    assert report.damaged_units == {writer.unit_id(0): 0, writer.unit_id(1): 0}


def test_a_receipt_of_another_config_is_named(writer: RunWriter) -> None:
    finish(writer)
    path = writer.folder / f"receipts/{writer.unit_id(1)}/1.json"
    put_json(path, json.loads(path.read_text()) | {"fingerprint": "0" * 16})
    report = verify(writer)
    assert report.damaged_units == {writer.unit_id(1): 1}
    assert "fingerprint" in describe_report(report)


def test_rows_behind_a_damaged_file_are_not_called_lost(writer: RunWriter) -> None:
    finish(writer)
    path = next((writer.folder / "dead_letter/round=1").iterdir())
    path.write_bytes(b"PAR1")
    report = verify(writer)
    assert (report.num_corrupt, report.num_lost) == (2, 0)
    assert report.num_unaccounted == 4
    assert report.damaged_units == {writer.unit_id(0): 1}


def test_a_damaged_seed_table_ends_the_check_there(writer: RunWriter) -> None:
    finish(writer)
    path = writer.folder / "seeds/seeds.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[5]["seed"] = "another"
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)
    report = verify(writer)
    assert (kinds(report), report.damaged_units) == ({"seeds"}, {})
    assert "row 5 (unit 1)" in describe_report(report)
    assert exit_code(report) == 1


def test_a_run_of_no_known_format_is_damage(writer: RunWriter) -> None:
    path = writer.folder / "run.json"
    put_json(path, json.loads(path.read_text()) | {"fingerprint": "0" * 16})
    report = verify(writer)
    assert (kinds(report), exit_code(report)) == ({"run"}, 1)


def test_a_run_on_s3_is_read_as_one_on_a_disk(writer: RunWriter, moto_s3: Any) -> None:
    finish(writer)
    store = open_store(moto_s3.uri)
    for path in writer.folder.rglob("*.*"):
        store.put(str(path.relative_to(writer.folder)), path.read_bytes())
    report = verify_run(moto_s3.uri)
    assert (report.findings, exit_code(report), report.num_files) == ([], 0, 12)
    store.delete(writer.refs[3]["file"])
    report = verify_run(moto_s3.uri)
    assert report.damaged_units == {writer.unit_id(1): 0}
    assert (report.num_lost, exit_code(report)) == (3, 1)


def test_a_unit_is_damaged_from_its_first_damaged_round_on() -> None:
    findings = [
        Finding(kind="lost", sentence="", unit_id="b", round_index=2),
        Finding(kind="corrupt", sentence="", unit_id="b", round_index=1),
        Finding(kind="lineage", sentence="", unit_id="a", round_index=3),
        Finding(kind="seeds", sentence=""),
    ]
    assert damaged_units(findings) == {"a": 3, "b": 1}


def test_the_command_line_prints_the_page_and_exits_by_the_result(
    writer: RunWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(writer)
    assert cli.main(["verify", str(writer.folder), "--json"]) == 0
    page, _, line = capsys.readouterr().out.strip().rpartition("\n")
    assert "sound and finished" in page
    assert json.loads(line)["num_pairs"] == 20
    path = next((writer.folder / "data/round=2").iterdir())
    path.unlink()
    assert cli.main(["verify", str(writer.folder)]) == 1
    assert "DAMAGED: lost" in capsys.readouterr().out
    assert cli.main(["verify", str(writer.folder / "receipts")]) == 2
