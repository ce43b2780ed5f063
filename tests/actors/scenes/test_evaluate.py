"""`python -m actors.scenes.evaluate`: the table, and the numbers behind it."""

import json
from pathlib import Path

import pytest

from actors.scenes.cards import result_rows, write_cards
from actors.scenes.evaluate import held_out_scenes, main, share, table
from actors.scenes.grammar import is_held_out


def test_share_is_a_mean_with_its_standard_error() -> None:
    value, error, count = share([1.0, 0.0, 1.0, 1.0])
    assert (value, count) == (0.75, 4)
    assert error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)


def test_scenes_are_held_out_and_depend_on_the_seed_alone() -> None:
    scenes, pictures = held_out_scenes(20, seed=1)
    again, pictures_again = held_out_scenes(20, seed=1)
    assert all(map(is_held_out, scenes))
    assert scenes == again
    assert (pictures == pictures_again).all()
    assert held_out_scenes(20, seed=2)[0] != scenes


def test_the_command_prints_a_table_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "results.json"
    main(
        ["--num-scenes", "8", "--num-loop-scenes", "4", "--num-steps", "4", "--json", str(target),
         "--only", "captions", "drawn", "round_trip", "loop"]
    )  # fmt: skip
    results = json.loads(target.read_text())
    assert set(results) == {"oracle", "captions", "drawn", "round_trip", "loop"}
    assert results["oracle"]["whole, clean renders"][0] == 1.0
    assert "all attributes after round 3" in results["loop"]
    assert all(len(row) == 3 for group in results.values() for row in group.values())
    assert "captions    whole" in capsys.readouterr().out


def test_table_and_cards_show_value_error_and_n(tmp_path: Path) -> None:
    results = {"drawn": {"whole": (0.5, 0.05, 100)}}
    assert "0.500 +- 0.050  (n 100)" in table(results)
    assert "| drawn: whole | 0.500 | 0.050 | 100 |" in result_rows(results, ("drawn",))
    assert result_rows({}, ("drawn",)) == "Not measured yet."
    (tmp_path / "weights").mkdir()
    for name in ("sdxl", "llava", "clip"):
        (tmp_path / "weights" / name).mkdir()
    (tmp_path / "weights" / "results.json").write_text(json.dumps(results))
    (tmp_path / "vae.done.json").write_text(json.dumps({"samples": 1234, "seconds": 60}))
    write_cards(tmp_path, tmp_path / "weights")
    card = (tmp_path / "weights" / "sdxl" / "README.md").read_text()
    assert "| vae | 1,234 | 60 |" in card
    assert "| drawn: whole | 0.500" in card
