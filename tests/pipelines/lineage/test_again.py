"""pipelines/lineage/again.py: a pair made again from its record, with the embedded models."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from grown_here import grow_here

from cluster import config as config_files
from pipelines import cli
from pipelines.lineage import describe_again, replay_pair
from pipelines.synergy import SynergyConfig

ROOT = Path(__file__).parents[3]
SEEDS = (
    "a small red star at the top left on a grey background",
    "a large blue circle at the bottom right on a white background",
)
WORDS = ("num_rounds=2", "generator.num_steps=4", "captioner.temperature=0.7")
Grow = Callable[..., tuple[str, list[str]]]


@pytest.fixture(scope="module")
def grow(tmp_path_factory: pytest.TempPathFactory) -> Grow:
    def call(*words: str) -> tuple[str, list[str]]:
        folder = tmp_path_factory.mktemp("grown")
        seeds = folder / "seeds.txt"
        seeds.write_text("".join(f"{seed}\n" for seed in SEEDS))
        output = str(folder / "run")
        words = (f"output={output}", f"seeds.path={seeds}", *WORDS, *words)
        config = config_files.load(SynergyConfig, str(ROOT / "conf/synergy.yaml"), words)
        return output, grow_here(config)

    return call


@pytest.fixture(scope="module")
def run(grow: Grow) -> tuple[str, list[str]]:
    return grow()


def test_a_pair_is_made_again_within_the_noise_of_its_batch(run: tuple[str, list[str]]) -> None:
    output, (first, _) = run
    again = replay_pair(output, f"{first}-001")
    assert again.models == again.rng_seeds == again.problems == []
    assert again.image is not None
    assert again.image.max_difference is not None
    assert again.image.max_difference <= 2
    assert again.description is not None
    assert again.description.is_same, "its rng_seed decides, whatever the batch"


def test_another_number_of_steps_is_told_and_seen(run: tuple[str, list[str]]) -> None:
    output, (first, _) = run
    again = replay_pair(output, f"{first}-000", ["generator.num_steps=1"])
    assert again.models == ["generator.num_steps: 4 -> 1"]
    assert again.image is not None
    assert not again.image.is_same_picture
    assert not again.is_same
    assert again.description is not None
    assert again.description.is_same, "the captioner is asked of the picture on record"
    assert again.description_again is not None
    assert "more than another batch size does" in describe_again(again)


@pytest.fixture(scope="module")
def simulated(grow: Grow) -> tuple[str, list[str]]:
    return grow("generator.backend=simulated", "captioner.backend=simulated")


def test_the_command_says_the_same_and_ends_with_0(
    simulated: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    output, (_, second) = simulated
    assert cli.main(["replay", output, "--json", f"{second}-001"]) == 0
    out = capsys.readouterr().out
    assert "the same, made again" in out
    assert json.loads(out.splitlines()[-1])["image"]["is_same_bytes"]


def test_what_fails_now_is_told_and_ends_with_3(
    simulated: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    output, (_, second) = simulated
    word = "captioner.max_chars=3"
    assert cli.main(["replay", output, f"{second}-001", word]) == 3
    out = capsys.readouterr().out
    assert "not the same" in out
    assert "description_too_long" in out


def test_a_run_of_another_seed_is_not_taken_for_this_one(simulated: tuple[str, list[str]]) -> None:
    output, (first, _) = simulated
    path = Path(output) / "run.json"
    before = path.read_text()
    run = json.loads(before)
    run["record"]["run_seed"] = 99
    path.write_text(json.dumps(run))
    again = replay_pair(output, f"{first}-000")
    path.write_text(before)
    assert len(again.rng_seeds) == 2
    assert not again.is_same
