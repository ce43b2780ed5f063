"""Draws and describes one committed pair again from its record, in this process, and compares.

The config is that of the run, with whatever words are put over it (another device, a moved model
folder, another model to compare with). Nothing is written, and Ray is not started.

Limits: the pair is alone in its batch, and on this machine's device: both change a picture by a
little where the run's own batches and GPUs were others. A sampling captioner is reproduced as far
as its engine is by its rng_seed.
"""

import json
from collections.abc import Sequence
from typing import Any

from actors.image_to_text import build_image_to_text
from actors.models import ModelIdentity
from actors.records import Role, Row, derive_rng_seed
from actors.text_to_image import build_text_to_image
from cluster.run_record import differences
from pipelines.configs import config_of_run
from pipelines.lineage.chain import find_chain
from pipelines.lineage.compare import PairAgain, compare_images, compare_texts
from pipelines.synergy import SynergyConfig

_ROLES: tuple[Role, Role] = ("draw", "describe")


def replay_pair(output: str, pair_id: str, words: Sequence[str] = ()) -> PairAgain:
    """Makes the pair again and says what differs.

    Raises:
        ValueError: there is no such pair, or a word or a model of the config is wrong.
        CommitError: a committed file is missing or altered.
    """
    chain = find_chain(output, pair_id)
    row = chain.pair()
    config = config_of_run(output, words)
    # In turn, not side by side: both models at once need the memory of both.
    drawn, models = _draw(config, row)
    said, said_again, of_captioner = _describe(config, row, drawn)
    return PairAgain(
        pair_id=pair_id,
        models=models + of_captioner,
        rng_seeds=_wrong_rng_seeds(chain.run_seed, row),
        image=None if drawn["error"] else _compare_images(row, drawn),
        is_prompt_truncated=_truncations(row, drawn),
        description=_compare_texts(row, said),
        description_again=None if said_again is None else _compare_texts(row, said_again),
        draw_s=drawn.get("draw_s"),
        describe_s=said.get("describe_s"),
        problems=_problems(drawn, said, said_again),
    )


def _draw(config: SynergyConfig, row: Row) -> tuple[Row, list[str]]:
    identity = config.generator.identity()
    task = build_text_to_image(config.generator.pinned(identity), identity.digest)
    asked = {"prompt": row["prompt"], "rng_seed_draw": row["rng_seed_draw"], "error": None}
    found = _model_differences(
        "generator", row["generator"], identity, config.generator.sampling_params()
    )
    return task([asked])[0], found


def _describe(config: SynergyConfig, row: Row, drawn: Row) -> tuple[Row, Row | None, list[str]]:
    """What is said of the picture on record; and of the one drawn now, where it is another."""
    identity = config.captioner.identity()
    task = build_image_to_text(config.captioner.pinned(identity), identity.digest)
    found = _model_differences(
        "captioner", row["captioner"], identity, config.captioner.sampling_params()
    )
    instruction = config.captioner.instruction_used()
    if instruction.sha256 != row["instruction_sha256"]:
        found.append(f"instruction: {row['instruction_id']} -> {instruction.id}")
    # One call each: two rows would be a batch, and neither that of the run.
    said = task([_question(row, row["image"])])[0]
    is_other = not drawn["error"] and drawn["image_sha256"] != row["image_sha256"]
    return said, task([_question(row, drawn["image"])])[0] if is_other else None, found


def _question(row: Row, image: Any) -> Row:
    return {"image": image, "rng_seed_describe": row["rng_seed_describe"], "error": None}


def _model_differences(role: str, recorded: Row, identity: ModelIdentity, params: Row) -> list[str]:
    """What makes it another model, or another use of it, than on record."""
    found: list[str] = []
    if (recorded["digest"] or recorded["id"]) != (identity.digest or identity.id):
        found.append(
            f"{role}: {recorded['id']} {recorded['digest']} -> {identity.id} {identity.digest}"
        )
    before: Row = json.loads(recorded["params"] or "{}")
    now: Row = json.loads(json.dumps(params))
    return found + [f"{role}.{line}" for line in differences(before, now)]


def _wrong_rng_seeds(run_seed: int, row: Row) -> list[str]:
    """Those on record that another run seed, chain or round would have given."""
    right = {
        role: derive_rng_seed(run_seed, row["chain_id"], row["round_index"], role)
        for role in _ROLES
    }
    return [
        f"rng_seed_{role}: {row[f'rng_seed_{role}']} on record, {number} follows from the run"
        for role, number in right.items()
        if row[f"rng_seed_{role}"] != number
    ]


def _compare_images(row: Row, drawn: Row) -> Any:
    return compare_images(row["image"]["bytes"], drawn["image"]["bytes"])


def _compare_texts(row: Row, said: Row) -> Any:
    return None if said["error"] else compare_texts(row["description"], said["description"])


def _truncations(row: Row, drawn: Row) -> tuple[bool, bool] | None:
    if drawn["error"] or row["is_prompt_truncated"] is None:
        return None
    return row["is_prompt_truncated"], drawn["is_prompt_truncated"]


def _problems(drawn: Row, said: Row, said_again: Row | None) -> list[str]:
    rows = {"draw": drawn, "describe": said, "describe what was drawn": said_again or {}}
    return [f"{stage}: {row['error']}" for stage, row in rows.items() if row.get("error")]
