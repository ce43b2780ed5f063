"""k8s/README.md is true: its paths, arguments and targets exist, its table is the plan's."""

import re
import shlex
from pathlib import Path

import cli
import pytest
from k8s_entry import DOCKERFILE
from k8s_render import K8S, OVERLAYS, ROOT

README = (K8S / "README.md").read_text()
ROWS = re.findall(r"^\| (\d+) \+ (\d+) \| ([\d.]+) \| (\d+) \| (\d+) \|$", README, re.MULTILINE)
NUM_SEEDS = 20_000


def test_the_table_has_rows() -> None:
    assert len(ROWS) == 5


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_a_row_of_the_sizing_table_is_what_its_command_says(
    row: tuple[str, ...], tmp_path: Path
) -> None:
    (command,) = re.findall(r"^    pairloom (plan (?:.*\\\n)*.*)", README, re.MULTILINE)
    for name, number in (("generator", row[0]), ("captioner", row[1])):
        command = re.sub(rf"{name}\.num_replicas=\d+", f"{name}.num_replicas={number}", command)
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("".join(f"scene number {index}\n" for index in range(NUM_SEEDS)))
    words = shlex.split(command.replace("\\\n", " ").replace("=seeds.txt", f"={seeds}"))
    done = cli.call(*words, "--json")
    assert done.code == 0, done.err
    outlook = done.totals["outlook"]
    assert done.totals["num_pairs"] == 100_000
    assert [pool["num_replicas"] for pool in done.totals["pools"]] == [int(row[0]), int(row[1])]
    rate = outlook["expected"]["pairs_per_s"]
    said = (f"{rate:.3g}", str(round(rate * 86400)), str(round(outlook["gpu_hours"])))
    assert said == row[2:]
    assert outlook["cost"] == outlook["gpu_hours"]


def test_paths_arguments_and_targets_of_the_readme_exist() -> None:
    for path in re.findall(r"(?:-k|-f) (k8s/[\w./-]+)", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:base|components|fetch|conf|tests)/[\w./-]+)`", README):
        assert (K8S / path).exists() or (ROOT / path).exists(), path
    arguments = set(re.findall(r"--build-arg (\w+)", README))
    assert arguments <= set(re.findall(r"^ARG (\w+)", DOCKERFILE.read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([\w-]+)", README)) <= targets
    assert set(re.findall(r"^\| `([\w-]+)` \|", README, re.MULTILINE)) == set(OVERLAYS)


def test_every_command_of_pairloom_in_the_readme_has_a_verb_that_exists() -> None:
    help_text = (ROOT / "pipelines" / "cli.py").read_text()
    verbs = set(re.findall(r"(?:^ +|`|-- )pairloom ([a-z]+) ", README, re.MULTILINE))
    assert verbs
    for verb in verbs:
        assert f"pairloom {verb} " in help_text, verb
