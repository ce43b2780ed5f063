"""What the READMEs say is there: columns, paths, links, make targets, verbs and config keys."""

import re
import shlex
from pathlib import Path

import pytest

from actors.records import DEAD_LETTER_COLUMNS, PAIR_COLUMNS
from cluster.config import load
from pipelines.cli import main
from pipelines.synergy import SynergyConfig

ROOT = Path(__file__).parents[2]
READMES = [
    ROOT / name
    for name in ("README.md", "cluster/README.md", "actors/README.md", "pipelines/README.md")
]
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
every_readme = pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.parent.name))


def _commands(text: str) -> list[list[str]]:
    """The words of every `pairloom ...` that stands as a line of code, without its comment."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = re.findall(r"^    (?:\$ )?pairloom (.+)$", joined, re.MULTILINE)
    return [shlex.split(re.split(r"\s{3,}|\s+\.\.\.", line)[0]) for line in lines]


def test_every_column_is_told_with_its_meaning() -> None:
    text = (ROOT / "pipelines" / "README.md").read_text()
    for name, _, meaning in PAIR_COLUMNS + DEAD_LETTER_COLUMNS:
        assert f"| `{name}` | {meaning} |" in text, name


@every_readme
def test_paths_links_and_make_targets_exist(path: Path) -> None:
    text = path.read_text()
    for name in re.findall(r"`((?:conf|cluster|actors|pipelines|tests|k8s)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (path.parent / name).exists(), name
    assert set(re.findall(r"`make ([\w-]+)`", text)) <= TARGETS


@every_readme
def test_links_into_a_page_meet_a_heading(path: Path) -> None:
    for name, anchor in re.findall(r"\]\(([\w./-]+\.md)#([\w-]+)\)", path.read_text()):
        headings = re.findall(r"^#+ (.+)$", (path.parent / name).read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}
        assert anchor in anchors, f"{name}#{anchor}"


@every_readme
def test_every_verb_exists(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    known = re.search(r"\{([\w,]+)\}", capsys.readouterr().out)
    assert known
    used = {words[0] for words in _commands(path.read_text())}
    assert used <= set(known[1].split(","))


def test_the_words_of_commands_are_config_keys() -> None:
    checked = 0
    for path in READMES:
        for verb, *words in _commands(path.read_text()):
            words = [word for word in words if not word.startswith("--")]
            if verb in {"plan", "run", "seeds"} and words[0].startswith("conf/"):
                needed = ["output=out/x", "seeds.path=seeds.txt"]  # where `...` stands for them
                load(SynergyConfig, str(ROOT / words[0]), needed + words[1:])
                checked += 1
    assert checked >= 6
