"""Texts as answers of a language model, and answers as texts."""

from collections.abc import Iterable
from typing import Any

from actors.engines import Answer


def answers_of(said: Iterable[Any]) -> list[Any]:
    """Each text as an answer; what is no text stays as it is."""
    return [Answer(text=one) if isinstance(one, str) else one for one in said]


def texts_of(answers: Iterable[Any]) -> list[str]:
    return [answer.text for answer in answers]
