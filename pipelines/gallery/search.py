"""The search index: which chains say a word, in files of a few kilobytes.

A chain is a slot, a number from 0 to the size of its segment. A word's chains are its slots in
order, each as the distance to the one before, written in base 64 as in source maps: five bits a
character, the sixth says that more follow. Words that begin with one letter share a file, so that
a query loads one small file a segment and finds prefixes too.

Limits: a word is a run of letters and digits, cut at 24 characters; words that every caption has
(`IGNORED_WORDS`) are not in it. Of a chain's id the first twelve digits are.
"""

import re
from collections import defaultdict
from collections.abc import Iterable

from pipelines.gallery.meaning import IGNORED_WORDS

MAX_WORD_CHARS = 24
ID_CHARS = 12
_WORD = re.compile(r"[^\W_]+")
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def words_of(texts: Iterable[str]) -> set[str]:
    """The words under which a chain with these texts is found."""
    found = {word[:MAX_WORD_CHARS] for text in texts for word in _WORD.findall(text.casefold())}
    return found - IGNORED_WORDS


def file_letter(word: str) -> str:
    """The file that a word lies in: its first character, or `_` for what is not a-z or 0-9."""
    return word[0] if word[0].isascii() else "_"


def index_words(chains: Iterable[tuple[int, set[str]]]) -> dict[str, dict[str, str]]:
    """Of (slot, words) in the order of the slots: letter -> word -> its slots, encoded."""
    parts: defaultdict[str, list[str]] = defaultdict(list)
    last: dict[str, int] = {}
    for slot, words in chains:
        for word in words:
            parts[word].append(_encode(slot - last.get(word, -1) - 1))
            last[word] = slot
    files: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for word in sorted(parts):
        files[file_letter(word)][word] = "".join(parts[word])
    return dict(files)


def _encode(number: int) -> str:
    text = ""
    while True:
        number, digit = number >> 5, number & 31
        text += DIGITS[digit | 32 if number else digit]
        if not number:
            return text
