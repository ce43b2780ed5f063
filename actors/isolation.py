"""Runs rows through an engine so that a bad row is data and a dead engine is an exception.

`run_isolated` tries a batch that fails once more, then halves it until the bad row is alone, which
is tried once more as well. With k bad rows of n that is at most
1 + k + min(2n - 1, 1 + 2k * ceil(log2 n)) calls, and never more than 3n. A batch that runs out of
memory is halved at once, and later batches of the task are cut to what fits. `run_rows` is the
frame that every task shares; `prepare_rows`, `work_rows` and `finish_rows` are its three parts, for
tasks whose engine must not wait for what is done to rows before and after it.
Limits: a fault that needs two certain rows side by side is not found, merely avoided. Results in
another order, or one row's result twice and another's not at all, have the right number: engines
answer in order by contract, and here nobody can tell.
"""

import hashlib
import logging
import re
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from actors.engines import EngineDeadError
from actors.reasons import Reason, RowError
from actors.records import Row
from cluster.shared_clock import SharedClock

_logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Result]):
    """What became of one row, and how many calls of the engine it was in."""

    value: Result | RowError
    num_calls: int


@dataclass(kw_only=True)
class Experience:
    """What a task learns while it runs; one for each task instance, which is one a process.

    The threads of a task share it: only `work` writes sizes, and two tracebacks logged at once are
    at the worst logged twice.
    """

    num_rows_fit: int = 0  # in the largest call that went through so far
    is_cut: bool = False  # a larger one ran out of memory: no batch is larger from now on
    logged: set[str] = field(default_factory=set[str])  # digests of tracebacks in the log
    clock: SharedClock = field(default_factory=SharedClock)  # of the engine

    def next_size(self, num_rows: int) -> int:
        """How many of `num_rows` to send at once."""
        return min(num_rows, max(self.num_rows_fit, 1)) if self.is_cut else num_rows

    def note_fit(self, num_rows: int) -> None:
        """A call of that size went through."""
        self.num_rows_fit = max(self.num_rows_fit, num_rows)

    def note_burst(self, num_rows: int) -> None:
        """A call of that size ran out of memory.

        A size that went through before stays allowed: then it was the rows, not their number, and
        one giant row must not slow down the task for good.
        """
        self.is_cut = self.is_cut or num_rows > self.num_rows_fit


def run_isolated(
    items: Sequence[Item],
    call: Callable[[list[Item]], Sequence[Result]],
    experience: Experience | None = None,
) -> list[Outcome[Result]]:
    """Calls `call` on all items, and on ever smaller halves where it fails again and again: where
    it raises, or returns the wrong number of results.

    Returns:
        One outcome per item, in order.

    Raises:
        EngineDeadError: as soon as `call` raises it; nothing is retried.
    """
    experience = experience or Experience()
    was_cut = experience.is_cut
    outcomes: list[Outcome[Result]] = []
    while len(outcomes) < len(items):
        rest = items[len(outcomes) :]
        size = experience.next_size(len(rest))
        outcomes += _isolate(rest[:size], call, experience, num_tries=2, num_calls=0)
    if experience.is_cut and not was_cut:
        _logger.warning(
            "out of memory: batches of this task are cut to %d rows from now on",
            experience.next_size(len(items)),
        )
    return outcomes


def _isolate(
    items: Sequence[Item],
    call: Callable[[list[Item]], Sequence[Result]],
    experience: Experience,
    *,
    num_tries: int,
    num_calls: int,
) -> list[Outcome[Result]]:
    """`num_calls` are those that the items were in before."""
    failure: RowError | None = None
    for _ in range(num_tries):
        num_calls += 1
        results = _call_once(items, call, experience)
        if not isinstance(results, RowError):
            experience.note_fit(len(items))
            return [Outcome(value=result, num_calls=num_calls) for result in results]
        failure = results
        if failure.reason == Reason.OUT_OF_MEMORY and len(items) > 1:
            experience.note_burst(len(items))
            break  # the same size would burst again
    assert failure is not None
    if len(items) == 1:
        _logger.warning("one row failed alone: %s", failure.to_error())
        return [Outcome(value=failure, num_calls=num_calls)]
    _logger.info("a batch of %d rows failed, halving it: %s", len(items), failure.to_error())
    middle = len(items) // 2
    halves = [items[:middle], items[middle:]]
    # The whole batch is tried twice, because most faults pass: that costs one call, halving costs
    # many. A poison row pays for it with one call more a batch. Halves are tried once, a lone row
    # twice again: it is the last word about it.
    return [
        outcome
        for half in halves
        for outcome in _isolate(
            half, call, experience, num_tries=2 if len(half) == 1 else 1, num_calls=num_calls
        )
    ]


def _call_once(
    items: Sequence[Item],
    call: Callable[[list[Item]], Sequence[Result]],
    experience: Experience,
) -> Sequence[Result] | RowError:
    try:
        results: object = call(list(items))
        # A text is a sequence too: its letters would pass for the answers of as many rows.
        if not isinstance(results, list | tuple):
            raise TypeError(f"the engine returned {type(results).__name__}, no list")
    except BaseException as error:
        if not is_about_rows(error):
            raise
        return _to_row_error(error, Reason.ENGINE_ERROR, experience)
    if len(results) != len(items):
        message = f"the engine returned {len(results)} results for {len(items)} rows"
        return RowError(Reason.WRONG_ROW_COUNT, message)
    return results


@dataclass(kw_only=True)
class PreparedRows(Generic[Item]):
    """A batch before its engine: rows of its own, and what the live ones ask of the engine."""

    rows: list[Row]
    live: list[tuple[Row, Item | RowError]]
    """The rows that go through the task, with their item or why there is none."""

    @property
    def items(self) -> list[Item]:
        return [item for _, item in self.live if not isinstance(item, RowError)]


@dataclass(kw_only=True)
class WorkedRows(Generic[Result]):
    """A batch after its engine."""

    rows: list[Row]
    live: list[tuple[Row, Outcome[Result]]]
    share_s: float
    """Seconds of the engine for one row, retries included; of those in which it worked on several
    batches at a time, this batch's part."""


def prepare_rows(
    rows: Sequence[Row], prepare: Callable[[Row], Item], experience: Experience
) -> PreparedRows[Item]:
    """Copies the rows and takes the live ones through `prepare`, each on its own."""
    copies = [dict(row) for row in rows]
    live = [row for row in copies if not row.get("error") and not row.get("is_stopped")]
    return PreparedRows(
        rows=copies, live=[(row, _attempt(prepare, row, experience)) for row in live]
    )


def work_rows(
    prepared: PreparedRows[Item],
    call: Callable[[list[Item]], Sequence[Result]],
    experience: Experience,
) -> WorkedRows[Result]:
    """Takes what was prepared through one shared `call`, isolated as `run_isolated` says."""
    items = prepared.items
    with experience.clock.call() as span:
        outcomes = iter(run_isolated(items, call, experience))
    share_s = span.share_s / max(len(items), 1)
    live: list[tuple[Row, Outcome[Result]]] = [
        (row, Outcome(value=item, num_calls=0) if isinstance(item, RowError) else next(outcomes))
        for row, item in prepared.live
    ]
    return WorkedRows(rows=prepared.rows, live=live, share_s=share_s)


def finish_rows(
    worked: WorkedRows[Result],
    finish: Callable[[Result], dict[str, Any]],
    seconds_column: str,
    experience: Experience,
    threads: Executor | None = None,
) -> list[Row]:
    """Takes every result through `finish`, each on its own, side by side where there are `threads`.

    Returns:
        All the rows of the batch in order, filled or with an error.
    """

    def end(outcome: Outcome[Result]) -> dict[str, Any]:
        columns = outcome.value
        if not isinstance(columns, RowError):
            columns = _attempt(finish, columns, experience)
        if isinstance(columns, RowError):
            columns = _error_columns(columns, num_calls=outcome.num_calls)
        # A row that no call was made for has no share of the time.
        return ({seconds_column: worked.share_s} if outcome.num_calls else {}) | columns

    outcomes = [outcome for _, outcome in worked.live]
    ends = threads.map(end, outcomes) if threads else map(end, outcomes)
    for (row, _), columns in zip(worked.live, ends, strict=True):
        row.update(columns)
    return worked.rows


def run_rows(
    rows: Sequence[Row],
    *,
    prepare: Callable[[Row], Item],
    call: Callable[[list[Item]], Sequence[Result]],
    finish: Callable[[Result], dict[str, Any]],
    seconds_column: str,
    experience: Experience | None = None,
) -> list[Row]:
    """Takes every live row through prepare, one shared `call`, and finish; same rows out, same
    order.

    A row that carries an `error` or was stopped passes untouched. `prepare` and `finish` work on
    one row and raise RowError to fail it; another exception fails that row too, as TASK_ERROR,
    except EngineDeadError, which leaves. A row that fails gets `error`, `error_attempts` (calls
    that it was in) and `error_traceback_sha256`. `seconds_column` gets the row's share of the time
    spent in `call`: the seconds of its batch, retries included, divided by the rows that were in
    it; of seconds in which several batches were under way, its batch's part.
    """
    experience = experience or Experience()
    prepared = prepare_rows(rows, prepare, experience)
    worked = work_rows(prepared, call, experience)
    return finish_rows(worked, finish, seconds_column, experience)


def _error_columns(error: RowError, *, num_calls: int) -> dict[str, Any]:
    return {
        "error": error.to_error(),
        "error_attempts": num_calls,
        "error_traceback_sha256": error.traceback_sha256,
    }


def _attempt(
    step: Callable[[Any], Result], value: object, experience: Experience
) -> Result | RowError:
    try:
        return step(value)
    except EngineDeadError:
        raise
    except Exception as error:  # Pillow's encoder, say
        return _to_row_error(error, Reason.TASK_ERROR, experience)


def _to_row_error(error: BaseException, reason: Reason, experience: Experience) -> RowError:
    """What the row says of an exception; an unforeseen one leaves its traceback in the log, once.

    The dead letter has the digest: it tells a mistake of ours from a bad row.
    """
    if isinstance(error, RowError):
        return error
    text = format_traceback(error)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    if digest not in experience.logged:
        experience.logged.add(digest)
        _logger.warning("traceback %s:\n%s", digest, text)
    if is_out_of_memory(error):
        reason = Reason.OUT_OF_MEMORY
    return RowError(reason, f"{type(error).__name__}: {_text_of(error)}", traceback_sha256=digest)


def is_about_rows(error: BaseException) -> bool:
    """Whether what an engine raised may be the fault of the rows it was given."""
    if isinstance(error, Exception):
        return not isinstance(error, EngineDeadError)
    # A panic inside a tokenizer written in Rust is no Exception, but is about its rows.
    return type(error).__name__ == "PanicException"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an error that cannot say what it is must not take its batch along
        return "(no text)"


def format_traceback(error: BaseException) -> str:
    """The traceback without the addresses of objects, so that equal faults have equal texts; UTF-8
    whatever it quotes.
    """
    text = "".join(traceback.format_exception(error))
    text = text.encode(errors="backslashreplace").decode()
    return re.sub(r"\b0x[0-9a-fA-F]{6,}", "0x", text)


def is_out_of_memory(error: BaseException) -> bool:
    """Told from names and text, so that nothing here needs torch: its OutOfMemoryError, Python's
    MemoryError and its children, and the plain RuntimeErrors of cuBLAS and of torch on a CPU.
    """
    names = {cls.__name__ for cls in type(error).__mro__}
    text = _text_of(error).lower()
    marks = ("out of memory", "alloc_failed", "can't allocate memory", "cannot allocate memory")
    return not names.isdisjoint({"MemoryError", "OutOfMemoryError"}) or any(
        mark in text for mark in marks
    )
