"""The checks that task configs share: ValueError with the field, its value, and what to do.

Limits: single fields only; a rule between two fields is written where the config is.
"""

import difflib
import math
from collections.abc import Sequence
from typing import Final

# Shared by every config of a real engine.
DEVICES: Final = ("auto", "cpu", "cuda")
DTYPES: Final = ("auto", "float32", "bfloat16", "float16")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raises ValueError, with the nearest right value, unless `value` is one of `choices`."""
    if value not in choices:
        nearest = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.0)
        raise ValueError(
            f"field {name!r} is {value!r}: must be one of {', '.join(choices)}; "
            f"did you mean {nearest[0]!r}?"
        )


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raises ValueError unless `value` is a finite number in [low, high]."""
    if isinstance(value, bool) or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"field {name!r} is {value!r}: must be between {low} and {high}")
