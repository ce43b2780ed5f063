import hashlib
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.prompts import INSTRUCTIONS, clean_text, find_instruction


def test_ids_name_their_instruction_and_texts_are_distinct() -> None:
    assert all(INSTRUCTIONS[key].id == key for key in INSTRUCTIONS)
    assert len({instruction.sha256 for instruction in INSTRUCTIONS.values()}) == len(INSTRUCTIONS)


def test_an_instruction_of_ones_own_needs_an_id_of_its_own() -> None:
    own = find_instruction("mine-v1", "What is this?")
    assert (own.id, own.text) == ("mine-v1", "What is this?")
    assert own.sha256 == hashlib.sha256(b"What is this?").hexdigest()
    with pytest.raises(ValueError, match="names another text"):
        find_instruction("describe-v1", "What is this?")


def test_an_unknown_id_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'describe-v1'"):
        find_instruction("descrbe-v1")


@pytest.mark.parametrize(
    ("instruction_id", "text", "named"),
    [
        ("nothing", "", "field 'prompt_id' is"),
        ("write-v1", "other", "field 'prompt' is"),
        ("mine-v1", "a \ud800", "field 'prompt' is"),
    ],
)
def test_a_wrong_instruction_names_the_field_it_came_from(
    instruction_id: str, text: str, named: str
) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        find_instruction(instruction_id, text, field="prompt")
    assert "'instruction" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  a \t red\n\nstar  ", "a red star"),
        ("a\u200bb\ufeffc\x00d", "abcd"),
        ("a \u200b b", "a b"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u200b \x07", ""),
        ("a\u00a0b", "a b"),
        ("a \ud800 star", "a star"),  # what JSON's "\\ud800" is in Python
    ],
)
def test_text_is_cleaned(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


@given(st.text(st.characters(), max_size=60))
def test_cleaned_text_is_one_plain_line_and_stays_as_it_is(text: str) -> None:
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned
    assert all(unicodedata.category(char)[0] != "C" for char in cleaned)
    assert cleaned == cleaned.strip()
    assert "\n" not in cleaned
