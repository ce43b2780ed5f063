"""What a verification found: counts by class, findings, damaged units, and the page to print.

Pure: findings in, words and an exit code out.

Limits: a finding stands for all rows of one unit and round with one fault and names one of them,
so that a run that is damaged all over still gives a report of readable size.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

# receipt: it, or the lack of it, contradicts the rest.  corrupt: a file is not what was committed.
# lost, duplicated, unexpected: rows.  lineage: a prompt is not what it was made from.
# replay: a plan cannot be believed.  snapshot: the Delta log names other files than the receipts.
Kind = Literal[
    "run",
    "seeds",
    "replay",
    "receipt",
    "corrupt",
    "lost",
    "duplicated",
    "unexpected",
    "lineage",
    "snapshot",
]

NUM_PRINTED = 20
SOUND, DAMAGED, UNFINISHED = 0, 1, 3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault, in one sentence."""

    kind: Kind
    sentence: str
    unit_id: str | None = None
    round_index: int | None = None
    file: str | None = None
    num_rows: int = 1  # that it stands for


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is there and what is wrong with it.

    `num_pairs` to `num_unaccounted` add up to seeds x rounds; an error row that was replayed counts
    as what came of it. The counts of faults below are rows, for `num_receipt`, `num_run`,
    `num_seeds`, `num_replay` and `num_snapshot` files. An orphan is a file that no receipt names:
    not a fault.
    """

    output: str
    num_chains: int
    num_rounds: int
    num_receipts: int
    num_files: int
    num_bytes: int
    num_pairs: int
    num_error_rows: int
    num_stopped: int
    num_not_committed: int
    num_unaccounted: int
    num_run: int
    num_seeds: int
    num_replay: int
    num_receipt: int
    num_corrupt: int
    num_lost: int
    num_duplicated: int
    num_unexpected: int
    num_lineage: int
    num_snapshot: int
    num_orphans: int
    num_not_folded: int  # files with a receipt that the Delta log does not name yet
    damaged_units: dict[str, int]  # unit_id -> the first round that is damaged
    findings: list[Finding]

    @property
    def is_sound(self) -> bool:
        """Nothing that was committed is lost, altered, there twice, or out of nowhere."""
        return not self.findings

    @property
    def is_finished(self) -> bool:
        """Everything that was asked for is committed and in the Delta log."""
        is_all = self.num_not_committed == 0 and self.num_not_folded == 0
        return self.is_sound and is_all and self.num_chains > 0


def count_findings(findings: Iterable[Finding]) -> Counter[str]:
    """Rows, or files, by kind."""
    counts = Counter[str]()
    for finding in findings:
        counts[finding.kind] += finding.num_rows
    return counts


def damaged_units(findings: Iterable[Finding]) -> dict[str, int]:
    """The units that findings name, each with its first damaged round."""
    first: dict[str, int] = {}
    for finding in findings:
        if finding.unit_id is not None and finding.round_index is not None:
            before = first.get(finding.unit_id, finding.round_index)
            first[finding.unit_id] = min(before, finding.round_index)
    return dict(sorted(first.items()))


def exit_code(report: Report) -> int:
    """0 sound and finished; 3 sound as far as it is; 1 damaged. (2 is for input that is no run.)"""
    if not report.is_sound:
        return DAMAGED
    return SOUND if report.is_finished else UNFINISHED


def describe_report(report: Report) -> str:
    """The report as a page of text."""
    lines = [
        f"{report.output}: {_verdict(report)}",
        f"asked      {report.num_chains} seeds x {report.num_rounds} rounds = "
        f"{report.num_chains * report.num_rounds}",
        f"found      {report.num_pairs} pairs + {report.num_error_rows} error rows + "
        f"{report.num_stopped} stopped + {report.num_not_committed} not committed + "
        f"{report.num_unaccounted} unaccounted for",
        f"rows       {report.num_lost} lost, {report.num_duplicated} duplicated, "
        f"{report.num_unexpected} unexpected, {report.num_corrupt} corrupt, "
        f"{report.num_lineage} with a broken lineage",
        f"read       {report.num_receipts} receipts, {report.num_files} files, "
        f"{report.num_bytes / 1e6:.1f} MB; {report.num_orphans} files that no receipt names, "
        f"{report.num_not_folded} not in the Delta log yet",
    ]
    if report.damaged_units:
        lines.append(f"damaged    {len(report.damaged_units)} units:")
        lines += [
            f"  {unit_id} from round {round_index} on"
            for unit_id, round_index in list(report.damaged_units.items())[:NUM_PRINTED]
        ]
    lines += [_line(finding) for finding in report.findings[:NUM_PRINTED]]
    if len(report.findings) > NUM_PRINTED:
        lines.append(f"  ... and {len(report.findings) - NUM_PRINTED} more: --json has them all")
    return "\n".join(lines)


def _verdict(report: Report) -> str:
    if not report.is_sound:
        counts = count_findings(report.findings)
        return "DAMAGED: " + ", ".join(f"{kind} {number}" for kind, number in counts.items())
    if report.is_finished:
        return "sound and finished"
    return "sound so far, not finished: the command that started it goes on"


def _line(finding: Finding) -> str:
    place = [
        f"unit {finding.unit_id}" if finding.unit_id else "",
        "" if finding.round_index is None else f"round {finding.round_index}",
        finding.file,
    ]
    return f"  {finding.kind}: {' '.join(one for one in place if one)}: {finding.sentence}"
