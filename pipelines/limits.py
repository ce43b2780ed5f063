"""How much failure and standstill a run bears before it is stopped or told about.

Limits: judged from what is committed, so a unit's rows count once it is through its round.
"""

from dataclasses import dataclass, field

from pipelines.budget import BudgetConfig


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """When a run is stopped, told about, or let go."""

    max_error_share: float = 0.5  # of the rows that this attempt commits; bad seeds do not count
    min_rows_judged: int = 200  # before that a few bad rows are no verdict
    no_progress_s: float = 600.0  # without a commit: say what each pool waits for
    grace_s: float = 30.0  # after SIGTERM or Ctrl-C, for what is under way
    budget: BudgetConfig = field(default_factory=BudgetConfig)  # of all attempts together

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_error_share <= 1.0:
            raise ValueError(
                f"field 'max_error_share' is {self.max_error_share}: must be from 0 to 1; 1 never "
                "stops a run"
            )
        for name in ("min_rows_judged", "no_progress_s", "grace_s"):
            if not getattr(self, name) >= 0:  # nor nan
                raise ValueError(f"field {name!r} is {getattr(self, name)}: must be 0 or more")


def is_too_much(num_errors: int, num_judged: int, limits: LimitsConfig) -> bool:
    """Whether so many failed rows of so many are a verdict on the run."""
    if num_judged < max(1, limits.min_rows_judged) or limits.max_error_share >= 1.0:
        return False
    return num_errors > limits.max_error_share * num_judged
