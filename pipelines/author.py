"""Lets a model write the seeds: D_init = H(P), b batches of m distinct descriptions.

Many small batches, each with its own rng_seed, rather than one long request: asked for too many
descriptions at once, a language model repeats itself (Synergy-General-MultimodalPairs, readme).
Descriptions that are empty, over-long, repeated, cut at the token limit, or break a rule
(actors/text_rules.py), are dropped, counted by reason, and asked for again, within bounds.

Limits: distinct means distinct as cleaned text; two sentences that mean the same both stay.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from actors.engines import Answer
from actors.prompts import Instruction, clean_text, find_instruction
from actors.reasons import Reason
from actors.records import derive_rng_seed
from actors.text_rules import find_rule
from actors.text_to_text import TextToTextConfig
from cluster.pool import PoolConfig

# How the author is asked: one rng_seed an answer -> raw answers in order.
Ask = Callable[[list[int]], Sequence[Answer]]

_LIST_MARK = re.compile(r"^\s*(?:[-*\u2022]|\(?\d{1,4}[.):])\s+")


@dataclass(frozen=True, kw_only=True)
class AuthorConfig:
    """The model that writes seeds, and how many: `num_batches` (b) of `batch_size` (m)."""

    num_batches: int = 0  # b; 0: no author, the seeds come from a file
    batch_size: int = 10  # m distinct descriptions a batch
    max_attempts: int = 5  # times a batch is asked for what it still lacks
    is_list: bool = False  # one answer lists many descriptions (large models), not one a call
    prompt_id: str = "write-v1"  # P: a shipped instruction (actors/prompts.py), or your own name
    prompt: str = ""  # P's text when `prompt_id` is your own
    model: TextToTextConfig = field(default_factory=TextToTextConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)

    def __post_init__(self) -> None:
        if self.num_batches < 0:
            raise ValueError(f"field 'num_batches' is {self.num_batches}: must be 0 or more")
        for name in ("batch_size", "max_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"field {name!r} is {getattr(self, name)}: must be 1 or more")
        self.prompt_used()

    def prompt_used(self) -> Instruction:
        """P, with its id and hash."""
        return find_instruction(self.prompt_id, self.prompt, field="prompt")


@dataclass(frozen=True, kw_only=True)
class Written:
    """The accepted descriptions of one batch, each with its rng_seed, and what was dropped."""

    texts: list[str]
    rng_seeds: list[int]
    dropped: Counter[str]


def write_batch(
    config: AuthorConfig,
    ask: Ask,
    *,
    run_seed: int,
    batch_index: int,
    taken: set[str],
    max_chars: int,
) -> Written:
    """Asks until batch `batch_index` has m descriptions that are new to `taken`; adds them to it.

    Returns:
        At most m texts: fewer when `max_attempts` did not suffice, which is the caller's to judge.
    """
    texts: list[str] = []
    rng_seeds: list[int] = []
    dropped: Counter[str] = Counter()
    name = f"author-batch-{batch_index}"
    for attempt in range(config.max_attempts):
        num_missing = config.batch_size - len(texts)
        if num_missing == 0:
            break
        num_calls = 1 if config.is_list else num_missing
        # Call k of attempt a is numbered a * m + k: no two calls of a batch share an rng_seed.
        first = attempt * config.batch_size
        asked = [
            derive_rng_seed(run_seed, name, first + call, "author") for call in range(num_calls)
        ]
        for rng_seed, answer in zip(asked, ask(asked), strict=True):
            for entry, is_cut in _entries(answer, is_list=config.is_list):
                text = clean_text(entry)
                reason = Reason.SEED_CUT if is_cut else _why_not(entry, text, taken, max_chars)
                if reason is None and len(texts) < config.batch_size:
                    texts.append(text)
                    rng_seeds.append(rng_seed)
                    taken.add(text)
                else:
                    dropped[reason or "surplus"] += 1
    return Written(texts=texts, rng_seeds=rng_seeds, dropped=dropped)


def split_list(answer: str) -> list[str]:
    """The entries of a numbered or bulleted answer; if no line has a mark, every line is one."""
    lines = [line for line in answer.splitlines() if line.strip()]
    marked = [line for line in lines if _LIST_MARK.match(line)]
    return [clean_text(_LIST_MARK.sub("", line)).strip("\"'") for line in marked or lines]


def _entries(answer: Answer, *, is_list: bool) -> Iterator[tuple[str, bool]]:
    """The descriptions of an answer, and whether each was cut: the last one can have been."""
    entries = split_list(answer.text) if is_list else [answer.text]
    for at, entry in enumerate(entries, 1):
        yield entry, at == len(entries) and answer.finish_reason == "length"


def _why_not(entry: str, text: str, taken: set[str], max_chars: int) -> str | None:
    if not text:
        return Reason.SEED_EMPTY
    if len(text) > max_chars:
        return Reason.SEED_TOO_LONG
    if text in taken:
        return Reason.SEED_DUPLICATE
    # The entry as it came: cleaned text has no lines, where another speaker may begin.
    return Reason.TEXT_RULE if find_rule(entry) else None
