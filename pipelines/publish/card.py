"""The dataset card: front matter for the hub, then what a reader wants to know, from the run.

Pure: facts in, text out; no time of day, so that a publish that was cut off and finished has the
same card as one that was not.

Limits: in English. The licence is what the publisher says; whether those of the models allow it is
for the publisher to know.
"""

from typing import Any

import yaml

from actors.records import PAIR_COLUMNS
from pipelines.publish.card_parts import (
    citations,
    cost,
    drift,
    example,
    how_it_was_made,
    table,
)
from pipelines.publish.config import PublishConfig
from pipelines.publish.facts import Facts
from pipelines.publish.plan import Plan

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)
_PATTERNS = {
    "parquet": "data/{split}-*.parquet",
    "webdataset": "data/{split}-*.tar",
    "llava": "llava_{split}.json",
    "folder": "{split}/**",
}


def write_card(facts: Facts, plan: Plan, config: PublishConfig, columns: list[str]) -> str:
    """The whole README.md."""
    front = yaml.safe_dump(_front_matter(facts, plan, config), sort_keys=False, allow_unicode=True)
    sections = [
        f"# {_title(facts, config)}",
        _notice(facts),
        _summary(facts, plan),
        *([] if facts.is_finished else [_PARTIAL]),
        "## How to read it",
        _reading(plan, config),
        "## One chain",
        example(facts),
        "## How it was made",
        how_it_was_made(facts),
        "## What became of the chains",
        _counts(facts, config),
        *(["## Drift over the rounds", drift(facts)] if drift(facts) else []),
        "## Columns",
        _columns(columns, config),
        "## What it cost",
        cost(facts),
        "## Limits",
        _limits(facts, plan, config),
        "## Licence and citation",
        _licence(facts, config),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def size_category(num_rows: int) -> str:
    """As the hub names sizes."""
    return next((name for limit, name in _SIZES if num_rows < limit), "n>1B")


def _title(facts: Facts, config: PublishConfig) -> str:
    return config.name or f"Synthetic image-text pairs, run {facts.fingerprint}"


def _front_matter(facts: Facts, plan: Plan, config: PublishConfig) -> dict[str, Any]:
    pattern = _PATTERNS[config.format]
    files = [{"split": one, "path": pattern.format(split=one)} for one in plan.splits]
    return {
        "pretty_name": _title(facts, config),
        "license": config.licence,
        "language": [config.language],
        "task_categories": ["text-to-image", "image-to-text"],
        "size_categories": [size_category(_num_rows(plan))],
        "tags": ["synthetic", "image-text-pairs", "pairloom", *_format_tag(config)],
        "configs": [{"config_name": "default", "data_files": files}],
    }


def _format_tag(config: PublishConfig) -> list[str]:
    return [config.format] if config.format in ("webdataset", "llava") else []


def _num_rows(plan: Plan) -> int:
    return sum(part.num_rows for part in plan.parts)


def _notice(facts: Facts) -> str:
    seeds = "a model wrote the seed texts too" if facts.seeds_are_written else "only the seed texts"
    seeds += "" if facts.seeds_are_written else " were given"
    seeds += ", and descriptions that chains began anew with" if facts.inject.get("path") else ""
    return (
        "> **Synthetic content.** Every picture was drawn by a text-to-image model, and every "
        f"description was written by a model that looked at the picture; {seeds}. No picture "
        "is a photograph. Say so where you use or show it."
    )


_PARTIAL = (
    "**This is a part.** The run was not finished when this was published: the later rounds have "
    "fewer chains than the earlier ones."
)


def _summary(facts: Facts, plan: Plan) -> str:
    splits = ", ".join(f"{plan.num_rows(one):,} for {_purpose(one)}" for one in plan.splits)
    size = f"{facts.constants['width']} x {facts.constants['height']} px"
    pictures = f"Pictures are {size}. " if facts.constants["width"] else ""
    chains = " (the two never share a chain)" if len(plan.splits) > 1 else ""
    if chains and facts.inject:
        chains = " (the two share no chain, but chains of both may have begun anew with one text)"
    rows = f"{_num_rows(plan):,} pairs of a picture and its description"
    return (
        f"{rows} from {facts.num_chains:,} chains of up to {facts.num_rounds} rounds: {splits}"
        f"{chains}. A chain is what grew from one seed text. {pictures}Each row says from which "
        "seed, prompt, models and random numbers it came."
    )


def _purpose(split: str) -> str:
    return {"train": "training", "validation": "validation"}[split]


def _reading(plan: Plan, config: PublishConfig) -> str:
    first = plan.splits[0]
    snippets = {
        "parquet": (
            "from datasets import load_dataset\n\n"
            f'pairs = load_dataset("<this repository or folder>", split="{first}")\n'
            'pairs[0]["image"].show(); print(pairs[0]["description"])'
        ),
        "webdataset": (
            "import webdataset as wds\n\n"
            f'pairs = wds.WebDataset("data/{plan.parts[0].stem.removeprefix("data/")}.tar", '
            'shardshuffle=False).decode("pil")\n'
            "for pair in pairs:  # png, jpg or webp: the picture; json: all other columns\n"
            '    print(pair["__key__"], pair["txt"])'
        ),
        "llava": (
            "python llava/train/train_mem.py \\\n"
            f"    --data_path <folder>/llava_{first}.json --image_folder <folder> ..."
        ),
        "folder": (
            "from datasets import load_dataset\n\n"
            f'pairs = load_dataset("imagefolder", data_dir="<folder>", split="{first}")\n'
            'pairs[0]["image"].show(); print(pairs[0]["description"])'
        ),
    }
    language = "bash" if config.format == "llava" else "python"
    files = (
        "`manifest.json` has the sha256, bytes and rows of every file. `publish.json` has the "
        "config and the commits of the run that this was made from."
    )
    dropped = " `dropped.parquet` has every pair that was left out, with the reasons."
    is_filtered = bool(config.filter.asked)
    return (
        f"```{language}\n{snippets[config.format]}\n```\n\n{files}{dropped if is_filtered else ''}"
    )


def _counts(facts: Facts, config: PublishConfig) -> str:
    rows = [
        [
            str(one.round_index),
            *(f"{number:,}" for number in (one.num_pairs, one.num_error_rows, one.num_stopped)),
            f"{one.num_pairs - one.num_kept:,}",
            f"**{one.num_kept:,}**",
        ]
        for one in facts.rounds
    ]
    header = ["round", "pairs made", "failed", "not grown", "filtered out", "published"]
    parts = [
        table(header, rows),
        "A chain that fails in a round is not grown further; its earlier pairs stay.",
    ]
    if facts.stop_reasons:
        rules = ", ".join(f"`{name}` {value}" for name, value in facts.stop_rules.items())
        said = f"Nor is one that a rule has stopped ({rules}); the pair that it ends with stays."
        stops = [[f"`{name}`", f"{n:,}"] for name, n in facts.stop_reasons.items()]
        parts += [said, table(["why chains were stopped", "chains"], stops)]
    if facts.error_reasons:
        counts = [[f"`{name}`", f"{n:,}"] for name, n in facts.error_reasons.items()]
        parts.append(table(["why rows failed", "rows"], counts))
    if config.filter.asked:
        asked = "\n".join(
            f"- `{name}`: {_words(value)}" for name, value in config.filter.asked.items()
        )
        parts.append(f"The filter, of which a pair must pass every rule:\n\n{asked}")
    if facts.drop_reasons:
        counts = [[f"`{name}`", f"{n:,}"] for name, n in facts.drop_reasons.items()]
        parts.append(table(["why pairs were filtered out (first rule)", "pairs"], counts))
    parts += [
        f"{n:,} pairs have no `{name}`: the rules that need it let them pass."
        for name, n in facts.num_unknown.items()
        if config.filter.lets_unknown_pass(name)
    ]
    return "\n\n".join(parts)


def _words(value: Any) -> str:
    if not isinstance(value, dict):
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    bounds = [
        f"{word} {value[end]:g}"
        for word, end in (("at least", "min"), ("at most", "max"))
        if value.get(end) is not None
    ]
    return " and ".join(bounds)


def _columns(columns: list[str], config: PublishConfig) -> str:
    if config.format == "llava":
        return (
            "`id` is the pair's id, `image` a path, `conversations` the instruction and the "
            "description. Publish with `format=parquet` for all that is known of a pair."
        )
    meanings = {name: meaning for name, _, meaning in PAIR_COLUMNS}
    return table(["column", "meaning"], [[f"`{name}`", meanings.get(name, "")] for name in columns])


def _limits(facts: Facts, plan: Plan, config: PublishConfig) -> str:
    lines = [
        "Descriptions are what a model said of a picture, not checked by a person. They can be "
        "wrong, and both models hand on what they learned, biases included.",
        "A description of one round is the prompt of the next: mistakes add up over a chain, and "
        "rows of one chain are not independent."
        if facts.mode == "loop"
        else "All rounds of a chain draw the same seed: rows of one chain are not independent.",
    ]
    if len(plan.splits) > 1:
        lines.append(
            f"About {config.validation_share:.0%} of the chains are for validation, chosen by a "
            "hash of their id. Different chains may still have grown alike."
        )
    elif config.validation_share:
        lines.append(
            f"There is no validation split: none of the chains fell into the "
            f"{config.validation_share:.0%} of all chains that are for validation."
        )
    if not config.filter.asked:
        lines.append(
            "Nothing was filtered: neither for safety, nor for quality, nor for duplicates."
        )
    if not any(one.scores for one in facts.rounds):
        lines.append("The pairs carry no scores: how far a picture fits its text was not measured.")
    return "\n".join(f"- {line}" for line in lines)


def _licence(facts: Facts, config: PublishConfig) -> str:
    said = (
        "The publisher has not stated a licence for this dataset."
        if config.licence == "unknown"
        else f"The dataset is published under `{config.licence}`."
    )
    return (
        f"{said} The licences of the models that made it are given above; they may say more about "
        f"the use of what the models make. For the method, and for the models where they or their "
        f"architecture are published:\n\n```bibtex\n{citations(facts)}\n```"
    )
