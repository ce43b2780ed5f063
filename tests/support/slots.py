"""Reads the slots of a word as gallery.js does: the inverse of `pipelines/gallery/search.py`."""

from pipelines.gallery.search import DIGITS


def decode_slots(text: str) -> list[int]:
    """The slots, in order."""
    slots: list[int] = []
    value, shift, slot = 0, 0, -1
    for one in text:
        digit = DIGITS.index(one)
        value |= (digit & 31) << shift
        shift += 5
        if digit < 32:
            slot += value + 1
            slots.append(slot)
            value, shift = 0, 0
    return slots
