"""What is wrong with a caption as a caption: flags, which are data; nothing is dropped for them.

A pure function of the description, the instruction and a config. Unlike `text_rules.py`, which
refuses what another model might obey, these are faults of style and content that a filter may want
to leave out (`forbidden_flags`) and another may want to count.

Measured on `tests/actors/hygiene_set.jsonl`, which was written before the rules.
Limits: `wrong_language` tells English from other languages by script and by the commonest words of
either, so it says nothing of a few words without any; `hedging` and most of `instruction_echo` are
English patterns. Any other `language` than English has no word list: only its script is judged.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from actors.validation import check_range

# Part of a run's fingerprint where it is scored: other rules make other columns.
HYGIENE_ID: Final = "hygiene-v2"  # v1 knew fewer hedges
FLAGS: Final = (
    "instruction_echo",
    "repetition",
    "hedging",
    "wrong_language",
    "too_short",
    "too_long",
    "url",
    "contact",
)


@dataclass(frozen=True, kw_only=True)
class HygieneConfig:
    """What a caption should be."""

    min_words: int = 3
    max_words: int = 200
    is_english: bool = True  # flag what is in another language

    def __post_init__(self) -> None:
        check_range("min_words", self.min_words, 0, 10_000)
        check_range("max_words", self.max_words, 1, 100_000)
        if self.min_words > self.max_words:
            raise ValueError(
                f"field 'min_words' is {self.min_words}, 'max_words' {self.max_words}: nothing fits"
            )

    def params(self) -> dict[str, Any]:
        """What decides the flags."""
        return {
            "id": HYGIENE_ID,
            "min_words": self.min_words,
            "max_words": self.max_words,
            "is_english": self.is_english,
        }


def find_flags(description: str, instruction: str, config: HygieneConfig) -> list[str]:
    """The flags of a caption that was the answer to `instruction`, in the order of `FLAGS`."""
    text = " ".join(unicodedata.normalize("NFKC", description).casefold().split())
    words = _WORD.findall(text)
    found = {
        "instruction_echo": _is_echo(text, words, instruction),
        "repetition": _is_repetitive(words),
        "hedging": bool(_HEDGING.search(text)),
        "wrong_language": config.is_english and _is_foreign(text, words),
        "too_short": _count_words(text) < config.min_words,
        "too_long": _count_words(text) > config.max_words,
        "url": bool(_URL.search(text)),
        "contact": _is_contact(text),
    }
    return [flag for flag in FLAGS if found[flag]]


_WORD: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+")


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.VERBOSE)


def _count_words(text: str) -> int:
    """White space separates them, except in scripts that have none: there a letter is a third of
    one."""
    return len(text.split()) + len(_UNSPACED.findall(text)) // 3


_UNSPACED: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]")

# --- instruction_echo ---

# What an assistant says around an answer. A scene may hold a description, or be one: so these are
# at the beginning, or name the asker.
_PREAMBLE: Final = _compiled(r"""
    ^(?:sure|certainly|of\scourse|okay|ok|absolutely|as\s(?:you\s)?requested|gladly)\s?[,!.:]
  | ^(?:below|here)(?:\sis|\sare|'s)\s(?:\w+[\s-]){0,4}?
      (?:description|caption|sentence|summary|answer)\b
  | ^(?:description|caption|answer|response|output|assistant|user|question|instruction)\s?:
  | \bi\shope\s(?:this|that|it)\s(?:\w+\s)?helps?\b
  | \blet\sme\sknow\sif\s(?:you|there)\b
  | \b(?:you|i\swas)\s(?:have\s)?asked\s(?:me\s)?(?:to|for)\b
  | \b(?:the|my)\stask\sis\sto\s(?:describe|caption|write)\b
  | ^(?:please\s)?describe\s(?:the|this)\s(?:image|picture|photo)\b
  | ^in\sone\ssentence\b
""")
# So many words in a row of an instruction are no accident; a whole shorter instruction likewise.
_ECHO_WORDS: Final = 5


def _is_echo(text: str, words: Sequence[str], instruction: str) -> bool:
    if _PREAMBLE.search(text):
        return True
    asked = _WORD.findall(unicodedata.normalize("NFKC", instruction).casefold())
    if not asked:
        return False
    size = min(_ECHO_WORDS, len(asked))
    parts = {tuple(asked[at : at + size]) for at in range(len(asked) - size + 1)}
    return any(tuple(words[at : at + size]) in parts for at in range(len(words) - size + 1))


# --- repetition ---

# "rows and rows", "very, very long", "a red apple, a green apple" are no loops: a phrase has to
# stand three times in a row, one of eight words and more twice.
_LONG_PHRASE: Final = 8
_LONGEST_PHRASE: Final = 64


def _is_repetitive(words: Sequence[str]) -> bool:
    for size in range(1, min(len(words) // 2, _LONGEST_PHRASE) + 1):
        least = 3 if size < _LONG_PHRASE else 2
        if _has_loop(words, size, least):
            return True
    return _has_frequent_phrase(words)


def _has_loop(words: Sequence[str], size: int, least: int) -> bool:
    """Whether some phrase of `size` words follows on itself until it stands there `least` times."""
    run = 0
    for at in range(size, len(words)):
        run = run + 1 if words[at] == words[at - size] else 0
        if run >= size * (least - 1):
            return True
    return False


def _has_frequent_phrase(words: Sequence[str]) -> bool:
    """Whether the same four words stand in three places, which no caption needs."""
    phrases = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    return any(count >= 3 for count in phrases.values())


# --- hedging ---

# By the kinds of hedges that linguists tell apart: adverbs, verbs of belief, words for not knowing,
# seeming, modal verbs. A cloud that looks like a horse is none.
_NOT: Final = r"(?:cannot|can't|can\snot|could\snot|couldn't|am\sunable|'m\sunable|do\snot|don't)"
_HEDGING: Final = _compiled(rf"""
    \b(?:perhaps|presumably|maybe|probably|possibly|potentially|apparently|seemingly|supposedly
      |conceivably|arguably|(?:most|very|quite)\slikely|likely\sa|unlikely)\b
  | \b(?:is|are|what\sis)\slikely\b
  | \bit\sis\s(?:\w+\s)?(?:possible|probable|plausible)\sthat\b
  | \bi(?:\s(?:would|can\sonly|must)|'d)?\s
      (?:think|believe|guess|suppose|assume|suspect|presume|imagine|reckon)\b
  | \b(?:i\swould|i'd)\ssay\b | \b(?:in\smy\s(?:opinion|view)|to\sme\s(?:it|this)\slooks)\b
  | \bi(?:'m|\sam)\s(?:\w+\s)?(?:guessing|assuming)\b
  | \b(?:my\s(?:best\s)?guess\s(?:is|would)|(?:just|only)\sa\sguess)\b | \bhad\sto\sguess\b
  | \bi(?:'m|\sam)\s(?:sorry|unable|unsure|uncertain)\b | ^sorry\b
  | \bnot\s(?:\w+ly\s|quite\s|at\sall\s)?(?:sure|certain)\b
  | \bi\s?(?:{_NOT})\s(?:\w+\s)?(?:see|view|describe|identify|tell|make|be|have|know|determine)\b
  | \bi\s(?:could|may|might)\sbe\s(?:wrong|mistaken)\b | \bnot\smistaken\b | \bas\san\sai\b
  | \bas\sfar\sas\si\s(?:can|could)\b
  | \bit\s(?:is|'s|seems|may\sbe|might\sbe)\s(?:\w+\s)?
      (?:difficult|hard|impossible|not\spossible|unclear|uncertain)\b
  | \b(?:it|this|that|details)\s(?:is|are|remains?)\s
      (?:uncertain|unclear|not\s(?:\w+\s)?(?:clear|obvious))\b
  | \b(?:hard|difficult)\sto\s(?:say|tell|know|make\sout|be\s(?:sure|certain))\b
  | \b(?:appears?|seems?)\sto\s(?:be|show|depict|have|represent)\b
  | \bit\s(?:seems|appears)\b | \b(?:it|this|what)\slooks\slike\b | \bone\smight\b
  | \b(?:this|it|that|object|there|which|who|we|image|picture|photo)\s(?:may|might|could)\s
      (?:also\s|well\s)?(?:be|show|depict)\b
  | \btoo\s(?:blurry|dark|small)\sto\s(?:make\sout|tell|identify|see)\b
  | \bimpossible\sto\s(?:say|tell|determine|know)\b | \bor\ssomething\s(?:similar|else|like)\b
  | \bor\sat\sleast\sthat\b | \bassuming\s(?:that\s)?i\b
""")

# --- wrong_language ---

_ENGLISH_TEXT: Final = """
a an the and of on in is are with at to its it his her their by from that this two three while
behind above under over one for as or into beside below next has up down near large small red blue
green yellow white black image shows man woman
"""
# German, French, Spanish, Portuguese, Italian, Dutch, Swedish, Polish; without what is English too.
_FOREIGN_TEXT: Final = """
der das ein eine einem einen einer und ist auf dem mit im von zu zur neben liegt
le la les un une des du et est dans sur avec aux qui deux pendant sous il au blanc
el los las una y en con del mientras bajo por que dos de al
um uma os o na com ao da em enquanto
di gli lo che nel nella sulla sotto due dietro si
een het van op terwijl zijn hem naar
ett och medan som av pa det ar med langs bakom
za nim jest z w po sie
"""
_ENGLISH: Final = frozenset(_ENGLISH_TEXT.split())
_FOREIGN: Final = frozenset(_FOREIGN_TEXT.split())
_FOREIGN_LETTERS_SHARE: Final = 0.2


def _is_foreign(text: str, words: Sequence[str]) -> bool:
    letters = [char for char in text if char.isalpha()]
    if not letters:
        return False
    num_other = sum(not unicodedata.name(char, "").startswith("LATIN") for char in letters)
    if num_other > _FOREIGN_LETTERS_SHARE * len(letters):
        return True
    num_foreign = sum(word in _FOREIGN for word in words)
    num_english = sum(word in _ENGLISH for word in words)
    return num_foreign >= 2 and num_foreign > num_english


# --- url, contact ---

_DOMAINS: Final = "com|org|net|io|info|biz|dev|app|gov|edu|co|ru|cn|de|uk|fr|es|xyz|ly|me|tv"
_URL: Final = _compiled(rf"""
    \b(?:https?|ftp)://\S | \bwww\d?\.[a-z0-9-]+\.[a-z]
  | (?<![@\w.)\]-])[a-z0-9][a-z0-9-]*(?:\.[a-z0-9-]+)*\.(?:{_DOMAINS})\b(?!\w|@)
""")
_EMAIL: Final = _compiled(r"""
    [\w.+-]+\s?(?:@|\(at\)|\[at\])\s?(?:[\w-]+\.)+[a-z]{2,}
""")
# Seven digits and more that belong together: a date, a price or a score has fewer.
_PHONE: Final = _compiled(r"(?<![\w.])\+?\(?\d(?:[\s().-]{0,2}\d){6,14}(?!\w)")
_TELLING: Final = _compiled(r"\b(?:call|phone|tel|telephone|mobile|fax|ring|text|whatsapp|dial)\b")


def _is_contact(text: str) -> bool:
    if _EMAIL.search(text):
        return True
    for match in _PHONE.finditer(text):
        digits = [char for char in match[0] if char.isdigit()]
        is_grouped = len(digits) < len(match[0].strip())
        if is_grouped or _TELLING.search(text):
            return True
    return False
