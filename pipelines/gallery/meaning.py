"""Says of a chain which round lost how much of the seed, in words that a person can check.

The measure is word overlap and nothing more. Content words of a text are its runs of letters and
digits, case folded, a plural `s` taken off words of four letters and more, without the function
words and caption words below. `kept` of a description is the share of the seed's content words
that it still says, each as often as the seed does: sum of min(count in seed, count in
description) over the count in the seed; drift is 1 - kept. A word is gone for good in the first
round from which on no description says it. The round in which most words went is the one that
turned the chain; in round 0 a word counts half, since there the captioner also puts the seed into
words of its own. In `resample`, where every round starts from the seed, each stands for itself.

Limits: paraphrase counts as loss ("crimson" for "red"), and two attributes that change places
("a red circle and a blue square" for "a blue circle and a red square") do not count at all. A
language written without spaces has one word a sentence. The `score` stage's similarities are shown
beside it where they are there.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from actors.records import Row

Status = Literal["kept", "drifted", "lost", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)  # the worst last

_WORD = re.compile(r"[^\W_]+")
# Function words of English, then what captions open with: none of them is what is to be drawn.
_IGNORED = (
    "a an and are as at be been by can for from has have in into is it its of on one onto or so "
    "some than that the their them there these they this those to was were which while with "
    "image picture photo photograph scene view show shows showing shown depict depicts depicting "
    "feature features featuring object objects corner"
)
IGNORED_WORDS = frozenset(_IGNORED.split())
NUM_WORDS_TOLD = 5
NUM_ROUNDS_TOLD = 3
# A fall of a similarity below this is not told: it lies within what two seeds of one model differ.
MIN_FALL = 0.03
# A description with less than this share of the words before it is told as a cause.
SHRUNK = 0.5
# By score: the code, what is told, and what of the two went wrong if only that one fell.
_FITS = {
    "clip_similarity": (
        "picture_off_prompt",
        "the picture fits its prompt less well",
        "the picture left its prompt",
    ),
    "clip_similarity_description": (
        "description_off_picture",
        "the description fits its picture less well",
        "the description left its picture",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a chain's meaning.

    Attributes:
        turning: the round that took most of the seed's words for good, or in which it failed.
        kept: of every round in order, the share of the seed's words that its description says.
        head: the verdict in a few words; `why`: the words and facts behind it.
        codes: what is known of the cause, for filters: reasons of a failure, flags.
    """

    status: Status
    turning: int | None
    kept: list[float]
    head: str
    why: str
    codes: list[str]


def content_words(text: str) -> list[str]:
    """The words of `text` that say what is in a picture, in order, normalised."""
    return [_stem(word) for word in _WORD.findall(text.casefold()) if word not in IGNORED_WORDS]


def share_kept(seed: Counter[str], text: Counter[str]) -> float:
    """The share of the seed's content words that a text says; 1 where the seed has none."""
    total = seed.total()
    return (seed & text).total() / total if total else 1.0


def judge(
    seed: str,
    rows: Sequence[Row],
    failed: Row | None,
    *,
    kept_from: float,
    lost_below: float,
    is_loop: bool = True,
) -> Verdict:
    """Judges one chain.

    Args:
        seed: its seed description.
        rows: its pairs by round: `round_index`, `text`, and what else the page has of them.
        failed: the row that ended it: `round_index`, `stage`, `reason`, `message`.
        is_loop: whether a round's text follows on the round before, or each on the seed.
    """
    found = _judge(seed, rows, failed, kept_from=kept_from, lost_below=lost_below, is_loop=is_loop)
    stop = rows[-1].get("stop") if rows and failed is None else None
    if stop is None:
        return found
    why = f"{found.why}. The rule {stop} ended the chain after round {rows[-1]['round_index']}"
    return replace(found, why=why, codes=[*found.codes, f"stopped_{stop}"])


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Of a chain that began anew with a fresh description, each stretch judged by its own: the
    verdict on the stretch that came off worst, the later one of equals."""
    found = max(reversed(verdicts), key=lambda one: STATUSES.index(one.status))
    if len(verdicts) == 1:
        return found
    kept = [share for one in verdicts for share in one.kept]
    number = "once" if len(verdicts) == 2 else f"{len(verdicts) - 1} times"
    why = f"{found.why}. It began anew {number}, with a fresh description"
    return replace(found, kept=kept, why=why)


def _judge(
    seed: str,
    rows: Sequence[Row],
    failed: Row | None,
    *,
    kept_from: float,
    lost_below: float,
    is_loop: bool,
) -> Verdict:
    wanted = Counter(content_words(seed))
    bags = [Counter(content_words(row["text"])) for row in rows]
    kept = [share_kept(wanted, bag) for bag in bags]
    gone = _gone_for_good(wanted, bags) if is_loop else [wanted - bag for bag in bags]
    left = f"{_left(wanted, bags)} of {wanted.total()} words of the seed"
    if failed is not None:
        return _broken_off(failed, kept, left if rows else "")
    assert rows, "a chain has a pair or has failed"
    weights = [one.total() * (0.5 if is_loop and at == 0 else 1) for at, one in enumerate(gone)]
    worst = max(range(len(rows)), key=lambda at: (weights[at], at))
    rounds = "one round" if len(rows) == 1 else f"{len(rows)} rounds"
    if not gone[worst].total():
        why = f"Every description still says all {wanted.total()} words of the seed"
        return Verdict(
            status="kept", turning=None, kept=kept, head=f"Meaning kept over {rounds}", why=why,
            codes=[],
        )  # fmt: skip
    earlier = [rows[at - 1]["text"] if at and is_loop else seed for at in range(len(rows))]
    facts, codes = _facts(rows, worst, earlier[worst])
    told = [
        _told(seed, earlier[at], rows[at], gone[at], wanted.total(), is_loop=is_loop)
        for at in _by_weight(weights)
    ]
    final = kept[-1] if is_loop else kept[worst]
    last = f"The last description says {left}" if is_loop else ""
    status: Status = "lost" if final < lost_below else "drifted"
    if final >= kept_from:
        status, codes, facts = "kept", [], []
    turning = int(rows[worst]["round_index"])
    return Verdict(
        status=status,
        turning=turning,
        kept=kept,
        head=_head(status, turning, rounds, codes, is_beginning=is_loop and worst == 0),
        why=". ".join(part for part in ["; ".join([told[0], *facts]), *told[1:], last] if part),
        codes=codes,
    )


def _head(
    status: Status, turning: int, rounds: str, codes: Sequence[str], *, is_beginning: bool
) -> str:
    if status == "kept":
        return f"Meaning kept over {rounds}"
    if status == "drifted" and is_beginning:  # word overlap cannot tell the one from the other
        return f"Reworded or drifted in round {turning}"
    wrong = [culprit for code, _, culprit in _FITS.values() if code in codes]
    return f"Meaning {status} in round {turning}" + (f": {wrong[0]}" if len(wrong) == 1 else "")


def _by_weight(weights: Sequence[float]) -> list[int]:
    """The rounds that took most words, three at most: the worst, then the others in order."""
    took = [at for at in range(len(weights)) if weights[at]]
    worst, *rest = sorted(took, key=lambda at: (-weights[at], -at))[:NUM_ROUNDS_TOLD]
    return [worst, *sorted(rest)]


def _broken_off(failed: Row, kept: list[float], left: str) -> Verdict:
    turning = int(failed["round_index"])
    until = f". Until then it said {left}" if left else ""
    return Verdict(
        status="failed",
        turning=turning,
        kept=kept,
        head=f"Broke off in round {turning} ({failed['stage']})",
        why=f"{failed['reason']}: {failed['message']}{until}",
        codes=[failed["reason"]],
    )


def _gone_for_good(wanted: Counter[str], bags: Sequence[Counter[str]]) -> list[Counter[str]]:
    """For each round the seed's words, with their number, that no later description says again."""
    gone: list[Counter[str]] = []
    still = wanted
    for at in range(len(bags)):
        later = Counter[str]()
        for bag in bags[at:]:
            later |= wanted & bag
        gone.append(still - later)
        still = still & later
    return gone


def _left(wanted: Counter[str], bags: Sequence[Counter[str]]) -> int:
    return (wanted & bags[-1]).total() if bags else wanted.total()


def _told(
    seed: str, before: str, row: Row, gone: Counter[str], num_wanted: int, *, is_loop: bool
) -> str:
    lost, text = _surface(seed, gone), row["text"]
    came = _surface(text, Counter(content_words(text)) - Counter(content_words(before)))
    fate = "went for good" if is_loop else "are missing"
    words = f"{gone.total()} of the seed's {num_wanted} words {fate}, {_quoted(lost)}"
    return f"Round {row['round_index']}: {words}" + (f"; {_quoted(came)} came" if came else "")


def _facts(rows: Sequence[Row], at: int, before: str) -> tuple[list[str], list[str]]:
    """What else is known of the round that turned the chain: sentences, and their codes."""
    row = rows[at]
    facts: list[str] = []
    codes: list[str] = []
    if row.get("is_cut"):
        facts.append("its prompt was cut at the text encoder's limit")
        codes.append("prompt_truncated")
    if row.get("is_text_cut"):
        facts.append("its description was cut at the captioner's token limit")
        codes.append("description_cut")
    num_before, num_now = len(before.split()), len(row["text"].split())
    if num_now < SHRUNK * num_before:
        facts.append(f"the text shrank from {num_before} words to {num_now}")
        codes.append("shorter_text")
    for name, (code, told, _) in _FITS.items() if at else ():
        now, then = (one.get("scores", {}).get(name) for one in (row, rows[at - 1]))
        if now is not None and then is not None and then - now >= MIN_FALL:
            score = name.replace("_", " ")
            facts.append(f"{told} ({score} {now:.2f}, {then:.2f} the round before)")
            codes.append(code)
    for flag in row.get("flags", ()):
        facts.append(f"its description is flagged: {flag.replace('_', ' ')}")
        codes.append(f"caption_{flag}")
    return facts, codes


def _surface(text: str, stems: Counter[str]) -> list[str]:
    """The words of `text` behind `stems`, as they are written, in their order, each once."""
    found: dict[str, None] = {}
    for word in _WORD.findall(text):
        folded = word.casefold()
        if folded not in IGNORED_WORDS and stems[_stem(folded)] > 0:
            found.setdefault(folded)
    return list(found)


def _quoted(words: Sequence[str]) -> str:
    told = ", ".join(f'"{word}"' for word in words[:NUM_WORDS_TOLD])
    more = len(words) - NUM_WORDS_TOLD
    return f"{told} and {more} more" if more > 0 else told


def _stem(word: str) -> str:
    is_plural = len(word) > 3 and word.endswith("s") and not word.endswith("ss")
    return word[:-1] if is_plural else word
