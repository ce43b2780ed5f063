"""pipelines/gallery/meaning.py: what round took the seed's words, told so that one can check it."""

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.gallery.meaning import Verdict, content_words, judge, share_kept, worst

SEED = "a large red circle above a small blue square"


def rows(*texts: str, **more: Any) -> list[dict[str, Any]]:
    return [{"round_index": at, "text": text, **more} for at, text in enumerate(texts)]


def verdict(*texts: str, failed: dict[str, Any] | None = None, seed: str = SEED) -> Verdict:
    return judge(seed, rows(*texts), failed, kept_from=0.85, lost_below=0.5)


def test_content_words_are_folded_without_plural_and_function_words() -> None:
    assert content_words("This image shows: Two red CIRCLES, on the glass.") == [
        "two", "red", "circle", "glass",
    ]  # fmt: skip


def test_every_word_counts_as_often_as_the_seed_says_it() -> None:
    seed = Counter(content_words("red circle, red square"))
    assert share_kept(seed, Counter(content_words("red circle square"))) == 0.75
    assert share_kept(Counter(), Counter()) == 1.0


def test_a_chain_that_says_all_of_the_seed_has_kept_its_meaning() -> None:
    found = verdict(SEED, "a small blue square below a large red circle above")
    assert (found.status, found.turning, found.kept) == ("kept", None, [1.0, 1.0])
    assert "all 7 words" in found.why


def test_the_round_that_took_most_words_for_good_turned_the_chain() -> None:
    found = verdict(SEED, "a large green star above a small yellow cross", "a green star")
    assert (found.status, found.turning) == ("lost", 1)
    assert found.head == "Meaning lost in round 1"
    told = """Round 1: 4 of the seed's 7 words went for good, "red", "circle", "blue", "square"; """
    assert f'{told}"green", "star", "yellow", "cross" came' in found.why
    assert "The last description says 0 of 7 words of the seed" in found.why


def test_a_word_that_comes_back_was_not_lost() -> None:
    assert verdict("a circle", SEED).status == "kept"


def test_in_round_0_a_word_counts_half_for_there_a_captioner_rewords() -> None:
    found = verdict(
        "a large circle over a small blue square", "a large star over a small blue square"
    )
    assert (found.status, found.turning) == ("drifted", 1)
    words = """2 of the seed's 7 words went for good, "red", "above"; "over" came"""
    assert f"Round 0: {words}" in found.why
    assert verdict("a large circle above a small square").head == "Reworded or drifted in round 0"


def test_a_failure_says_where_and_why_and_what_was_left() -> None:
    failed = {"round_index": 1, "stage": "draw", "reason": "image_blank", "message": "one colour"}
    found = verdict(SEED, failed=failed)
    assert (found.status, found.turning, found.codes) == ("failed", 1, ["image_blank"])
    assert found.head == "Broke off in round 1 (draw)"
    assert found.why == "image_blank: one colour. Until then it said 7 of 7 words of the seed"


def test_a_seed_that_failed_has_no_text_to_judge() -> None:
    failed = {"round_index": 0, "stage": "seed", "reason": "seed_empty", "message": "nothing"}
    assert verdict(failed=failed, seed="").why == "seed_empty: nothing"


def test_what_is_known_of_the_turning_round_is_told() -> None:
    told = rows(SEED, "green star")
    told[0]["scores"] = {"clip_similarity": 0.31, "clip_similarity_description": 0.30}
    told[1] |= {
        "scores": {"clip_similarity": 0.20, "clip_similarity_description": 0.29},
        "is_cut": True,
        "is_text_cut": True,
        "flags": ["too_short"],
    }
    found = judge(SEED, told, None, kept_from=0.85, lost_below=0.5)
    assert found.codes == [
        "prompt_truncated", "description_cut", "shorter_text", "picture_off_prompt",
        "caption_too_short",
    ]  # fmt: skip
    fit = "the picture fits its prompt less well (clip similarity 0.20, 0.31 the round before)"
    assert fit in found.why
    assert "its description is flagged: too short" in found.why
    assert found.head == "Meaning lost in round 1: the picture left its prompt"
    assert "shrank from 9 words to 2" in found.why


def test_of_picture_and_description_the_head_names_the_one_that_went_wrong() -> None:
    told = rows(SEED, "green star")
    told[0]["scores"] = {"clip_similarity": 0.31, "clip_similarity_description": 0.30}
    told[1]["scores"] = {"clip_similarity": 0.31, "clip_similarity_description": 0.10}
    found = judge(SEED, told, None, kept_from=0.85, lost_below=0.5)
    assert found.head == "Meaning lost in round 1: the description left its picture"
    told[1]["scores"]["clip_similarity"] = 0.10  # both did
    found = judge(SEED, told, None, kept_from=0.85, lost_below=0.5)
    assert found.head == "Meaning lost in round 1"


def test_a_chain_that_a_rule_ended_says_so() -> None:
    told = rows(SEED, SEED)
    told[1]["stop"] = "converged"
    found = judge(SEED, told, None, kept_from=0.85, lost_below=0.5)
    assert (found.status, found.codes) == ("kept", ["stopped_converged"])
    assert found.why.endswith("The rule converged ended the chain after round 1")


def test_a_chain_that_began_anew_is_as_good_as_its_worst_stretch() -> None:
    fresh = "a green star"
    first = judge(SEED, rows(SEED, "nothing"), None, kept_from=0.85, lost_below=0.5)
    later = [{"round_index": 2, "text": fresh}, {"round_index": 3, "text": fresh}]
    second = judge(fresh, later, None, kept_from=0.85, lost_below=0.5)
    found = worst([first, second])
    assert (found.status, found.turning) == ("lost", 1)
    assert found.kept == [1.0, 0.0, 1.0, 1.0]
    assert found.why.endswith("It began anew once, with a fresh description")
    assert worst([second]) == second
    shorter = [{"round_index": 2, "text": "a large red circle above a small blue thing"}]
    reworded = judge(SEED, shorter, None, kept_from=0.99, lost_below=0.5)
    assert reworded.head == "Reworded or drifted in round 2"


def test_in_resample_each_round_stands_for_itself() -> None:
    told = rows("a green star", SEED)
    found = judge(SEED, told, None, kept_from=0.85, lost_below=0.5, is_loop=False)
    assert (found.status, found.turning, found.head) == ("lost", 0, "Meaning lost in round 0")
    assert "Round 0: 7 of the seed's 7 words are missing" in found.why


texts = st.text(alphabet="abc de", max_size=20)


@given(texts, st.lists(texts, min_size=1, max_size=4))
def test_a_verdict_agrees_with_its_own_shares(seed: str, told: list[str]) -> None:
    found = verdict(*told, seed=seed)
    assert len(found.kept) == len(told)
    assert all(0 <= share <= 1 for share in found.kept)
    assert (found.status == "kept") == (found.kept[-1] >= 0.85)
    assert (found.status == "lost") == (found.kept[-1] < 0.5)
    if found.status != "kept":
        assert found.turning is not None
        assert found.kept[found.turning] < 1
