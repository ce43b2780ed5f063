"""k8s/README.md is true: its paths, arguments and targets exist, its table is the plan's."""

import re

import pytest
from k8s_entry import DEVELOPMENT, DOCKERFILE, config_of
from k8s_render import K8S, OVERLAYS, ROOT

from pipelines.overview import make_outlook, make_plan

README = (K8S / "README.md").read_text()
ROWS = re.findall(r"^\| (\d+) \+ (\d+) \| ([\d.]+) \| (\d+) \| (\d+) \|$", README, re.MULTILINE)
NUM_SEEDS = 20_000


def test_the_table_has_rows() -> None:
    assert len(ROWS) == 5


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_sizing_table_is_what_the_plan_says(row: tuple[str, ...]) -> None:
    words = f" pools.generator.num_replicas={row[0]} pools.captioner.num_replicas={row[1]}"
    config = config_of(DEVELOPMENT + words)
    plan = make_plan(config, NUM_SEEDS)
    outlook = make_outlook(plan, config, ())
    assert outlook is not None
    assert plan.num_pairs == 100_000
    rate = outlook.expected.pairs_per_s
    said = (f"{rate:.3g}", str(round(rate * 86400)), str(round(outlook.gpu_hours)))
    assert said == row[2:]


def test_paths_arguments_and_targets_of_the_readme_exist() -> None:
    for path in re.findall(r"(?:-k|-f) (k8s/[\w./-]+)", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:base|components|conf|tests)/[\w./-]+)`", README):
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
