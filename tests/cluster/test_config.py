"""cluster/config.py: strict loading, messages that name the mistake, and a lossless dump."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from cluster import config


@dataclass(frozen=True, kw_only=True)
class Oven:
    heat_c: int = 200
    mode: Literal["fan", "grill"] = "fan"

    def __post_init__(self) -> None:
        if self.heat_c < 0:
            raise ValueError(f"field 'heat_c' is {self.heat_c}: must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class Kitchen:
    output: str
    oven: Oven = field(default_factory=Oven)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class House:
    first: Kitchen
    second: Kitchen


@pytest.fixture
def page(tmp_path: Path) -> str:
    path = tmp_path / "kitchen.yaml"
    path.write_text("output: here\noven:\n  heat_c: 180\n")
    return str(path)


def test_file_then_words_then_defaults(page: str) -> None:
    loaded = config.load(Kitchen, page, ["oven.mode=grill", "output=s3://b/k?x=1"])
    assert loaded == Kitchen(output="s3://b/k?x=1", oven=Oven(heat_c=180, mode="grill"))


def test_dump_reads_back_equal(page: str, tmp_path: Path) -> None:
    loaded = config.load(Kitchen, page, ["tags=[a,b]"])
    again = tmp_path / "again.yaml"
    again.write_text(config.dump(loaded))
    assert config.load(Kitchen, str(again)) == loaded
    assert config.to_dict(loaded)["oven"] == {"heat_c": 180, "mode": "fan"}


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("oven.haet_c=1", ["unknown key 'oven.haet_c'", "'oven.heat_c'"]),
        ("ovn=1", ["unknown key 'ovn'", "'oven'"]),
        ("oven.heat_c=warm", ["oven.heat_c is 'warm'", "Integer"]),
        ("oven.mode=steam", ["oven.mode is 'steam'", "'fan', 'grill'"]),
        ("oven=3", ["Oven"]),
        ("oven.heat_c=-5", ["oven: field 'heat_c' is -5", "0 or more", "oven.heat_c=-5"]),
        ("num_rounds", ["key=value"]),
        ("=3", ["key=value"]),
        ("output=null", ["output is None"]),
    ],
)
def test_a_wrong_word_is_named(page: str, word: str, parts: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        config.load(Kitchen, page, [word])
    for part in [*parts, page if "key=value" not in parts else word]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "word", ["oven.heat_c=warm", "oven.mode=steam", "oven=3", "tags=3", "output=[1]"]
)
def test_a_word_of_a_wrong_type_is_repeated_as_it_was_given(page: str, word: str) -> None:
    with pytest.raises(ValueError, match=r"^argument ") as caught:
        config.load(Kitchen, page, [word])
    assert repr(word) in str(caught.value)


def test_equal_parts_are_told_apart_by_their_path(tmp_path: Path) -> None:
    path = tmp_path / "house.yaml"
    text = "first: {output: a}\nsecond: {output: b, oven: {heat_c: -1}}\n"
    path.write_text(text)
    said = f"^config {path}: second.oven: field 'heat_c' is -1: must be 0 or more$"
    with pytest.raises(ValueError, match=said):
        config.load(House, str(path))
    path.write_text(text.replace("output: a", "tags: [x]"))
    with pytest.raises(ValueError, match=r"'first\.output' has no value"):
        config.load(House, str(path))
    loaded = config.load(House, str(path), ["first.output=a", "second.oven.heat_c=5"])
    assert loaded.first == Kitchen(output="a", tags=("x",))
    assert loaded.second.oven == Oven(heat_c=5)


def test_a_value_that_points_nowhere_names_its_key(page: str) -> None:
    with pytest.raises(ValueError, match=r"kitchen\.yaml.*nowhere"):
        config.load(Kitchen, page, ["output=${nowhere}"])


def test_a_key_in_the_file_is_named_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "k.yaml"
    path.write_text("output: x\noven: {heat: 3}\n")
    with pytest.raises(ValueError, match=r"k\.yaml.*oven\.heat'.*'oven\.heat_c'"):
        config.load(Kitchen, str(path))


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\tx: 1", "just words"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "k.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"k\.yaml"):
        config.load(Kitchen, str(path))


def test_missing_file_and_missing_value(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        config.load(Kitchen, str(tmp_path / "no.yaml"))
    path = tmp_path / "empty.yaml"
    path.write_text("oven: {heat_c: 1}\n")
    with pytest.raises(ValueError, match="'output' has no value"):
        config.load(Kitchen, str(path))
