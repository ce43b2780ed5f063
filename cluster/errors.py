"""The exceptions that pairloom raises on its own account.

    PairloomError
     +- StoreError                       the object store failed past its retry budget
     |   +- ConditionalPutUnsupportedError   the store accepts a second put-if-absent
     +- RunMismatchError                 another config already lives under this output prefix
     +- CommitError                      a receipt and what it vouches for disagree
     +- PoolError                        a pool cannot go on; carries the last cause
     |   +- ModelLoadError               a replica could not load its model
     |   +- DrainingError                a pool takes no more work; what it runs is finished
     +- ReconcileError                   seeds x rounds != pairs + error rows + stopped

Limits: a mistake of the user (config, seeds, paths) is a plain ``ValueError``, and a single bad
row is data (its ``error`` column), so neither is here. Messages say what happened, with which
value, and what to do next.
"""


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


class ReconcileError(PairloomError):
    """The counts at the end of a run do not add up: something was lost or counted twice."""
