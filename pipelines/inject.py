"""Fresh descriptions for a loop: which round of a chain begins anew, and with which text.

A loop that is fed with nothing but its own output drifts, and its chains grow alike; a share of
rounds that begin with a text from outside keeps what comes out varied. Such a round is a round 0
once more: it has no parent, its prompt is the fresh description, and that is the `seed` of its pair
and of the pairs that follow. Scores and the rules that stop a chain compare with it from there on.

Which round, and which text, follows from run seed, chain and round alone: whoever asks, an attempt,
its rival, a resume or a replay, gets the same answer.

Limits: chance decides, not the state of the chain. A chain that failed or was stopped stays so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from actors.records import MEMORY_VECTORS, Row, derive_rng_seed
from actors.validation import check_range
from pipelines.seeds import read_table
from pipelines.sources import SUFFIXES, SeedsConfig

# As the seeds' own: committed before the loop starts.
FRESH_KEY: Final = "seeds/fresh.parquet"
# pyarrow makes its compute functions at import.
_compute: Any = pc


@dataclass(frozen=True, kw_only=True)
class InjectConfig:
    """How many rounds begin anew with a fresh description; by default none."""

    share: float = 0.0  # of all rounds of all chains, from `from_round` on; 0: none
    from_round: int = 1
    # fresh descriptions, read as `seeds.path` is, all of them; null: the run's own seeds
    path: str | None = None

    def __post_init__(self) -> None:
        check_range("inject.share", self.share, 0.0, 1.0)
        check_range("inject.from_round", self.from_round, 1, 998)
        if self.path is not None and not self.path.endswith(SUFFIXES):
            raise ValueError(
                f"field 'inject.path' is {self.path!r}: must end in one of {', '.join(SUFFIXES)}"
            )

    @property
    def is_on(self) -> bool:
        """Whether any round may begin anew."""
        return self.share > 0

    @property
    def has_file(self) -> bool:
        """Whether there is a table of fresh descriptions besides the seeds'."""
        return self.is_on and self.path is not None


@dataclass(frozen=True, kw_only=True)
class Fresh:
    """The fresh descriptions of a run, and what decides who gets which."""

    config: InjectConfig
    run_seed: int
    num_rounds: int
    texts: pa.Array

    def of_chain(self, chain_id: str) -> list[str | None]:
        """For each round the description that it begins anew with; None where it goes on."""
        num_texts = len(self.texts)
        places = (
            choose(self.config, num_texts, self.run_seed, chain_id, r)
            for r in range(self.num_rounds)
        )
        return [None if place is None else self.texts[place].as_py() for place in places]


def choose(
    config: InjectConfig, num_texts: int, run_seed: int, chain_id: str, round_index: int
) -> int | None:
    """The place of the description that this round begins anew with; None: it goes on."""
    if round_index < config.from_round:
        return None
    number = derive_rng_seed(run_seed, chain_id, round_index, "inject")
    return number % num_texts if number < config.share * 2**63 else None


def begin_anew(chain: Row, round_index: int) -> Row:
    """The chain as it is drawn in this round: without a past, where a fresh description is due."""
    fresh: Sequence[str | None] = chain.get("fresh") or ()
    text = fresh[round_index] if fresh else None
    if text is None:
        return chain
    forgotten = dict.fromkeys(("parent_id", "past", *MEMORY_VECTORS))
    return chain | forgotten | {"seed": text, "prompt": text}


def usable_texts(table: pa.Table) -> pa.Array:
    """The texts of a table of seeds, in their order, without those that have an error."""
    return table.column("seed").filter(_compute.is_null(table.column("error"))).combine_chunks()


def read_fresh(
    config: InjectConfig, seeds: SeedsConfig, run_seed: int, committed: pa.Table | None = None
) -> pa.Table:
    """The table of fresh descriptions, in the form of the seeds'.

    Raises:
        ValueError: the file cannot be read, or holds nothing that can be used.
    """
    try:
        table = read_table(replace(seeds, path=config.path, limit=None), run_seed, committed)
    except ValueError as error:
        raise ValueError(f"field 'inject.path', read as seeds are: {error}") from None
    if not len(usable_texts(table)):
        raise ValueError(
            f"field 'inject.path' is {config.path!r}: none of its descriptions can be used"
        )
    return table
