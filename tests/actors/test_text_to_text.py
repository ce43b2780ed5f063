import pytest

from actors.backends.simulated import SimulatedConfig
from actors.reasons import Reason
from actors.records import Row
from actors.text_to_text import TextToTextConfig, build_text_to_text


def _rows(*prompts: str) -> list[Row]:
    return [{"prompt": prompt, "rng_seed": i} for i, prompt in enumerate(prompts)]


def test_texts_belong_to_prompt_and_rng_seed() -> None:
    task = build_text_to_text(TextToTextConfig(backend="simulated"))
    rows = task(_rows("P", "P", "Q"))
    assert len({row["text"] for row in rows}) == 3
    assert [row["text"] for each in _rows("P", "P", "Q") for row in task([each])] == [
        row["text"] for row in rows
    ]
    assert all(row["write_s"] >= 0.0 for row in rows)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise", Reason.ENGINE_ERROR),
        ("wrong_count", Reason.WRONG_ROW_COUNT),
        ("empty", Reason.TEXT_EMPTY),
    ],
)
def test_a_faulty_row_fails_alone(fault: str, reason: Reason) -> None:
    simulated = SimulatedConfig(fault=fault, fault_marker="BAD")
    task = build_text_to_text(TextToTextConfig(backend="simulated", simulated=simulated))
    rows = task(_rows("a", "BAD", "c", " "))
    assert [row.get("error") is None for row in rows] == [True, False, True, False]
    assert rows[1]["error"].startswith(f"{reason}: ")
    assert rows[3]["error"] == "prompt_empty: nothing to answer"
