"""pipelines/gallery/search.py: what is put in is found again, whatever the gaps."""

from hypothesis import given
from hypothesis import strategies as st
from slots import decode_slots

from pipelines.gallery.search import file_letter, index_words, words_of


@given(st.dictionaries(st.integers(0, 100_000), st.sets(st.sampled_from(["red", "rot", "blue"]))))
def test_every_chain_is_found_by_each_of_its_words_and_no_other(
    chains: dict[int, set[str]],
) -> None:
    files = index_words(sorted(chains.items()))
    for word in ("red", "rot", "blue"):
        expected = sorted(slot for slot, words in chains.items() if word in words)
        assert decode_slots(files.get(word[0], {}).get(word, "")) == expected


def test_words_are_folded_cut_and_without_what_every_caption_says() -> None:
    found = words_of(["The RED Gr\u00fc\u00dfe image", "x" * 40])
    assert found == {"red", "gr\u00fcsse", "x" * 24}


def test_a_word_lies_in_the_file_of_its_first_letter() -> None:
    assert [file_letter(word) for word in ("red", "7up", "\u00e9t\u00e9")] == ["r", "7", "_"]
