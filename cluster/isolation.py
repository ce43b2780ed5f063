"""What a failed attempt means, purely: whose fault it was, who is poison, who must prove itself.

A batch that was running when its replica died, hung, lost its engine or answered with the wrong
number of rows is *charged*; one that waited behind it has not been tried and is not. A batch is
tried whole again, then broken up into its rows, and a row that has been charged `max_attempts`
times is poison. A node that went away is nobody's fault, and free, up to a bound.

A dead engine must not make every row poison. So the life after one that a batch answered for first
repeats a row that the pool has answered before, and gets work only once it has answered it again.

Limits: as long as a pool has answered nothing at all, a poison row and a dead engine look the same;
then `max_restarts` decides. Replicas that break at the same moment may charge a batch each before
they have to prove themselves.
"""

from dataclasses import replace
from enum import Enum

from cluster.dispatch import Batch, Failure, Poison, Slot

# A fleet that loses this many nodes under one batch does not finish it in any useful time.
MAX_NODE_LOSSES = 10


class Verdict(Enum):
    """What becomes of a batch that has just been charged."""

    AGAIN = "tried whole again"
    BREAK_UP = "broken up into single rows"
    POISON = "given up: it is one row, and poison"


def judge(batch: Batch, max_attempts: int) -> Verdict:
    # Single rows and not halves: halving 8 rows costs 5 loads of the model before one poison row is
    # alone and given up, and this costs 3; a load is minutes where a row is seconds.
    if batch.num_rows > 1:
        return Verdict.BREAK_UP if len(batch.causes) >= max_attempts - 1 else Verdict.AGAIN
    return Verdict.POISON if len(batch.causes) >= max_attempts else Verdict.AGAIN


def single_rows(batch: Batch) -> list[Batch]:
    """`batch` as batches of one row at its place in the order, each with its history."""
    return [
        replace(batch, first=index, last=index + 1, causes=list(batch.causes))
        for index in range(batch.first, batch.last)
    ]


def to_poison(name: str, batch: Batch) -> Poison:
    """What the sender of a row that failed for good gets in its place."""
    tries = "; ".join(f"attempt {n}: {cause.message}" for n, cause in enumerate(batch.causes, 1))
    return Poison(
        batch.causes[-1].kind,
        f"pool {name!r} gave up on a row after {len(batch.causes)} attempts ({tries}); "
        "the replica's log has the traceback",
        len(batch.causes),
    )


def node_losses_message(name: str, batch: Batch, cause: str) -> str:
    """What the sender of a batch that lost too many nodes is told."""
    return (
        f"pool {name!r} gave up on a batch of {batch.num_rows} rows that was lost with its node "
        f"{batch.num_node_losses} times (the last one: {cause}); run the same command again on "
        "nodes that stay for longer than a batch takes, or with a smaller batch_size"
    )


def take_blame(slot: Slot, batch: Batch) -> bool:
    """Whether `batch` was the one running when `slot` died; at most one batch of a life is."""
    is_running = bool(slot.in_flight) and slot.in_flight[0] is batch
    if slot.has_blamed or not is_running:
        return False
    slot.has_blamed = True
    return True


def charge(slot: Slot) -> Failure | None:
    """What the batch that ran when `slot` died is charged with; nothing when its node went."""
    if slot.end is None or slot.end.kind in ("node_lost", "moved"):
        return None
    return Failure(slot.end.kind, slot.end.reason)


def must_prove(slot: Slot, had_to: bool) -> bool:
    """Whether the life after `slot` must prove itself: a batch answers, or will, for its end."""
    is_charged = charge(slot) is not None and (slot.has_blamed or bool(slot.in_flight))
    return is_charged or (had_to and not slot.num_done)


def deaths_in_row(previous: int, slot: Slot) -> int:
    """Deaths in a row with this one: work done, or a proof, starts the count anew; a move is none.

    So any number of poison rows is borne: the life after each of them begins with a proof.
    """
    is_death = slot.end is None or slot.end.kind != "moved"
    return (0 if slot.num_done else previous) + is_death
