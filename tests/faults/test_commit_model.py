"""The commit layer against every interleaving that Hypothesis thinks of.

Attempts at units and rounds run call by call beside each other, crash, lose replies, fall asleep
and wake as zombies, plan from stale listings; orphans are collected while zombies still write.
After every step an independent model, json, hashlib and pyarrow, looks at the bytes.

Limits: listings are stale only for planning. Orphans are collected from a current one, as S3, GCS
and Azure give it.
"""

import hashlib
import json
import logging
from collections import Counter
from typing import ClassVar

import pytest
from commit_checker import check_run
from grow import grow_unit
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from memory_store import OUTCOMES, Attempt, MemoryStore

from cluster.ledger import Ledger
from cluster.storage import Store

logger = logging.getLogger(__name__)

UNITS, NUM_ROUNDS = ("u0", "u1", "u2"), 3
# Begun when all units are done, by attempts that nobody else knows of.
REPLAYS = ("replay0", "replay1")
# Two attempts of one name write equal rows, as a deterministic model would.
NAMES = ("a", "b", "c")
MAX_AWAKE = 6
LIKELY = ("ok",) * 8 + OUTCOMES


class CommitMachine(RuleBasedStateMachine):
    """Attempts over one store, and what may be said of the store at any time."""

    num: ClassVar[Counter[str]]
    is_conditional: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryStore(is_conditional=type(self).is_conditional)
        self.ledger = Ledger(self.memory, "f")
        self.attempts: list[Attempt] = []
        self.replays = set[str]()  # as far as they were begun
        self.committed: dict[str, bytes] = {}  # receipts, as each was first seen

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.num = Counter()  # so that a test can say what has been tried

    @rule(unit=st.sampled_from(UNITS), name=st.sampled_from(NAMES), stale_by=st.integers(0, 30))
    def start(self, unit: str, name: str, stale_by: int) -> None:
        """An attempt plans, from a listing that may be old, and stops before its first call."""
        self.num["steps"] += 1
        self._start(unit, name, stale_by)

    @precondition(lambda self: self.is_all_committed())
    @rule(unit=st.sampled_from(REPLAYS), name=st.sampled_from(NAMES))
    def start_a_replay(self, unit: str, name: str) -> None:
        """Likewise, at a unit that is not among those that a run slices from its seeds."""
        self.num["steps"] += 1
        self.replays.add(unit)
        self._start(unit, name, 0)

    def _start(self, unit: str, name: str, stale_by: int) -> None:
        if len(self.attempts) >= MAX_AWAKE:
            self.attempts.pop(0).advance("crash before")
        self.memory.stale_by = stale_by
        first_round = self.ledger.next_rounds([unit])[unit]
        if first_round == NUM_ROUNDS:
            return

        def work(store: Store) -> None:
            ledger = Ledger(store, "f")
            grow_unit(ledger, unit, NUM_ROUNDS, name, first_round=first_round)

        self.attempts.append(Attempt(self.memory, work))

    @precondition(lambda self: self.attempts)
    @rule(which=st.integers(0, MAX_AWAKE - 1), outcome=st.sampled_from(LIKELY))
    def make_a_call(self, which: int, outcome: str) -> None:
        self.num["steps"] += 1
        self._advance(which, outcome)

    @precondition(lambda self: self.attempts)
    @rule(which=st.integers(0, MAX_AWAKE - 1), num_calls=st.integers(2, 12))
    def make_several_calls(self, which: int, num_calls: int) -> None:
        self.num["steps"] += 1
        attempt = self.attempts[which % len(self.attempts)]
        for _ in range(num_calls):
            if not attempt.is_over:
                self._advance(self.attempts.index(attempt), "ok")
                self.look()

    @precondition(lambda self: self.is_all_committed())
    @rule()
    def collect_orphans(self) -> None:
        """The end of a run, while zombies are still about, and replays under way."""
        self.num["steps"] += 1
        self.num["collections beside zombies"] += bool(self.attempts)
        self.num["collections beside replays"] += bool(self.attempts and self.replays)
        self.ledger.remove_orphans(self.ledger.receipts())

    def is_all_committed(self) -> bool:
        """Every round of every unit of the run; replays do not count."""
        num_done = sum(key.split("/")[1] in UNITS for key in self.committed)
        return num_done == len(UNITS) * NUM_ROUNDS

    def _advance(self, which: int, outcome: str) -> None:
        attempt = self.attempts[which % len(self.attempts)]
        attempt.advance(outcome)
        self.num["store calls"] += 1
        self.num[outcome] += 1
        if attempt.is_over:
            self.attempts.remove(attempt)

    @invariant()
    def look(self) -> None:
        """First wins for ever, and no receipt without its files."""
        objects = self.memory.objects
        receipts = {key: data for key, data in objects.items() if key.startswith("receipts/")}
        assert self.committed.items() <= receipts.items(), "a receipt was changed or removed"
        new = receipts.keys() - self.committed.keys()
        self.committed = receipts
        self.num["commits"] += len(new)
        for key, data in receipts.items():
            receipt = json.loads(data)
            for shard in (receipt["data"], receipt["dead_letter"]):
                if shard is not None:
                    assert shard["file"] in objects, f"{key} names {shard['file']}"
                    if key in new:
                        found = hashlib.sha256(objects[shard["file"]]).hexdigest()
                        assert found == shard["sha256"]
        for unit in {key.split("/")[1] for key in new}:
            # Counts, ids, hashes and lineage of the rounds that this unit has by now.
            own = {key: data for key, data in objects.items() if f"/{unit}" in key}
            check_run(own, [unit], sum(key.split("/")[1] == unit for key in receipts))

    def teardown(self) -> None:
        """A clean resume finishes the run; zombies that wake after it change nothing."""
        self.num["commits before the resume"] += len(self.committed)
        units = [*UNITS, *sorted(self.replays)]
        for unit, first_round in self.ledger.next_rounds(units).items():
            grow_unit(self.ledger, unit, NUM_ROUNDS, "resumed", first_round=first_round)
            self.look()
        while self.attempts:
            self._advance(0, "ok")
            self.look()
        self.ledger.remove_orphans(self.ledger.receipts())
        assert self.ledger.next_rounds(units) == dict.fromkeys(units, NUM_ROUNDS)
        assert check_run(self.memory.objects, units, NUM_ROUNDS) == []
        self.num["runs"] += 1
        self.num["units"] += len(units)


def _run(machine: type[CommitMachine], max_examples: int, phases: tuple[Phase, ...]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=50,
            deadline=None,
            database=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize(
    ("max_examples", "min_steps"),
    [
        (125, 5_000),
        pytest.param(2_500, 100_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
def test_no_interleaving_breaks_the_commit_layer(max_examples: int, min_steps: int) -> None:
    class Machine(CommitMachine):
        """With counts of its own."""

    _run(Machine, max_examples, (Phase.generate, Phase.shrink))
    logger.info("%s", dict(Machine.num))
    assert Machine.num["steps"] >= min_steps
    assert Machine.num["commits"] == Machine.num["units"] * NUM_ROUNDS
    # Not an idle exercise: most commits are made in the thick of it, every outcome comes up often.
    assert Machine.num["commits before the resume"] > Machine.num["commits"] / 4
    assert Machine.num["collections beside zombies"] > 0
    assert Machine.num["collections beside replays"] > 0
    for outcome in OUTCOMES:
        assert Machine.num[outcome] > min_steps / 1_000


def test_the_model_finds_a_store_that_lets_a_second_writer_win() -> None:
    class Machine(CommitMachine):
        is_conditional = False

    with pytest.raises(AssertionError, match="changed or removed"):
        _run(Machine, 200, (Phase.generate,))
