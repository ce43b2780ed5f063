"""The verifier on what `run` really writes: with rows that fail, and then damaged."""

from pathlib import Path

import pytest
from runs import MakeConfig

from pipelines.run import replay, run
from pipelines.verify import describe_report, exit_code, verify_run

FAILS = ("generator.simulated.fault=raise", "generator.simulated.fault_marker=number 3")


@pytest.mark.usefixtures("local_ray")
def test_a_run_with_failing_rows_is_sound_until_it_is_damaged(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    totals = run(make_config(*FAILS))
    output = str(tmp_path / "run")
    report = verify_run(output)
    assert exit_code(report) == 0, describe_report(report)
    counts = (report.num_pairs, report.num_error_rows, report.num_stopped)
    assert counts == (totals.num_pairs, totals.num_error_rows, totals.num_stopped) == (27, 1, 2)
    # It fails again, as a dead letter of a unit that takes the place of the first one.
    replay(make_config(*FAILS), ())
    again = verify_run(output)
    assert exit_code(again) == 0, describe_report(again)
    assert (again.num_pairs, again.num_error_rows, again.num_stopped) == counts
    assert again.num_receipts == report.num_receipts + 3
    path = next((tmp_path / "run/data/round=1").glob("0000001-*.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    report = verify_run(output)
    assert exit_code(report) == 1
    assert report.damaged_units == {path.name.rpartition("-")[0]: 1}
    assert report.num_corrupt == 4
