"""The rules that look at one pair alone: columns in, one bit a rule and row out.

Pure: a table of columns in, an array out. Rules that compare pairs are `duplicates.py`.

Limits: a not-a-number counts as no value. Words are what white space separates, so a language
written without it has one word a sentence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.caption_hygiene import FLAGS
from pipelines.filters.config import FilterConfig

# pyarrow makes its compute functions at import.
_compute: Any = pc

Flags = np.ndarray[Any, np.dtype[np.bool_]]
Masks = np.ndarray[Any, np.dtype[np.uint64]]

EXACT, NEAR_IN_CHAIN, NEAR = "duplicate_image", "near_duplicate_in_chain", "near_duplicate"
SIMILAR_IN_CHAIN, SIMILAR = "similar_image_in_chain", "similar_image"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One reason to drop a pair. `fails` is None where pairs must be compared, or a value lacks."""

    name: str
    column: str
    fails: Callable[[pa.ChunkedArray], Flags] | None = None
    is_unknown: bool = False  # whether it stands for pairs that have no value in the column


def rules_of(config: FilterConfig) -> list[Rule]:
    """The rules that a config asks for, in their order; a `no_<column>` before those it is for."""
    rules: list[Rule] = []
    if config.rounds is not None:
        kept = pa.array(config.rounds, pa.int32())
        rules.append(_rule("round", "round_index", lambda of: ~_is_in(of, kept)))
    if not config.keeps_truncated_prompts:
        rules.append(_rule("prompt_truncated", "is_prompt_truncated", _is_true))
    if not config.keeps_cut_descriptions:
        cut = pa.array(["length"])
        rules.append(_rule("description_cut", "finish_reason", lambda of: _is_in(of, cut)))
    least, most = config.words.min, config.words.max
    if least is not None:
        rules.append(_rule("too_few_words", "description", lambda of: _words(of) < least))
    if most is not None:
        rules.append(_rule("too_many_words", "description", lambda of: _words(of) > most))
    for flag in [one for one in FLAGS if one in config.forbidden_flags]:
        rules.append(_rule(f"caption_{flag}", "caption_flags", _has_flag(flag)))
    for name, bounds in config.bounds():
        if bounds.min is not None:
            rules.append(_rule(f"{name}_low", name, _below(bounds.min)))
        if bounds.max is not None:
            rules.append(_rule(f"{name}_high", name, _above(bounds.max)))
    if config.duplicate_images != "keep":
        rules.append(Rule(name=EXACT, column="image_sha256"))
    if config.near_distance_in_chain is not None:
        rules.append(Rule(name=NEAR_IN_CHAIN, column="phash"))
    if config.near_distance is not None:
        rules.append(Rule(name=NEAR, column="phash"))
    if config.near_similarity_in_chain is not None:
        rules.append(Rule(name=SIMILAR_IN_CHAIN, column="image_embedding"))
    if config.near_similarity is not None:
        rules.append(Rule(name=SIMILAR, column="image_embedding"))
    return _with_unknown(rules, config)


def judge_rows(table: pa.Table, rules: Sequence[Rule]) -> Masks:
    """A bit for every rule, by its place, that a row fails; rules that compare pairs fail none."""
    masks = np.zeros(table.num_rows, np.uint64)
    for place, rule in enumerate(rules):
        column = table.column(rule.column)
        if rule.is_unknown:
            fails = ~has_value(column)
        elif rule.fails is not None:
            fails = rule.fails(column) & has_value(column)
        else:
            continue
        masks |= fails.astype(np.uint64) << np.uint64(place)
    return masks


def has_value(column: pa.ChunkedArray) -> Flags:
    """Which rows hold a value that can be judged."""
    if pa.types.is_null(column.type):
        return np.zeros(len(column), np.bool_)
    return ~_flags(_compute.is_null(column, nan_is_null=True))


def _with_unknown(rules: list[Rule], config: FilterConfig) -> list[Rule]:
    found: list[Rule] = []
    for rule in rules:
        if config.lets_unknown_pass(rule.column):
            found.append(rule)
            continue
        unknown = replace(rule, name=f"no_{rule.column}", fails=None, is_unknown=True)
        is_first = all(unknown.name != one.name for one in found)
        found += [unknown, rule] if is_first else [rule]
    return found


def _rule(name: str, column: str, fails: Callable[[pa.ChunkedArray], Flags]) -> Rule:
    return Rule(name=name, column=column, fails=fails)


def _below(least: float) -> Callable[[pa.ChunkedArray], Flags]:
    return lambda column: numbers(column) < least


def _above(most: float) -> Callable[[pa.ChunkedArray], Flags]:
    return lambda column: numbers(column) > most


def numbers(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The column as float64, with a not-a-number for null; a float32 keeps its decimal digits."""
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    found = np.asarray(column.to_numpy(zero_copy_only=False))
    if found.dtype != np.float32:
        return found.astype(np.float64)
    # A score of .3 stored as float32 is .30000001: against a bound of .3 it must be equal.
    with np.errstate(invalid="ignore"):
        return np.round(found.astype(np.float64), 6)


def _words(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.int64]]:
    texts: list[str | None] = column.to_pylist()
    return np.fromiter((len((text or "").split()) for text in texts), np.int64, len(texts))


def _has_flag(flag: str) -> Callable[[pa.ChunkedArray], Flags]:
    def fails(column: pa.ChunkedArray) -> Flags:
        rows: list[list[str] | None] = column.to_pylist()
        return np.fromiter((flag in (row or ()) for row in rows), np.bool_, len(rows))

    return fails


def _is_in(column: pa.ChunkedArray, values: pa.Array) -> Flags:
    return _flags(_compute.is_in(column, value_set=values))


def _is_true(column: pa.ChunkedArray) -> Flags:
    if pa.types.is_null(column.type):
        return np.zeros(len(column), np.bool_)
    return _flags(_compute.fill_null(column, False))


def _flags(column: Any) -> Flags:
    return np.asarray(column.to_numpy(zero_copy_only=False), np.bool_)
