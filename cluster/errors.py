"""The exceptions that pairloom raises on its own account.

    PairloomError
     +- StoreError                       the object store failed past its retry budget
     |   +- ConditionalPutUnsupportedError   the store accepts a second put-if-absent
     +- RunMismatchError                 another config already lives under this output prefix
     +- CommitError                      a receipt and what it vouches for disagree
     +- PoolError                        a pool cannot go on; carries the last cause
     |   +- ModelLoadError               a replica could not load its model
     |   +- DrainingError                a pool takes no more work; what it runs is finished
     +- StoppedError                     somebody asked the attempt to end
     +- ErrorShareError                  too many rows fail
     +- BudgetSpentError                 the run may cost no more
     +- ReconcileError                   seeds x rounds != pairs + error rows + stopped

Limits: a mistake of the user (config, seeds, paths) is a plain ``ValueError``, and a single bad
row is data (its ``error`` column), so neither is here. Messages say what happened, with which
value, and what to do next.
"""

from collections import Counter
from signal import Signals


class PairloomError(Exception):
    """Base of every failure that pairloom itself diagnoses."""


class StoreError(PairloomError):
    """The object store failed and went on failing until the retry budget was spent."""


class ConditionalPutUnsupportedError(StoreError):
    """The store let a second put-if-absent win, so no write to it could be a commit."""


class RunMismatchError(PairloomError):
    """The output prefix belongs to a run with another config; the message lists each difference."""


class CommitError(PairloomError):
    """A receipt names a file that is missing, altered, or out of sequence."""


class PoolError(PairloomError):
    """A pool of replicas cannot serve its batches any more; the message carries the last cause."""


class ModelLoadError(PoolError):
    """A replica's model could not be loaded; the message is the loader's own."""


class DrainingError(PoolError):
    """The pool is draining, so this work was refused; the same command resumes with it."""


class StoppedError(PairloomError):
    """Somebody asked the attempt to end, and it did: Ctrl-C, or SIGTERM."""

    def __init__(self, by: Signals) -> None:
        super().__init__(f"stopped by {by.name}: what is committed stays, the same command goes on")
        self.exit_code = 128 + by


class ErrorShareError(PairloomError):
    """More rows failed than the run allows; the message has the three commonest reasons."""

    def __init__(self, reasons: Counter[str], num_rows: int, limit: float) -> None:
        commonest = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common(3))
        super().__init__(
            f"{reasons.total()} of the {num_rows} rows that this attempt committed failed, more "
            f"than limits.max_error_share = {limit:g} of them: {commonest}. dead_letter/ has each "
            "with its message. Mend the cause and run the same command, then `pairloom replay "
            "--failed`; or raise the limit"
        )


class BudgetSpentError(PairloomError):
    """The run may cost no more: what was under way is committed, nothing is begun."""

    exit_code = 4

    def __init__(
        self, spent: float, budget: float, *, earlier: tuple[int, float], reserve: float
    ) -> None:
        """All in GPU-hours; `earlier` is the number of attempts before this and what they took."""
        number, before = earlier
        of_earlier = f", {before:.4g} of them by {number} earlier attempts" if number else ""
        under_way = f"; what is under way may take {reserve:.4g} more" if reserve else ""
        super().__init__(
            f"the budget is spent: {spent:.4g} of the {budget:.4g} GPU-hours of limits.budget"
            f"{of_earlier}{under_way}. What is committed stays; the same command with a larger "
            "budget goes on"
        )


class ReconcileError(PairloomError):
    """The counts at the end of a run do not add up: something was lost or counted twice."""
