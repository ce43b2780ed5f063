"""One page of data for each unit: its chains with all rounds, merged from the commits of the unit.

A page is built from commits in any order and comes out the same. It says itself which commits are
in it, so that a site that is there already is gone on with and no commit is read twice. A replay's
rows take the place of those they replay, as everywhere: of a (chain, round) the highest generation
counts.

Limits: a page is in memory whole, without pictures some 2 kB a chain and round at most.
"""

import math
from collections.abc import Iterable
from typing import Any, cast

from actors.records import Row, parse_unit_id
from actors.scenes.truth import tally_pair
from cluster.ledger import Ledger
from cluster.receipts import Receipt
from pipelines.evaluation.truth import count_attributes
from pipelines.filters.config import SCORES
from pipelines.gallery.config import GalleryConfig
from pipelines.gallery.meaning import Verdict, judge, worst
from pipelines.gallery.pictures import Sheet, make_sheet

Page = dict[str, Any]

_PAIR_TEXTS = ["chain_id", "seed", "prompt", "is_prompt_truncated", "image", "description"]
_MODELS = ("generator", "captioner", "scorer")
_RNG_SEEDS = ("rng_seed_draw", "rng_seed_describe")
VERBS: tuple[str, ...] = ("draw", "describe", "score")
_SECONDS = tuple(f"{verb}_s" for verb in VERBS)
# Columns that a run may have or not.
_LATER = ["finish_reason", "caption_flags", "stop_reason"]
_FAILED = ["chain_id", "seed", "prompt", "image", "stage", "reason", "message", "attempts"]
# What seconds and similarities are rounded to: a page is for people.
_DIGITS = 4


def commit_name(receipt: Receipt) -> str:
    """The name of a commit in a page."""
    return f"{receipt.unit_id}/{receipt.round_index}"


def commit_digest(receipt: Receipt) -> str:
    """16 hex digits that differ where the rows do."""
    return "".join(shard.sha256[:8] if shard else "0" * 8 for shard in _shards(receipt))


def page_name(unit_index: int) -> str:
    """The page of a unit and of all replays of it."""
    return f"{unit_index:07d}"


def new_page(unit_index: int) -> Page:
    """A page without a commit."""
    return {
        "unit": page_name(unit_index), "commits": {}, "sheets": {}, "models": [], "chains": {},
        "tries": {},
    }  # fmt: skip


def add_commit(
    page: Page, ledger: Ledger, receipt: Receipt, config: GalleryConfig, *, has_truth: bool = False
) -> dict[str, bytes]:
    """Reads one commit into the page; returns its sprites by file name.

    With `has_truth` the oracle of the embedded world is asked of every pair.

    Raises:
        CommitError: its file is gone or damaged.
    """
    name = commit_name(receipt)
    # A file of an earlier version has fewer columns, a later one may have scores.
    facts = [*_MODELS, *_RNG_SEEDS, *_SECONDS, *SCORES, *_LATER]
    pairs = _read(ledger, receipt, "data", [*_PAIR_TEXTS, *facts])
    failed = _read(ledger, receipt, "dead_letter", _FAILED)
    sheet = make_sheet(((row.get("image") or {}).get("bytes") for row in pairs + failed),
                       config.thumbnail_px)  # fmt: skip
    generation = parse_unit_id(receipt.unit_id).generation
    files = {
        f"{receipt.unit_id}-{receipt.round_index}-{commit_digest(receipt)}-{number}.webp": data
        for number, data in enumerate(sheet.files)
    }
    page["commits"][name] = commit_digest(receipt)
    page["tries"][name] = _count_tries(failed)
    page["sheets"][name] = {"cell": list(sheet.cell), "files": list(files)}
    for place, row in enumerate(pairs + failed):
        shown = _pair(page, row) if place < len(pairs) else _failure(row)
        if has_truth and place < len(pairs):
            shown["truth"] = _truth(row)
        shown |= {
            "round_index": receipt.round_index, "generation": generation, "commit": name,
            "picture": _place(sheet, place),
        }  # fmt: skip
        _put(page, row, shown)
    return files


def finish_page(page: Page, config: GalleryConfig, *, is_loop: bool) -> None:
    """Says of every chain what became of it; chains come by id, rounds in order."""
    page["commits"] = dict(sorted(page["commits"].items()))
    page["sheets"] = dict(sorted(page["sheets"].items()))
    page["tries"] = dict(sorted(page["tries"].items()))
    page["chains"] = dict(sorted(page["chains"].items()))
    _sort_models(page)
    for chain in page["chains"].values():
        chain["rows"].sort(key=lambda row: row["round_index"])
        _name_seeds_once(chain)
        verdicts = [_judge(seed, rows, config, is_loop=is_loop) for seed, rows in stretches(chain)]
        verdict = worst(verdicts)
        chain |= {
            "status": verdict.status, "turning": verdict.turning, "head": verdict.head,
            "why": verdict.why, "codes": verdict.codes,
        }  # fmt: skip


def stretches(chain: Row) -> list[tuple[str, list[Row]]]:
    """The chain's rows by the description that they go back to: its seed, or a fresh one that took
    the seed's place in some round."""
    found: list[tuple[str, list[Row]]] = []
    for row in chain["rows"]:
        if not found or "seed" in row:
            found.append((row.get("seed", chain["seed"]), []))
        found[-1][1].append(row)
    return found


def _name_seeds_once(chain: Row) -> None:
    """Leaves the seed of a row where it is another than before it: there the chain began anew."""
    chain["seed"] = chain["rows"][0].get("seed", chain["seed"])
    before = chain["seed"]
    for row in chain["rows"]:
        if row.get("seed", before) == before:
            row.pop("seed", None)
        before = row.get("seed", before)


def _judge(seed: str, rows: list[Row], config: GalleryConfig, *, is_loop: bool) -> Verdict:
    pairs = [row for row in rows if "text" in row]
    failed = next((row for row in rows if "reason" in row), None)
    verdict = judge(
        seed, pairs, failed, kept_from=config.kept_from, lost_below=config.lost_below,
        is_loop=is_loop,
    )  # fmt: skip
    for row, kept in zip(pairs, verdict.kept, strict=True):
        row["drift"] = round(100 * (1 - kept))
    return verdict


def _shards(receipt: Receipt) -> Iterable[Any]:
    return (receipt.data, receipt.dead_letter)


def _read(ledger: Ledger, receipt: Receipt, kind: str, names: list[str]) -> list[Row]:
    is_data = kind == "data"
    table = ledger.read_pairs(receipt) if is_data else ledger.read_dead_letters(receipt)
    there = [name for name in names if name in table.column_names]
    return cast(list[Row], table.select(there).to_pylist())


def _put(page: Page, row: Row, shown: Row) -> None:
    chain = page["chains"].setdefault(row["chain_id"], {"seed": row["seed"] or "", "rows": []})
    here = shown["round_index"]
    if any(
        o["generation"] > shown["generation"] for o in chain["rows"] if o["round_index"] == here
    ):
        return
    chain["rows"] = [old for old in chain["rows"] if old["round_index"] != here] + [shown]


def _pair(page: Page, row: Row) -> Row:
    shown: Row = {
        "seed": row["seed"] or "",
        "text": row["description"] or "",
        "prompt": row["prompt"] or "",
        "models": [_model(page, row.get(name)) for name in _MODELS],
        "rng_seeds": [str(row.get(name)) for name in _RNG_SEEDS],
        "seconds": [_number(row.get(name)) for name in _SECONDS],
    }
    if row.get("is_prompt_truncated"):
        shown["is_cut"] = True
    if row.get("finish_reason") == "length":
        shown["is_text_cut"] = True
    scores = {name: _number(row.get(name)) for name in SCORES}
    if known := {name: value for name, value in scores.items() if value is not None}:
        shown["scores"] = known
    if row.get("caption_flags"):
        shown["flags"] = row["caption_flags"]
    if row.get("stop_reason"):
        shown["stop"] = row["stop_reason"]
    return shown


def _truth(row: Row) -> dict[str, list[int]]:
    """Right answers and questions, by question."""
    return {name: list(count_attributes(tally)) for name, tally in tally_pair(row).items()}


def _count_tries(failed: Iterable[Row]) -> dict[str, list[int]]:
    """Of the rows that failed: their number and their calls, by the stage that they failed at."""
    tries: dict[str, list[int]] = {}
    for row in failed:
        count = tries.setdefault(row["stage"], [0, 0])
        count[0] += 1
        count[1] += row.get("attempts") or 0
    return dict(sorted(tries.items()))


def _failure(row: Row) -> Row:
    told = ("prompt", "stage", "reason", "message", "attempts")
    return {name: row.get(name) for name in told} | {"seed": row["seed"] or ""}


def _model(page: Page, model: Row | None) -> str:
    """A model's name for a page; who made it from what is said once a page."""
    if model is None:
        return ""
    said = {key: value for key, value in model.items() if value}
    name = f"{model.get('id')} {str(model.get('revision') or model.get('digest') or '')[:19]}"
    if said | {"name": name} not in page["models"]:
        page["models"].append(said | {"name": name})
    return name


def _sort_models(page: Page) -> None:
    page["models"].sort(key=lambda one: sorted(one.items()))


def _place(sheet: Sheet, place: int) -> list[int] | None:
    size = sheet.sizes[place]
    return None if size is None else [place, *size]


def _number(value: Any) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return round(float(value), _DIGITS)
