"""pipelines/lineage/compare.py: what differs between two pictures, and two texts."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from actors.images import encode_image
from pipelines.lineage.compare import compare_images, compare_texts


def _png(pixels: np.ndarray, effort: int = 0) -> bytes:
    return encode_image(Image.fromarray(pixels), "png", effort=effort).data


def _noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, (8, 8, 3), dtype=np.uint8)


def test_equal_pixels_in_other_bytes_are_the_same_picture() -> None:
    found = compare_images(_png(_noise()), _png(_noise(), effort=9))
    assert not found.is_same_bytes
    assert found.is_same_picture


def test_one_pixel_counts_in_all_three_numbers() -> None:
    pixels = _noise()
    other = pixels.copy()
    other[3, 4, 1] += 5
    found = compare_images(_png(pixels), _png(other))
    assert not found.is_same_picture
    assert found.max_difference == 5
    assert found.mean_difference == 5 / 192
    assert found.share_of_pixels == 1 / 64


def test_pictures_of_two_sizes_are_not_subtracted() -> None:
    found = compare_images(_png(_noise()), _png(_noise()[:4]))
    assert (found.is_same_size, found.is_same_picture) == (False, False)


def test_words_that_came_and_went_are_marked() -> None:
    found = compare_texts("a small red star on navy", "a large red star on a navy")
    assert found.marked == "a [-small-] {+large+} red star on {+a+} navy"


_words = st.lists(st.sampled_from(["red", "blue", "star", "on"])).map(" ".join)


@given(_words, _words)
def test_nothing_is_marked_exactly_where_the_words_are_equal(before: str, after: str) -> None:
    found = compare_texts(before, after)
    assert found.is_same == (before == after) == (found.marked == before)
