"""actors/phash.py against imagehash, and near duplicates."""

import imagehash
import numpy as np
import pytest
from PIL import Image

from actors.phash import phash
from actors.scenes.grammar import sample_scene
from actors.scenes.render import render


def _pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = rng.integers(8, 200, (40, 2))
    noise = [Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)) for h, w in sizes]
    scenes = [Image.fromarray(render(sample_scene(rng), rng)) for _ in range(40)]  # flat areas
    return scenes + noise + [one.resize((90, 64), Image.Resampling.BICUBIC) for one in noise]


def test_the_bits_are_those_of_imagehash() -> None:
    assert [phash(one) for one in _pictures()] == [str(imagehash.phash(one)) for one in _pictures()]


@pytest.mark.parametrize("quality", [95, 60])
def test_a_picture_that_was_saved_again_is_near(quality: int, tmp_path: object) -> None:
    import io

    for picture in _pictures()[80:90]:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        again = Image.open(buffer)
        distance = (int(phash(picture), 16) ^ int(phash(again), 16)).bit_count()
        assert distance <= 4
