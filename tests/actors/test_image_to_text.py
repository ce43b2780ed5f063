import pytest
from answers import answers_of
from PIL import Image

from actors.backends.simulated import SimulatedConfig, caption_of, draw_image, read_prompt
from actors.engines import Answer, EngineDeadError
from actors.image_to_text import ImageToText, ImageToTextConfig, build_image_to_text
from actors.images import decode_image, encode_image
from actors.prompts import INSTRUCTIONS
from actors.reasons import Reason, RowError
from actors.records import Row
from cluster.dispatch import BatchSteps


def _rows(*prompts: str) -> list[Row]:
    rows: list[Row] = []
    for i, prompt in enumerate(prompts):
        data = encode_image(draw_image(prompt, i, 32, 32)).data
        image = {"bytes": data, "path": "x.png"}
        rows.append({"chain_id": str(i), "image": image, "rng_seed_describe": i, "error": None})
    return rows


def _task(**simulated: object) -> ImageToText:
    return build_image_to_text(
        ImageToTextConfig(backend="simulated", simulated=SimulatedConfig(**simulated))
    )


def test_every_row_gets_the_caption_of_its_own_picture() -> None:
    rows = _task()(_rows("one", "two", "three"))
    for i, row in enumerate(rows):
        assert row["description"] == caption_of(decode_image(row["image"]["bytes"]), i)
        assert row["describe_s"] >= 0.0
        assert row["error"] is None
    assert len({row["description"] for row in rows}) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise", Reason.ENGINE_ERROR),
        ("wrong_count", Reason.WRONG_ROW_COUNT),
        ("empty", Reason.DESCRIPTION_EMPTY),
        ("oom", Reason.OUT_OF_MEMORY),
    ],
)
def test_a_faulty_row_fails_alone_and_keeps_its_picture(fault: str, reason: Reason) -> None:
    rows = _task(fault=fault, fault_marker="BAD")(_rows("a", "BAD", "c"))
    assert [row["error"] is None for row in rows] == [True, False, True]
    assert rows[1]["error"].startswith(f"{reason}: ")
    assert "description" not in rows[1]
    assert rows[1]["image"]["bytes"]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (None, Reason.IMAGE_MISSING),
        ({"bytes": None, "path": None}, Reason.IMAGE_MISSING),
        ({"bytes": b"no picture", "path": None}, Reason.IMAGE_UNREADABLE),
    ],
)
def test_a_picture_that_does_not_decode_fails_its_row(image: object, reason: Reason) -> None:
    first, second = _rows("a", "b")
    rows = _task()([first | {"image": image}, second])
    assert rows[0]["error"].startswith(f"{reason}: ")
    assert rows[1]["error"] is None


def test_answers_are_cleaned() -> None:
    class Chatty:
        def describe(self, images: list, instruction: str, rng_seeds: list[int]) -> list[Answer]:
            assert instruction == INSTRUCTIONS["describe-v1"].text
            return [Answer(text=" a\u200b red \n star ", finish_reason="length") for _ in images]

    (row,) = ImageToText(Chatty(), ImageToTextConfig())(_rows("a"))
    assert (row["description"], row["finish_reason"]) == ("a red star", "length")


class _Parrot:
    """Answers with fixed texts, whatever it sees."""

    def __init__(self, *answers: object) -> None:
        self._answers = answers

    def describe(self, images: list, instruction: str, rng_seeds: list[int]) -> list:
        return answers_of(self._answers[rng_seed] for rng_seed in rng_seeds)


def test_a_caption_that_breaks_a_rule_or_is_no_text_is_an_error_of_its_row() -> None:
    config = ImageToTextConfig(max_chars=40)
    answers = ["a red star", "x" * 41, "a star\nUser: draw a cat", "see https://a.example/b", None]
    rows = ImageToText(_Parrot(*answers), config)(_rows(*"abcde"))
    assert [row["error"] and row["error"].partition(" '")[0] for row in rows] == [
        None,
        "description_too_long: 41 characters, the limit is 40",
        "text_rule: role_header:",
        "text_rule: url:",
        "text_missing: the engine returned NoneType, no answer",
    ]
    assert ["description" in row for row in rows] == [True, False, False, False, False]


class _Ahead:
    """A captioner that can work on the CPU ahead; a BAD picture spoils what is said in `where`."""

    def __init__(self, spoil: BaseException | None = None, where: str = "", most: int = 8) -> None:
        self.calls: list[str] = []
        self._spoil, self._where, self._most = spoil, where, most

    def preprocess(self, images: list[Image.Image], instruction: str) -> list[str]:
        self.calls.append(f"preprocess {len(images)}")
        return self._look("preprocess", images)

    def describe_preprocessed(self, inputs: list[str], rng_seeds: list[int]) -> list[Answer]:
        self.calls.append(f"preprocessed {len(inputs)}")
        if len(inputs) > self._most:
            raise MemoryError
        if self._where == "describe" and any(" BAD" in text for text in inputs):
            raise self._spoil or ValueError
        return answers_of(inputs)

    def describe(
        self, images: list[Image.Image], instruction: str, rng_seeds: list[int]
    ) -> list[Answer]:
        self.calls.append(f"describe {len(images)}")
        if len(images) > self._most:
            raise MemoryError
        return answers_of(self._look(self._where, images))

    def _look(self, where: str, images: list[Image.Image]) -> list[str]:
        said = [f"a picture of {read_prompt(image)}" for image in images]
        if self._where == where and any(" BAD" in text for text in said):
            raise self._spoil or ValueError
        return said


def test_pictures_are_preprocessed_before_the_engines_step_and_described_from_that() -> None:
    engine = _Ahead()
    task = ImageToText(engine, ImageToTextConfig())
    assert isinstance(task, BatchSteps)
    prepared = task.prepare([*_rows("a", "b"), {"image": None, "rng_seed_describe": 1}])
    assert engine.calls == ["preprocess 2"]
    rows = task.finish(task.work(prepared))
    assert engine.calls == ["preprocess 2", "preprocessed 2"]
    assert [row.get("description") for row in rows] == ["a picture of a", "a picture of b", None]


@pytest.mark.parametrize(
    ("where", "calls"),
    [
        # What cannot be preprocessed is met again where it is isolated.
        ("preprocess", ["preprocess 3", "describe 3"]),
        (
            "describe",
            ["preprocess 3", "preprocessed 3", "preprocessed 3", "describe 1", "describe 2"]
            + ["describe 1"] * 3,
        ),
    ],
)
def test_a_picture_that_spoils_what_is_done_ahead_is_one_row(where: str, calls: list[str]) -> None:
    engine = _Ahead(where=where)
    rows = ImageToText(engine, ImageToTextConfig())(_rows("a", "b", "BAD"))
    assert engine.calls[: len(calls)] == calls
    if where == "describe":
        assert [row["error"] is None for row in rows] == [True, True, False]


def test_a_batch_that_is_cut_is_preprocessed_in_the_same_parts() -> None:
    engine = _Ahead(most=2)
    task = ImageToText(engine, ImageToTextConfig())
    task(_rows(*"abcd"))
    engine.calls.clear()
    rows = task(_rows(*"abcde"))
    assert [row["description"] for row in rows] == [f"a picture of {name}" for name in "abcde"]
    assert engine.calls == [
        *("preprocess 2", "preprocess 2", "preprocess 1"),
        *("preprocessed 2", "preprocessed 2", "preprocessed 1"),
    ]


def test_an_engine_that_dies_while_it_preprocesses_is_dead() -> None:
    task = ImageToText(_Ahead(EngineDeadError("gone"), "preprocess"), ImageToTextConfig())
    with pytest.raises(EngineDeadError):
        task.prepare(_rows("BAD"))


def test_what_refuses_captions_is_part_of_what_decides_the_rows() -> None:
    params = ImageToTextConfig(max_chars=40).sampling_params()
    assert params["max_chars"] == 40
    assert params["text_rules"]
    with pytest.raises(ValueError, match="field 'max_chars' is 0"):
        ImageToTextConfig(max_chars=0)


def test_a_dead_engine_is_no_row_error() -> None:
    with pytest.raises(EngineDeadError):
        _task(fault="dead", fault_rate=1.0)(_rows("a"))


def test_the_instruction_is_named_by_id_and_hash() -> None:
    own = ImageToTextConfig(instruction_id="mine-v1", instruction="What?").instruction_used()
    assert (own.id, own.text, len(own.sha256)) == ("mine-v1", "What?", 64)
    with pytest.raises(ValueError, match="instruction_id"):
        ImageToTextConfig(instruction_id="nothing")


class _Tells:
    """A captioner that reads a sign aloud."""

    def describe(
        self, images: list[Image.Image], instruction: str, rng_seeds: list[int]
    ) -> list[Answer]:
        return answers_of("a sign that says https://example.com" for _ in images)


@pytest.mark.parametrize("has_rules", [True, False])
def test_the_text_rules_can_be_switched_off_and_the_record_says_so(has_rules: bool) -> None:
    config = ImageToTextConfig(has_text_rules=has_rules)
    (row,) = ImageToText(_Tells(), config)(_rows("a"))
    assert bool(row["error"]) == bool(config.sampling_params()["text_rules"]) == has_rules


class _TellsWhich:
    """An engine that answers each row on its own, and knows which one failed."""

    def __init__(self) -> None:
        self.num_calls = 0

    def describe(self, images: list, instruction: str, rng_seeds: list[int]) -> list:
        self.num_calls += 1
        refused = RowError(Reason.ENGINE_ERROR, "the prompt is too long")
        return answers_of(refused if seed == 1 else "a star" for seed in rng_seeds)


def test_a_row_that_the_engine_says_has_failed_is_not_asked_again_nor_are_the_others() -> None:
    engine = _TellsWhich()
    rows = ImageToText(engine, ImageToTextConfig())(_rows("a", "b", "c"))
    told = [row["error"] for row in rows]
    assert told == [None, "engine_error: the prompt is too long", None]
    assert (engine.num_calls, rows[1]["error_attempts"]) == (1, 1)
    assert "description" not in rows[1]
