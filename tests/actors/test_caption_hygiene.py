"""actors/caption_hygiene.py: against the labelled set, and on captions that are surely clean."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.caption_hygiene import FLAGS, HygieneConfig, find_flags
from actors.prompts import INSTRUCTIONS
from actors.scenes.grammar import all_captions, sample_scene

SET = Path(__file__).with_name("hygiene_set.jsonl")
ROWS: list[dict[str, Any]] = [json.loads(line) for line in SET.read_text().splitlines()]


def _found(row: dict[str, Any]) -> set[str]:
    instruction = INSTRUCTIONS[row["instruction_id"]].text
    return set(find_flags(row["text"], instruction, HygieneConfig()))


@pytest.mark.parametrize("part", ["dev", "held_out"])
def test_recall_and_false_positives_on_the_labelled_set(part: str) -> None:
    """The rules were written with `dev` alone; first seen, the held-out part gave 83 of 84."""
    rows = [row for row in ROWS if row["part"] == part]
    num_labels = sum(len(row["flags"]) for row in rows)
    num_found = sum(len(_found(row) & set(row["flags"])) for row in rows)
    clean = [row for row in rows if not row["flags"]]
    wrong = [row["text"] for row in clean if _found(row)]
    assert num_found >= 0.95 * num_labels
    assert len(wrong) <= 0.02 * len(clean), wrong


def test_the_set_is_large_and_balanced() -> None:
    assert len(ROWS) >= 300
    assert all(sum(flag in row["flags"] for row in ROWS) >= 20 for flag in FLAGS)
    assert 0.4 <= sum(not row["flags"] for row in ROWS) / len(ROWS) <= 0.6


def test_no_caption_of_the_embedded_world_has_a_flag() -> None:
    rng = np.random.default_rng(0)
    captions = {text for _ in range(60) for text in all_captions(sample_scene(rng))}
    flagged = [text for text in captions if find_flags(text, "Describe it.", HygieneConfig())]
    assert len(captions) > 500
    assert flagged == []


def test_limits_of_length_are_the_configs() -> None:
    config = HygieneConfig(min_words=2, max_words=4)
    assert find_flags("star", "x", config) == ["too_short"]
    assert find_flags("a red star", "x", config) == []
    assert find_flags("a red star on a white ground", "x", config) == ["too_long"]
    assert find_flags("Ein Hund und eine Katze", "x", HygieneConfig(is_english=False)) == []
    with pytest.raises(ValueError, match="min_words"):
        HygieneConfig(min_words=9, max_words=3)


@given(text=st.text(max_size=300), instruction=st.text(max_size=80))
def test_any_text_gets_known_flags_in_order_and_always_the_same(
    text: str, instruction: str
) -> None:
    flags = find_flags(text, instruction, HygieneConfig())
    assert flags == [flag for flag in FLAGS if flag in flags]
    assert flags == find_flags(text, instruction, HygieneConfig())
