"""The parts of the dataset card that take some putting together: models, chain, drift, cost.

Limits: as `card.py`.
"""

import io
from collections.abc import Iterator, Sequence
from typing import cast

from actors.records import Row
from pipelines.contact_sheet import draw_sheet
from pipelines.publish.citations import METHOD, cite, hub_page
from pipelines.publish.facts import MODELS, Facts, sampling_params

EXAMPLE_KEY = "example.png"
# Names that a reader understands, and in which direction the score is better.
_MEANINGS = {
    "clip_similarity": "picture and its prompt",
    "clip_similarity_description": "picture and its description",
    "image_similarity_first": "picture and that of round 0",
    "image_similarity_previous": "picture and the one before",
    "text_similarity_first": "description and that of round 0",
    "text_similarity_previous": "description and the one before",
    "aesthetic": "aesthetic",
    "punsafe": "unsafe, probability",
    "pwatermark": "watermark, probability",
}
_ROLES = {
    "generator": "text-to-image model",
    "captioner": "image-to-text model",
    "scorer": "what scored the pairs",
}
_WORK = {"draw_s": "drawing", "describe_s": "describing", "score_s": "scoring"}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def example(facts: Facts) -> str:
    """One chain in pictures, and its texts in full."""
    rows: list[list[str]] = []
    seed: str | None = None
    for row in facts.example:
        if row["seed"] != seed:
            rows.append(["seed" if seed is None else "fresh description", _cell(row["seed"])])
            seed = row["seed"]
        rows.append([f"round {row['round_index']}", _cell(row["description"])])
    said = (
        f"What grew from one seed (`{facts.example[0]['chain_id']}`), round by round, and what the "
        "captioner said of each picture:"
    )
    picture = f"![The pictures of one chain, round by round]({EXAMPLE_KEY})"
    return f"{said}\n\n{picture}\n\n{table(['', 'text'], rows)}"


def draw_example(facts: Facts) -> bytes:
    """The chain of `example` as a film strip, a PNG."""
    sink = io.BytesIO()
    draw_sheet([facts.example], facts.num_rounds).save(sink, "PNG")
    return sink.getvalue()


def how_it_was_made(facts: Facts) -> str:
    """The recurrence, the instruction and the models."""
    how = (
        "Each seed was drawn, the picture was described, that description was drawn again, and so "
        f"on for {facts.num_rounds} rounds; every pair was kept with its lineage: "
        f"`M_j = G(D_{{j-1}})`, `D_j = F(I, M_j)`.{_injected(facts)}"
        if facts.mode == "loop"
        else f"Each seed was drawn {facts.num_rounds} times, with other random numbers, and each "
        "picture was described."
    )
    asked = facts.constants["instruction"]
    instruction = f' The captioner was asked: "{asked}"' if asked else ""
    made = f"Made with pairloom, run `{facts.fingerprint}`, begun {facts.started_at[:10]}."
    roles = [
        one for one in MODELS if one != "scorer" or facts.constants[one]
    ]  # often there is none
    models = "\n".join(_describe_model(facts.constants[role], role) for role in roles)
    return f"{how}{instruction}\n\n{models}\n\n{made}"


def drift(facts: Facts) -> str:
    """How scores go over the rounds; empty where there are none."""
    names = [name for name in _MEANINGS if any(name in one.scores for one in facts.rounds)]
    if not names:
        return ""
    rows = [
        [str(one.round_index), *(_score(one.scores.get(name)) for name in names)]
        for one in facts.rounds
        if one.num_kept
    ]
    said = "Mean and standard deviation of the published pairs; similarities are cosines of CLIP."
    whole = [
        f"{value:.3f} of the {name.partition('_')[0]}s ({number:,} chains)"
        for name, (value, number) in facts.mean_drift.items()
    ]
    said += " A round that began anew stands for round 0." if facts.inject else ""
    mean = f"\n\nMean Cumulative Drift (1 is none): {', '.join(whole)}." if whole else ""
    return f"{said}\n\n{table(['round', *(_MEANINGS[name] for name in names)], rows)}{mean}"


def _injected(facts: Facts) -> str:
    inject = facts.inject
    if not inject:
        return ""
    source = "a description of a file" if inject["path"] else "one of all the seeds"
    return (
        f" About {inject['share']:.0%} of the rounds from {inject['from_round']} on, chosen by "
        f"chance, began anew with {source}: there `parent_id` is null, and that is the `seed` of "
        "the pair and of those that follow."
    )


def cost(facts: Facts) -> str:
    """What is known of the work that stands behind the pairs."""
    said = [part for part in (_models_at_work(facts), _gpus_held(facts)) if part]
    return " ".join(said) or "Not recorded."


def _models_at_work(facts: Facts) -> str:
    spent = facts.cost
    whole_s = sum(spent.model_s.values())
    if not whole_s:
        return ""
    num_pairs = sum(one.num_pairs for one in facts.rounds)
    work = [f"{_span(s)} on {_WORK[name]}" for name, s in spent.model_s.items() if s]
    said = (
        f"Models worked {', '.join(work)} the {num_pairs:,} pairs that were made: "
        f"{whole_s / _num_published(facts):.3g} s a published pair"
    )
    if spent.gpu_hours:
        said += f", {spent.gpu_hours:.3g} GPU-hours"
    if spent.held_gpu_hours:
        return f"{said}."
    more = _price(facts, spent.gpu_hours, "") if spent.gpu_hours else ""
    return f"{said}{more}. Loading, waiting and failed calls come on top."


def _gpus_held(facts: Facts) -> str:
    hours = facts.cost.held_gpu_hours
    if not hours:
        return ""
    price = _price(facts, hours, ": {each:.3g} a published pair")
    return (
        "All that GPUs are on record as held for, loading, waiting and failed calls included, "
        f"came to {hours:.3g} GPU-hours{price}."
    )


def _price(facts: Facts, gpu_hours: float, each: str) -> str:
    gpu_hour_price = facts.cost.gpu_hour_price
    if not gpu_hour_price:
        return ""
    price = gpu_hours * gpu_hour_price
    more = each.format(each=price / _num_published(facts))
    return f", {price:.2f} at {gpu_hour_price:g} a GPU-hour{more}"


def _num_published(facts: Facts) -> int:
    return sum(one.num_kept for one in facts.rounds)


def citations(facts: Facts) -> str:
    """BibTeX for the method and for the models that are known."""
    works = [cite(facts.constants[role]) for role in MODELS if facts.constants[role]]
    return "\n\n".join(dict.fromkeys([METHOD, *(work for work in works if work)]))


def _describe_model(model: Row | None, role: str) -> str:
    if not model:
        return f"- {_ROLES[role]}: not recorded"
    page = hub_page(model)
    name = f"[`{model['id']}`]({page})" if page else f"`{model['id']}`"
    parts = [f"- {_ROLES[role]}: {name}, licence `{model['licence']}`"]
    parts += [f"revision `{model['revision']}`"] if model["revision"] else []
    parts += [f"digest `{model['digest']}`"] if model["digest"] else []
    params = ", ".join(f"{key} {value}" for key, value in _flat(sampling_params(model)))
    return ", ".join(parts) + (f"\n  ({params})" if params else "")


def _flat(params: Row, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each parameter that says something, nested ones by their dotted name."""
    for key, value in params.items():
        if isinstance(value, dict):
            yield from _flat(cast(Row, value), f"{prefix}{key}.")
        elif value not in ("", [], None):
            yield f"{prefix}{key}", str(value)


def _score(summary: tuple[float, float, int] | None) -> str:
    return f"{summary[0]:.3f} +- {summary[1]:.3f}" if summary else ""


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _cell(text: str) -> str:
    return " ".join(text.split())
