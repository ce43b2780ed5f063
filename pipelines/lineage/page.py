"""A chain, and what came of making a pair again, as text and as plain values for JSON.

Limits: vectors are shown by their length; a picture is shown by its size and hash, `pairloom
gallery` shows it.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any, cast

from actors.records import Row
from pipelines.lineage.chain import Chain
from pipelines.lineage.compare import BATCH_NOISE, ImageDifference, PairAgain, TextDifference

_MODELS = ("generator", "captioner", "scorer")
# What has a line of its own; every other column that is set, scores above all, follows below.
_TOLD_NAMES = (
    "pair_id chain_id unit_id round_index parent_id seed prompt is_prompt_truncated image width "
    "height image_sha256 description finish_reason instruction instruction_id instruction_sha256 "
    "rng_seed_draw rng_seed_describe draw_s describe_s score_s created_at"
)
_TOLD = frozenset(_TOLD_NAMES.split()) | frozenset(_MODELS)
_WIDTH = 13


def describe_chain(chain: Chain) -> str:
    """The whole chain, the pair that was asked for marked."""
    lines = [
        f"chain {chain.chain_id} of {chain.output}: {len(chain.pairs)} of {chain.num_rounds} "
        f"rounds, seed {chain.seed_index + 1} of {chain.num_seeds}",
        *_seed_lines(chain.seed),
    ]
    before: Row = {}
    for row in chain.pairs:
        lines += ["", *_pair_lines(chain, row, before)]
        before = row
    if chain.failed is not None:
        lines += ["", *_failed_lines(chain, chain.failed)]
    return "\n".join(lines)


def chain_to_dict(chain: Chain) -> dict[str, Any]:
    """The same with every column."""
    return {
        "output": chain.output,
        "chain_id": chain.chain_id,
        "pair_id": chain.pair_id,
        "seed_index": chain.seed_index,
        "num_rounds": chain.num_rounds,
        "run_seed": chain.run_seed,
        "seed": _plain(chain.seed),
        "pairs": [_plain(row) | {"file": chain.files[row["pair_id"]]} for row in chain.pairs],
        "failed": chain.failed
        and _plain(chain.failed) | {"file": chain.files[chain.failed["pair_id"]]},
    }


def describe_again(again: PairAgain) -> str:
    """What was made again and what differs, the verdict first."""
    verdict = "the same" if again.is_same else "not the same"
    lines = [f"pair {again.pair_id}: {verdict}, made again from its record"]
    lines += [_line("model", one) for one in again.models] or [_line("models", "as recorded")]
    lines += [_line("rng_seed", one) for one in again.rng_seeds]
    if again.image is not None:
        lines.append(_line("image", _say_image(again.image)))
    if again.is_prompt_truncated and len(set(again.is_prompt_truncated)) > 1:
        was, now = again.is_prompt_truncated
        lines.append(_line("prompt", f"truncated: {was} -> {now}"))
    lines += _text_lines("description", again.description)
    if again.description_again is not None:
        lines += _text_lines("of new image", again.description_again)
    lines += [_line("failed", one) for one in again.problems]
    times = {"draw": again.draw_s, "describe": again.describe_s}
    took = ", ".join(f"{verb} {s:.2f} s" for verb, s in times.items() if s is not None)
    return "\n".join([*lines, *([_line("took", f"{took}, loading not counted")] if took else [])])


def _say_image(image: ImageDifference) -> str:
    if image.is_same_bytes:
        return "the same bytes"
    if image.max_difference is None:
        return "another size"
    if image.is_same_picture:
        return "the same pixels in other bytes"
    assert image.mean_difference is not None
    assert image.share_of_pixels is not None
    why = (
        ": no more than another batch size does"
        if image.max_difference <= BATCH_NOISE
        else ": more than another batch size does, so another model, device or library"
    )
    return (
        f"differs by {image.max_difference}/255 at most, {image.mean_difference:.3f}/255 on "
        f"average, in {image.share_of_pixels:.1%} of its pixels{why}"
    )


def _text_lines(name: str, text: TextDifference | None) -> list[str]:
    if text is None:
        return []
    return [_line(name, "the same" if text.is_same else f"differs: {text.marked}")]


def _seed_lines(seed: Row) -> Iterator[str]:
    yield _line("seed", seed["seed"] or "")
    if seed.get("source"):
        yield _line("from", seed["source"])
    if seed.get("prompt_id"):
        yield _line("author", f"prompt {seed['prompt_id']}, rng_seed {seed['rng_seed']}")


def _pair_lines(chain: Chain, row: Row, before: Row) -> Iterator[str]:
    mark = "  <- asked for" if row["pair_id"] == chain.pair_id else ""
    yield f"round {row['round_index']}  {row['pair_id']}{mark}"
    yield _line("parent", _say_parent(chain, row))
    cut = "  (cut at the encoder's limit)" if row.get("is_prompt_truncated") else ""
    yield _line("prompt", f"{row['prompt']}{cut}")
    yield _line("image", _say_picture(row))
    cut = "  (cut at the token limit)" if row.get("finish_reason") == "length" else ""
    yield _line("description", f"{row['description']}{cut}")
    if row.get("instruction") != before.get("instruction"):
        yield _line("instruction", f"{row['instruction_id']}: {row['instruction']}")
    for role in _MODELS:
        if row.get(role) and row.get(role) != before.get(role):
            yield _line(role, _say_model(row[role]))
    seeds = ((verb, row.get(f"rng_seed_{verb}")) for verb in ("draw", "describe"))
    yield _line("rng_seeds", _join((verb, str(one)) for verb, one in seeds if one is not None))
    times = ((verb, row.get(f"{verb}_s")) for verb in ("draw", "describe", "score"))
    yield _line("seconds", _join((verb, f"{s:.3f}") for verb, s in times if s is not None))
    others = {name: value for name, value in row.items() if name not in _TOLD}
    scores = _join((name, _short(value)) for name, value in others.items() if value is not None)
    if scores:
        yield _line("scores", scores)
    yield _line("file", chain.files[row["pair_id"]])
    yield _line("committed by", f"unit {row['unit_id']}, built {_plain_value(row['created_at'])}")


def _failed_lines(chain: Chain, row: Row) -> Iterator[str]:
    mark = "  <- asked for" if row["pair_id"] == chain.pair_id else ""
    yield f"round {row['round_index']}  {row['pair_id']}  failed{mark}"
    yield _line("parent", _say_parent(chain, row))
    yield _line("prompt", row["prompt"] or "")
    yield _line("stage", f"{row['stage']}, {row['attempts']} calls")
    yield _line("reason", f"{row['reason']}: {row['message'] or ''}")
    yield _line("file", chain.files[row["pair_id"]])


def _say_parent(chain: Chain, row: Row) -> str:
    is_fresh = row["seed"] != chain.seed["seed"]
    return row["parent_id"] or ("a fresh description" if is_fresh else "the seed")


def _say_picture(row: Row) -> str:
    size = f"{row['width']} x {row['height']} px, " if row.get("width") else ""
    return f"{size}{len(row['image']['bytes'])} bytes, sha256 {row['image_sha256']}"


def _say_model(model: Row) -> str:
    names = [model["id"], model["revision"], model["digest"], f"licence {model['licence']}"]
    params: Row = json.loads(model["params"] or "{}")
    said = ", ".join(f"{key}={json.dumps(value)}" for key, value in params.items())
    return "; ".join([*(one for one in names if one), *([said] if said else [])])


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        items = cast(list[Any], value)
        is_vector = bool(items) and isinstance(items[0], float)
        return f"{len(items)} numbers" if is_vector else ",".join(map(str, items)) or "none"
    return str(value)


def _join(parts: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in parts)


def _line(name: str, value: str) -> str:
    return f"  {name:<{_WIDTH}}{value}".rstrip()


def _plain(row: Row) -> Row:
    return {name: _plain_value(value) for name, value in row.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"size_bytes": len(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return _plain(cast(Row, value))
    return value


def again_to_dict(again: PairAgain) -> dict[str, Any]:
    """All that was found, with the verdict."""
    return {"is_same": again.is_same, **asdict(again)}
