"""Runs rows through an engine so that a bad row is data and a dead engine is an exception.

`run_isolated` halves a batch that fails until the bad row is alone: k bad rows of n cost at most
min(2n - 1, 1 + 2k * ceil(log2 n)) calls. `run_rows` is the frame that every task shares.
Limits: a row is judged bad after one lonely failure (retries of a whole batch are the pool's
policy); a fault that needs two certain rows side by side is not found, merely avoided; and an
engine that leaves one row out and answers another twice returns the right number: nobody can tell.
"""

import logging
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, TypeVar

from actors.engines import EngineDeadError
from actors.reasons import Reason, RowError
from actors.records import Row

_logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_isolated(
    items: Sequence[Item], call: Callable[[list[Item]], Sequence[Result]]
) -> list[Result | RowError]:
    """Calls `call` on all items, and on ever smaller halves where it raises or returns the wrong
    number.

    Returns:
        One result or RowError per item, in order.

    Raises:
        EngineDeadError: as soon as `call` raises it; nothing is retried.
    """
    if not items:
        return []
    failure = RowError(Reason.ENGINE_ERROR, "")
    try:
        results = list(call(list(items)))
        if len(results) == len(items):
            return list(results)
        failure = RowError(
            Reason.WRONG_ROW_COUNT,
            f"the engine returned {len(results)} results for {len(items)} rows",
        )
    except EngineDeadError:
        raise
    except RowError as error:
        failure = error
    except Exception as error:
        # Running out of memory lands here too: half a batch often fits. A policy that remembers
        # the size that fits belongs to the pool, which sees more than one batch.
        failure = RowError(Reason.ENGINE_ERROR, f"{type(error).__name__}: {error}")
    if len(items) == 1:
        _logger.warning("one row failed alone: %s", failure.to_error())
        return [failure]
    _logger.info("a batch of %d rows failed, halving it: %s", len(items), failure.to_error())
    middle = len(items) // 2
    return run_isolated(items[:middle], call) + run_isolated(items[middle:], call)


def run_rows(
    rows: Sequence[Row],
    *,
    prepare: Callable[[Row], Item],
    call: Callable[[list[Item]], Sequence[Result]],
    finish: Callable[[Result], dict[str, Any]],
    seconds_column: str,
) -> list[Row]:
    """Takes every live row through prepare, one shared `call`, and finish; same rows out, same
    order.

    A row that carries an `error` or was stopped passes untouched. `prepare` and `finish` work on
    one row and raise RowError to fail it; another exception fails that row too, as TASK_ERROR,
    except EngineDeadError, which leaves. `seconds_column` gets the row's share of the time
    spent in `call`: the seconds of its batch, retries included, divided by the rows that were in
    it.
    """
    outcomes: dict[int, Item | RowError] = {}
    for index, row in enumerate(rows):
        if not row.get("error") and not row.get("is_stopped"):
            outcomes[index] = _attempt(prepare, row)
    ready = [index for index, outcome in outcomes.items() if not isinstance(outcome, RowError)]
    items: list[Any] = [outcomes[index] for index in ready]

    started = perf_counter()
    results = dict(zip(ready, run_isolated(items, call), strict=True))
    share_s = (perf_counter() - started) / max(len(ready), 1)

    done = [dict(row) for row in rows]
    for index, outcome in outcomes.items():
        result = results.get(index, outcome)
        columns = result if isinstance(result, RowError) else _attempt(finish, result)
        if index in results:
            done[index][seconds_column] = share_s
        done[index].update(
            {"error": columns.to_error()} if isinstance(columns, RowError) else columns
        )
    return done


def _attempt(step: Callable[[Any], Result], value: object) -> Result | RowError:
    try:
        return step(value)
    except RowError as error:
        return error
    except EngineDeadError:
        raise
    except Exception as error:
        # Pillow's encoder, say. Here the traceback tells a mistake of ours from a bad row.
        _logger.warning("one row failed beside the engine", exc_info=True)
        return RowError(Reason.TASK_ERROR, f"{type(error).__name__}: {error}")
