"""pipelines/inject.py: who begins anew and with what; and what a resume, a rival, a replay and the
verifier make of it, without Ray."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corrupt import put_table
from grown_here import grow_here
from hypothesis import given
from hypothesis import strategies as st
from run_fixtures import make_config, seed_file
from runs import MakeConfig
from runs import read_pairs as pairs_of_run
from scored_loop import NUM_ROUNDS, Loop, make_starts, read_pairs

from actors.records import Row
from cluster.errors import RunMismatchError
from cluster.ledger import Ledger
from cluster.storage import open_store
from pipelines.attempt import prepare
from pipelines.drift import StopConfig
from pipelines.inject import Fresh, InjectConfig, choose
from pipelines.lineage import describe_chain, find_chain
from pipelines.overview import describe_plan, make_plan
from pipelines.publish import PublishConfig, publish
from pipelines.replay import claim_replays
from pipelines.units import slice_units
from pipelines.verify import Report, verify_run

__all__ = ["make_config", "seed_file"]

STARTS = make_starts(60)
(UNIT,) = slice_units(STARTS, 60)
TEXTS = pa.array([f"fresh {i}" for i in range(40)])
FRESH = Fresh(config=InjectConfig(share=0.4), run_seed=7, num_rounds=NUM_ROUNDS, texts=TEXTS)
STOP = StopConfig(drifted_image_below=0.0)


@given(st.integers(0, 2**63 - 1), st.floats(0.0, 1.0), st.integers(1, 4))
def test_the_share_of_rounds_that_begin_anew_is_that_of_the_config(
    run_seed: int, share: float, from_round: int
) -> None:
    config = InjectConfig(share=share, from_round=from_round)
    places = [choose(config, 7, run_seed, f"{i:020x}", r) for i in range(200) for r in range(6)]
    of_round = [places[r::6] for r in range(6)]
    assert all(place is None for r in range(from_round) for place in of_round[r])
    num_asked = 200 * (6 - from_round)
    num_anew = sum(place is not None for place in places)
    # Six standard deviations of a binomial, and one for the tails of the smallest shares.
    assert abs(num_anew - share * num_asked) <= 6 * (share * (1 - share) * num_asked) ** 0.5 + 1


@given(st.integers(0, 2**63 - 1), st.permutations(range(20)), st.integers(2, 9))
def test_what_a_round_begins_with_depends_on_nothing_but_seed_chain_and_round(
    run_seed: int, order: list[int], num_rounds: int
) -> None:
    short = replace(FRESH, run_seed=run_seed, num_rounds=num_rounds)
    whole = replace(short, num_rounds=9)
    names = [f"{i:020x}" for i in range(20)]
    expected = {name: whole.of_chain(name)[:num_rounds] for name in names}
    assert {names[i]: short.of_chain(names[i]) for i in order} == expected


def test_every_text_is_taken_about_as_often_as_any_other() -> None:
    config = InjectConfig(share=0.25)
    counts = Counter(choose(config, 10, 3, f"{i:020x}", 1) for i in range(20_000))
    del counts[None]
    assert counts.keys() == set(range(10))
    assert all(abs(number - 500) < 6 * 500**0.5 for number in counts.values())


def test_a_share_that_is_none_is_refused() -> None:
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"inject\.share"):
            InjectConfig(share=share)
    with pytest.raises(ValueError, match=r"inject\.from_round"):
        InjectConfig(from_round=0)
    with pytest.raises(ValueError, match=r"inject\.path"):
        InjectConfig(path="fresh.doc")


def _ledger(folder: Path) -> Ledger:
    return Ledger(open_store(str(folder)), "f" * 16)


def _loop(ledger: Ledger, **more: Any) -> Loop:
    return Loop(ledger, stop=STOP, fresh=FRESH, **more)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Row]:
    ledger = _ledger(tmp_path_factory.mktemp("undisturbed"))
    loop = _loop(ledger)
    loop.grow(loop.start(UNIT, STARTS), range(NUM_ROUNDS))
    return read_pairs(ledger)


def test_a_round_that_begins_anew_is_a_round_0_once_more(
    undisturbed: dict[tuple[str, int], Row],
) -> None:
    num_anew = 0
    for (chain_id, r), pair in undisturbed.items():
        text = FRESH.of_chain(chain_id)[r]
        before = undisturbed.get((chain_id, r - 1))
        if before is None:
            assert (r, pair["prompt"], pair["parent_id"]) == (0, pair["seed"], None)
        elif text is None:
            assert (pair["prompt"], pair["seed"]) == (before["description"], before["seed"])
            assert pair["parent_id"] == before["pair_id"]
            assert pair["image_similarity_previous"] is not None
        else:
            num_anew += 1
            assert (pair["prompt"], pair["seed"], pair["parent_id"]) == (text, text, None)
            assert pair["image_similarity_first"] == pair["text_similarity_first"] == 1.0
            assert pair["image_similarity_previous"] is pair["text_similarity_previous"] is None
    assert num_anew >= 8
    # The rule asks a chain in its second round since, and never in the one that it begins with.
    stopped = [pair for pair in undisturbed.values() if pair["stop_reason"]]
    assert all(pair["parent_id"] is not None for pair in stopped)
    assert any(pair["seed"] in TEXTS.to_pylist() for pair in stopped)


@pytest.mark.parametrize("cut", range(1, NUM_ROUNDS))
def test_a_resume_begins_the_same_rounds_anew(
    cut: int, undisturbed: dict[tuple[str, int], Row], tmp_path: Path
) -> None:
    ledger = _ledger(tmp_path)
    first, second = _loop(ledger), _loop(ledger)
    first.grow(first.start(UNIT, STARTS), range(cut))
    due = replace(UNIT, next_round=cut)
    second.grow(second.start(due, STARTS), range(cut, NUM_ROUNDS))
    assert read_pairs(ledger) == undisturbed


def test_who_loses_a_commit_goes_on_from_the_winner_s_beginning(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    winner, loser = _loop(ledger), _loop(ledger, marker=" other words")
    ours = winner.grow(winner.start(UNIT, STARTS), range(2))
    theirs = loser.grow(loser.start(UNIT, STARTS), range(2))
    names = ("prompt", "seed", "parent_id", "past", "fresh", "is_stopped")
    assert [[row[n] for n in names] for row in theirs] == [[row[n] for n in names] for row in ours]
    anew = [row for row in ours if row["fresh"][1] is not None and not row["is_stopped"]]
    assert anew
    assert all(len(row["past"]) == 1 and row["seed"] == row["fresh"][1] for row in anew)


def _round_of(row: Row) -> int:
    if row["parent_id"] is not None:
        return int(row["parent_id"][-3:]) + 1
    return next((r for r, text in enumerate(row["fresh"]) if text == row["prompt"]), 0)


@pytest.mark.parametrize("failed_round", [1, 2])
def test_a_replay_begins_the_same_rounds_anew(
    failed_round: int, undisturbed: dict[tuple[str, int], Row], tmp_path: Path
) -> None:
    ledger = _ledger(tmp_path)
    alive = {chain for chain, r in undisturbed if r == failed_round}
    loop = _loop(
        ledger, fails=lambda row: row["chain_id"] in alive and _round_of(row) == failed_round
    )
    loop.grow(loop.start(UNIT, STARTS), range(NUM_ROUNDS))
    replays = claim_replays(ledger, (), NUM_ROUNDS, offset=0)
    assert {row["chain_id"] for row in replays.starts.to_pylist()} == alive
    again = _loop(ledger)
    for unit in replays.units:
        again.grow(again.start(unit, replays.starts), range(unit.next_round, NUM_ROUNDS))
    found = read_pairs(ledger)
    expected = {key: pair | {"unit_id": found[key]["unit_id"]} for key, pair in undisturbed.items()}
    assert found == expected


# Whole runs, committed by the stages, read by the verifier.


def _grow(make: MakeConfig, folder: Path, *words: str) -> str:
    fresh = folder / "fresh.txt"
    fresh.write_text("".join(f"a fresh scene {i}\n" for i in range(30)) + "\n")
    config = make(
        "unit_size=64", "num_rounds=4", "inject.share=0.5", f"inject.path={fresh}", *words
    )
    grow_here(config)
    return config.output


def _kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


@pytest.mark.parametrize("words", [(), ("inject.path=null",)])
def test_a_run_with_fresh_descriptions_is_sound(
    make_config: MakeConfig, tmp_path: Path, words: tuple[str, ...]
) -> None:
    output = _grow(make_config, tmp_path, *words)
    assert verify_run(output).findings == []
    anew = [row for row in pairs_of_run(output) if row["round_index"] and not row["parent_id"]]
    assert 5 <= len(anew) <= 25
    key = "seeds" if words else "fresh"
    table = pq.read_table(f"{output}/seeds/{key}.parquet").to_pylist()
    assert {row["prompt"] for row in anew} <= {row["seed"] for row in table if not row["error"]}
    assert (Path(output) / "seeds/fresh.parquet").exists() == (not words)


def test_readers_say_where_a_chain_began_anew(make_config: MakeConfig, tmp_path: Path) -> None:
    output = _grow(make_config, tmp_path)
    row = next(row for row in pairs_of_run(output) if _is_anew(row))
    shown = describe_chain(find_chain(output, row["pair_id"]))
    assert "parent       a fresh description" in shown
    assert "parent       the seed" in shown
    dest = tmp_path / "dataset"
    publish(output, str(dest), PublishConfig(licence="cc0-1.0"))
    card = (dest / "README.md").read_text()
    assert "About 50% of the rounds from 1 on, chosen by chance, began anew" in card
    assert "| fresh description | a fresh scene" in card
    calm = make_config("unit_size=64", output="calm")
    grow_here(calm)
    publish(calm.output, str(tmp_path / "other"), PublishConfig(licence="cc0-1.0"))
    calm_card = (tmp_path / "other" / "README.md").read_text()
    assert "began anew" not in calm_card.partition("## Columns")[0]


def _rewrite(output: str, change: Callable[[Row], None]) -> None:
    """Changes pairs, with the receipts to match."""
    for at in Path(output).glob("receipts/*/*.json"):
        receipt = json.loads(at.read_text())
        file = Path(output) / receipt["data"]["file"]
        rows = pq.read_table(file, partitioning=None).to_pylist()
        for row in rows:
            change(row)
        file.unlink()
        receipt["data"] = put_table(
            Path(output), "data", receipt["unit_id"], receipt["round_index"], rows
        )
        at.write_text(json.dumps(receipt))


def _is_anew(row: Row) -> bool:
    return row["round_index"] > 0 and row["parent_id"] is None


def _other_words(row: Row) -> None:
    if _is_anew(row):
        row["prompt"] = "not a text of the table"


def _other_words_as_seed(row: Row) -> None:
    if row["seed"].startswith("a fresh"):
        is_first = _is_anew(row)
        row["seed"] = "a fresh scene that the table has not"
        row["prompt"] = row["seed"] if is_first else row["prompt"]


def _another_of_the_table(row: Row) -> None:
    if row["seed"].startswith("a fresh"):
        is_first = _is_anew(row)
        row["seed"] = f"a fresh scene {(int(row['seed'].split()[-1]) + 1) % 30}"
        row["prompt"] = row["seed"] if is_first else row["prompt"]


def _hidden(row: Row) -> None:
    if _is_anew(row):
        row["parent_id"] = f"{row['chain_id']}-{row['round_index'] - 1:03d}"


def _out_of_turn(row: Row) -> None:
    if row["round_index"] == 3 and row["parent_id"]:
        row |= {"parent_id": None, "prompt": "a fresh scene 1", "seed": "a fresh scene 1"}


@pytest.mark.parametrize(
    "forge", [_other_words, _other_words_as_seed, _another_of_the_table, _hidden, _out_of_turn]
)
def test_a_forged_beginning_is_found(
    make_config: MakeConfig, tmp_path: Path, forge: Callable[[Row], None]
) -> None:
    output = _grow(make_config, tmp_path)
    _rewrite(output, lambda row: None)
    assert verify_run(output).findings == [], "a file written anew, with nothing changed"
    _rewrite(output, forge)
    report = verify_run(output)
    assert _kinds(report) == {"lineage"}
    assert report.damaged_units


def test_a_table_of_fresh_descriptions_that_is_gone_or_changed_is_found(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    output = _grow(make_config, tmp_path)
    path = Path(output) / "seeds/fresh.parquet"
    rows = pq.read_table(path)
    changed = rows.to_pylist()
    changed[3]["seed"] = "other words"
    pq.write_table(pa.Table.from_pylist(changed, schema=rows.schema), path)
    for sentence in ("started with", "gone"):
        (finding,) = verify_run(output).findings
        assert (finding.kind, finding.file) == ("seeds", "seeds/fresh.parquet")
        assert sentence in finding.sentence
        path.unlink(missing_ok=True)


def test_a_run_goes_on_with_its_own_fresh_descriptions_only(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    _grow(make_config, tmp_path)
    words = ("unit_size=64", "num_rounds=4", f"inject.path={tmp_path / 'fresh.txt'}")
    assert prepare(make_config(*words, "inject.share=0.5")).fresh is not None
    with pytest.raises(RunMismatchError, match=r"inject\.share: 0\.5 -> 0\.4"):
        prepare(make_config(*words, "inject.share=0.4"))
    with pytest.raises(RunMismatchError, match=r"inject"):
        prepare(make_config(*words))
    (tmp_path / "fresh.txt").write_text("another scene\n")
    with pytest.raises(RunMismatchError, match=r"inject\.fresh"):
        prepare(make_config(*words, "inject.share=0.5"))


def test_the_plan_names_the_fresh_descriptions(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "fresh.txt").write_text("one scene\n\nanother scene\n")
    config = make_config("inject.share=0.25", f"inject.path={tmp_path / 'fresh.txt'}")
    assert "25% of the rounds from 1 on begin anew with one of 2 fresh descriptions" in (
        describe_plan(make_plan(config), config, None)
    )


def test_what_cannot_be_injected_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'inject' is in use, and 'mode' is 'resample'"):
        make_config("inject.share=0.1", "mode=resample")
    with pytest.raises(ValueError, match=r"inject\.from_round"):
        make_config("inject.share=0.1", "inject.from_round=3", "num_rounds=3")
    with pytest.raises(ValueError, match=r"inject\.path.*cannot be read"):
        prepare(make_config("inject.share=0.1", f"inject.path={tmp_path / 'none.txt'}"))
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=r"inject\.path.*none of its descriptions"):
        prepare(make_config("inject.share=0.1", f"inject.path={tmp_path / 'blank.txt'}"))
