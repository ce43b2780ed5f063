"""Every committed pair of a run, judged by a filter's rules: kept, or dropped for these reasons.

A (chain, round) that lies in several commits counts once, with the commit of the highest replay.
Decisions depend on the pairs alone, not on the order in which they were committed or are read.

Limits: about 150 bytes a pair in memory, with scores 200; texts are let go of file by file. Where
vectors are compared, all of them are in memory twice: 6 kB a pair of 768 numbers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.records import parse_unit_id
from cluster.errors import CommitError
from cluster.receipts import Receipt
from pipelines.filters.columns import Columns, in_order, read_columns
from pipelines.filters.config import FilterConfig
from pipelines.filters.duplicates import Pictures, Scope, Vectors, find_repeated
from pipelines.filters.rules import (
    EXACT,
    NEAR,
    NEAR_IN_CHAIN,
    SIMILAR,
    SIMILAR_IN_CHAIN,
    Flags,
    Masks,
    Rule,
    has_value,
    judge_rows,
    rules_of,
)

# pyarrow makes its compute functions at import.
_compute: Any = pc

_NAMES = ("pair_id", "chain_id", "round_index")
_KEPT = (*_NAMES, "file", "row")
_PICTURES = ("image_sha256", "phash", "image_embedding")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """All pairs of a run with what the filter says of them; row i of every column is one pair.

    Attributes:
        files: the commits that hold the pairs, in order.
        table: `pair_id`, `chain_id`, `round_index`, `file` (place in `files`), `row` (in the file),
            and the columns that were asked for besides.
        rules: names of the rules, in their order.
        masks: a bit for every rule that a pair fails.
        num_unknown: pairs without a value, by the column that a rule needs.
    """

    files: list[Columns]
    table: pa.Table
    rules: list[str]
    masks: Masks
    num_unknown: dict[str, int]

    @property
    def is_kept(self) -> Flags:
        """One flag a pair."""
        return self.masks == 0

    def reasons(self) -> tuple[list[str | None], list[list[str]]]:
        """Of each pair the first rule that it fails, or None, and all of them."""
        by_mask = {mask: self._names(mask) for mask in np.unique(self.masks).tolist()}
        failing = [by_mask[mask] for mask in self.masks.tolist()]
        return [names[0] if names else None for names in failing], failing

    def count_reasons(self) -> dict[str, int]:
        """Dropped pairs by the first rule that they fail, in the order of the rules."""
        left, counts = self.masks.copy(), dict[str, int]()
        for place, name in enumerate(self.rules):
            fails = (left >> np.uint64(place)) & np.uint64(1) == 1
            counts[name] = int(fails.sum())
            left[fails] = 0
        return {name: number for name, number in counts.items() if number}

    def count_failing(self) -> dict[str, int]:
        """Pairs that fail each rule, whatever else they fail."""
        counts = {
            name: int(((self.masks >> np.uint64(place)) & np.uint64(1)).sum())
            for place, name in enumerate(self.rules)
        }
        return {name: number for name, number in counts.items() if number}

    def _names(self, mask: int) -> list[str]:
        return [name for place, name in enumerate(self.rules) if mask >> place & 1]


def judge_run(
    output: str, receipts: Sequence[Receipt], config: FilterConfig, more: Sequence[str] = ()
) -> Judged:
    """Reads the columns that the rules need, and those named in `more`, and judges every pair.

    Raises:
        ValueError: no pair has a score that a rule needs, and `missing` does not say what then.
        CommitError: a committed file is damaged.
    """
    needed = [rule.column for rule in rules_of(config)]
    names = list(dict.fromkeys([*_NAMES, *more, *needed]))
    return judge_files(read_columns(output, in_order(receipts), names), config, more)


def judge_files(found: Iterable[Columns], config: FilterConfig, more: Sequence[str] = ()) -> Judged:
    """Judges every pair of files whose columns have been read; else as `judge_run`."""
    rules = rules_of(config)
    needed = {rule.column: None for rule in rules}
    kept = [*_NAMES, *(name for name in _PICTURES if name in needed)]
    kept += [name for name in more if name not in kept]
    files: list[Columns] = []
    tables: list[pa.Table] = []
    masks: list[Masks] = []
    schemas: dict[pa.Schema, pa.Schema] = {}
    known = dict.fromkeys(needed, 0)
    for columns in found:
        masks.append(judge_rows(columns.table, rules))
        for name in needed:
            known[name] += int(has_value(columns.table.column(name)).sum())
        tables.append(_number(columns.table.select(kept), len(files)))
        # One object for all equal schemas, which are some kilobytes each. And an empty table of
        # its own: a slice would keep all texts of the file.
        schema = schemas.setdefault(columns.schema, columns.schema)
        files.append(replace(columns, table=columns.table.schema.empty_table(), schema=schema))
    if not tables:
        return _nothing(rules)
    table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    _check_known(known, table.num_rows, config)
    unknown = {name: table.num_rows - number for name, number in known.items()}
    table, mask = _current(table, np.concatenate(masks), files)
    mask = _compare(table, mask, rules, config, files)
    return Judged(
        files=files,
        table=table.select([name for name in table.column_names if name in (*more, *_KEPT)]),
        rules=[rule.name for rule in rules],
        masks=mask,
        num_unknown={name: number for name, number in unknown.items() if number},
    )


def _nothing(rules: Sequence[Rule]) -> Judged:
    empty = pa.table({name: pa.array([], pa.string()) for name in _NAMES})
    names = [rule.name for rule in rules]
    return Judged(files=[], table=empty, rules=names, masks=np.zeros(0, np.uint64), num_unknown={})


def _number(table: pa.Table, file: int) -> pa.Table:
    rows = np.arange(table.num_rows, dtype=np.int32)
    table = table.append_column("file", pa.array(np.full(len(rows), file, np.int32)))
    return table.append_column("row", pa.array(rows))


def _check_known(known: dict[str, int], num_rows: int, config: FilterConfig) -> None:
    nowhere = [name for name, number in known.items() if not number]
    if nowhere and num_rows and config.missing == "refuse":
        raise ValueError(
            f"no pair has {' or '.join(nowhere)}, which the filter asks for: run the stage that "
            "writes it, ask for something else, or say what becomes of such pairs with "
            "missing=drop or missing=keep"
        )


def _current(table: pa.Table, masks: Masks, files: Sequence[Columns]) -> tuple[pa.Table, Masks]:
    """Leaves out rows whose (chain, round) a later replay has committed again."""
    codes = _codes(table.column("pair_id"))
    if len(codes) == 0 or int(codes.max()) + 1 == len(codes):
        return table, masks
    generation = np.array([parse_unit_id(one.receipt.unit_id).generation for one in files])
    of_row = generation[np.asarray(table.column("file").to_numpy())]
    ordered = np.lexsort((of_row, codes))
    is_last = np.append(np.diff(codes[ordered]) != 0, True)
    if np.any(np.diff(of_row[ordered])[~is_last[:-1]] == 0):
        twice = table.column("pair_id")[int(ordered[np.flatnonzero(~is_last)[0]])].as_py()
        raise CommitError(
            f"pair {twice} was committed twice: `pairloom verify` says what is damaged"
        )
    rows = np.sort(ordered[is_last])
    return table.take(pa.array(rows)), masks[rows]


def _compare(
    table: pa.Table,
    masks: Masks,
    rules: Sequence[Rule],
    config: FilterConfig,
    files: Sequence[Columns],
) -> Masks:
    """Adds what the rules say that compare a pair with the ones before it."""
    bits = {rule.name: np.uint64(1 << place) for place, rule in enumerate(rules)}
    if not bits.keys() & {EXACT, NEAR_IN_CHAIN, NEAR, SIMILAR_IN_CHAIN, SIMILAR}:
        return masks
    hashes, has_hash = _read_hashes(table)
    vectors, has_vector = _read_vectors(table)
    pictures = Pictures(
        chains=_codes(table.column("chain_id")),
        images=_codes(table.column("image_sha256")) if EXACT in bits else np.arange(len(masks)),
        hashes=hashes,
        has_hash=has_hash,
        vectors=vectors,
        has_vector=has_vector,
    )
    scope = Scope(
        exact=config.duplicate_images == "drop",
        exact_in_chain=config.duplicate_images == "drop_in_chain",
        near_in_chain=config.near_distance_in_chain,
        near=config.near_distance,
        similar_in_chain=config.near_similarity_in_chain,
        similar=config.near_similarity,
    )
    found = find_repeated(pictures, _earliest_first(table, files), masks == 0, scope)
    repeated = (
        (EXACT, found.exact),
        (NEAR_IN_CHAIN, found.near_in_chain),
        (NEAR, found.near),
        (SIMILAR_IN_CHAIN, found.similar_in_chain),
        (SIMILAR, found.similar),
    )
    for name, is_repeated in repeated:
        if name in bits:
            masks = masks | is_repeated.astype(np.uint64) * bits[name]
    return masks


def _earliest_first(table: pa.Table, files: Sequence[Columns]) -> np.ndarray[Any, Any]:
    """By round, then by the place of the seed's unit, then by name: whatever the files' order."""
    index = np.array([parse_unit_id(one.receipt.unit_id).unit_index for one in files])
    keyed = pa.table(
        {
            "round": table.column("round_index"),
            "unit": index[np.asarray(table.column("file").to_numpy())],
            "pair": table.column("pair_id"),
        }
    )
    keys = [(name, "ascending") for name in keyed.column_names]
    return np.asarray(_compute.sort_indices(keyed, sort_keys=keys).to_numpy(), np.int64)


def _read_hashes(table: pa.Table) -> tuple[Masks, Flags]:
    if "phash" not in table.column_names:
        return np.zeros(table.num_rows, np.uint64), np.zeros(table.num_rows, np.bool_)
    texts: list[str | None] = table.column("phash").to_pylist()
    try:
        numbers = [int(text, 16) if text else 0 for text in texts]
        hashes = np.array(numbers, np.uint64)
    except (ValueError, OverflowError) as error:
        raise CommitError(f"a phash of the run is no 16 hex digits: {error}") from None
    return hashes, np.array([bool(text) for text in texts], np.bool_)


def _read_vectors(table: pa.Table) -> tuple[Vectors, Flags]:
    """One row a pair, of zeros where there is none."""
    if "image_embedding" not in table.column_names:
        return np.zeros((table.num_rows, 0), np.float32), np.zeros(table.num_rows, np.bool_)
    column = table.column("image_embedding")
    is_known = has_value(column)
    if not is_known.any():
        return np.zeros((table.num_rows, 0), np.float32), is_known
    lengths = np.unique(_compute.list_value_length(column).drop_null().to_numpy())
    if len(lengths) > 1:
        raise CommitError(
            f"the image_embedding of the run has {' and '.join(map(str, lengths))} numbers: "
            "`pairloom verify` says what is damaged"
        )
    size = int(lengths[0])
    vectors = np.zeros((table.num_rows, size), np.float32)
    vectors[is_known] = _compute.list_flatten(column).to_numpy().reshape(-1, size)
    return vectors, is_known


def _codes(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Equal numbers for equal texts, below 0 for null."""
    if pa.types.is_null(column.type):
        return np.full(len(column), -1, np.int64)
    encoded = column.combine_chunks().dictionary_encode()
    indices = _compute.fill_null(encoded.indices, -1)
    return np.asarray(indices.to_numpy(zero_copy_only=False), np.int64)
