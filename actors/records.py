"""The columns of a pair and of a chain in flight, and how their ids and rng_seeds are derived.

Everything here is a pure function of its arguments: two machines that know the run seed and the
seed text agree on every id and every rng_seed, whatever the parallelism, the unit size or the
number of resumes.

Limits: `PAIR_SCHEMA` is the published format; adding a column is a new minor version, renaming
one a new major. An rng_seed fixes the numbers that a model draws, not the last bits of its
arithmetic: batch size and device may change those.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

Row = dict[str, Any]
Role = Literal["draw", "describe", "author", "inject"]

RECORD_FORMAT = "2.2"

_UNIT_ID = re.compile(
    r"(?P<index>[0-9]+)-[0-9a-f]+(?:\.replay(?P<generation>[0-9]+)r(?P<first>[0-9]+))?"
)

# The struct that Hugging Face `datasets` decodes as an image; `path` is only a name.
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

_MODEL_FIELDS: list[tuple[str, pa.DataType]] = [
    ("id", pa.string()),
    ("revision", pa.string()),
    ("digest", pa.string()),
    ("licence", pa.string()),
    (
        "params",
        pa.string(),
    ),  # sampling parameters as canonical JSON: they differ from engine to engine
]
MODEL_TYPE = pa.struct(_MODEL_FIELDS)

_FLOAT, _NAMES = pa.float32(), pa.list_(pa.string())
# Delta has no half and no fixed-size list, and a dot of rounded halves is off by 4e-5.
_VECTOR = pa.list_(pa.float32())

# What the stage `score` writes, null in a run without a scorer. The first nine are one number.
# The beginning of a chain is round 0, or in a loop the round that last began anew (`inject`).
SCORE_COLUMNS: list[tuple[str, pa.DataType, str]] = [
    ("clip_similarity", _FLOAT, "CLIP: cosine of the image and its prompt"),
    ("clip_similarity_description", _FLOAT, "of the image and its description"),
    ("image_similarity_first", _FLOAT, "of the image and that of the beginning; 1 there"),
    ("image_similarity_previous", _FLOAT, "of the image and the one before; null in a beginning"),
    ("text_similarity_first", _FLOAT, "of the description and that of the beginning; 1 there"),
    ("text_similarity_previous", _FLOAT, "of the description and the one before; likewise"),
    ("aesthetic", _FLOAT, "of `scorer.aesthetic`, in its own units; null without"),
    ("punsafe", _FLOAT, "probability that the image is unsafe, of `scorer.safety`; null without"),
    ("pwatermark", _FLOAT, "that it has a watermark, of `scorer.watermark`; null without"),
    ("phash", pa.string(), "perceptual hash of the image, 64 bits as 16 hex digits"),
    ("caption_flags", _NAMES, "what is wrong with the description: `actors/caption_hygiene.py`"),
    ("image_embedding", _VECTOR, "CLIP vector of the image, of length 1"),
    ("text_embedding", _VECTOR, "CLIP vector of the description, of length 1"),
    ("score_s", pa.float64(), "the scores' share of their batch, seconds"),
]

# (name, type, meaning): the table in pipelines/README.md is this list; a test holds them together.
PAIR_COLUMNS: list[tuple[str, pa.DataType, str]] = [
    ("pair_id", pa.string(), "unique: `<chain_id>-<round_index>`"),
    (
        "chain_id",
        pa.string(),
        "everything grown from one seed; derived from run seed and seed text",
    ),
    ("unit_id", pa.string(), "the slice of chains that was committed together"),
    ("round_index", pa.int32(), "from 0"),
    (
        "parent_id",
        pa.string(),
        "pair whose description was the prompt; null in `resample` and in a beginning: round 0, or "
        "a round that `inject` began anew",
    ),
    (
        "seed",
        pa.string(),
        "the text that it grew from, cleaned as it was used: the chain's seed, or the fresh "
        "description that it last began anew with",
    ),
    ("prompt", pa.string(), "exactly what the text-to-image model received"),
    ("is_prompt_truncated", pa.bool_(), "the text encoder cut the prompt at its token limit"),
    ("image", IMAGE_TYPE, "encoded bytes; `datasets` shows it as an image"),
    ("width", pa.int32(), "pixels"),
    ("height", pa.int32(), "pixels"),
    ("image_sha256", pa.string(), "of the encoded bytes"),
    ("description", pa.string(), "what the captioner said of the image"),
    (
        "finish_reason",
        pa.string(),
        "how the description ended: `stop` by itself, `length` cut at the token limit; null where "
        "the engine cannot tell",
    ),
    ("instruction", pa.string(), "what the captioner was asked"),
    ("instruction_id", pa.string(), "name of the instruction"),
    ("instruction_sha256", pa.string(), "of its text"),
    (
        "generator",
        MODEL_TYPE,
        "text-to-image model: id, revision, digest, licence, sampling params",
    ),
    ("captioner", MODEL_TYPE, "image-to-text model, likewise"),
    ("rng_seed_draw", pa.int64(), "derived from run seed, chain_id, round_index and role"),
    ("rng_seed_describe", pa.int64(), "likewise"),
    ("draw_s", pa.float64(), "the image's share of the model's seconds"),
    ("describe_s", pa.float64(), "the description's share of the model's seconds"),
    ("created_at", pa.timestamp("us", tz="UTC"), "when the row was built"),
    *SCORE_COLUMNS,
    ("scorer", MODEL_TYPE, "what scored the pair, as `generator`; null without a scorer"),
    ("stop_reason", pa.string(), "the rule that ended the chain with this pair; null otherwise"),
]

# Likewise. `DEAD_LETTER_SCHEMA` shares with the pairs what it can, so that the two can be joined.
DEAD_LETTER_COLUMNS: list[tuple[str, pa.DataType, str]] = [
    ("pair_id", pa.string(), "the pair that it would have been"),
    ("chain_id", pa.string(), "whose chain failed"),
    ("unit_id", pa.string(), "the slice of chains that was committed together"),
    ("round_index", pa.int32(), "the round it failed in; earlier pairs stay, later are not grown"),
    ("parent_id", pa.string(), "as for a pair"),
    ("stage", pa.string(), "`seed`, `draw`, `describe` or `score`"),
    ("reason", pa.string(), "code, stable and meant for counting: `actors/reasons.py`"),
    ("message", pa.string(), "what was seen, for people"),
    ("traceback_sha256", pa.string(), "16 digits, as in the log line with the traceback; or null"),
    ("attempts", pa.int32(), "calls of the model that the row was in"),
    ("seed", pa.string(), "as for a pair"),
    ("prompt", pa.string(), "exactly what the text-to-image model received"),
    ("image", IMAGE_TYPE, "the picture, where one was drawn before it failed"),
    ("image_sha256", pa.string(), "of the encoded bytes"),
    ("rng_seed_draw", pa.int64(), "as for a pair"),
    ("rng_seed_describe", pa.int64(), "likewise; null when it failed before"),
    ("created_at", pa.timestamp("us", tz="UTC"), "when the row was built"),
]

_HF_VALUE_NAMES = {
    pa.timestamp("us", tz="UTC"): "timestamp[us, tz=UTC]",
    pa.float64(): "float64",
    pa.float32(): "float32",  # pyarrow says float and double
}


def hf_feature(data_type: pa.DataType) -> dict[str, Any]:
    """How `datasets` names a type: an image, a value, a list of one, or a struct of them."""
    if data_type == IMAGE_TYPE:
        return {"_type": "Image"}
    if pa.types.is_list(data_type):  # the name that `datasets` 4 gave what it had called Sequence
        return {"feature": hf_feature(data_type.value_type), "_type": "List"}
    if pa.types.is_struct(data_type):
        return {field.name: hf_feature(field.type) for field in data_type}
    return {"dtype": _HF_VALUE_NAMES.get(data_type, str(data_type)), "_type": "Value"}


def _with_features(fields: list[tuple[str, pa.DataType, str]]) -> pa.Schema:
    """Adds the metadata from which `datasets` restores its features without being told."""
    features = {name: hf_feature(data_type) for name, data_type, _ in fields}
    metadata = {
        "huggingface": json.dumps({"info": {"features": features}}),
        "pairloom.format": RECORD_FORMAT,
    }
    return pa.schema([(name, data_type) for name, data_type, _ in fields], metadata=metadata)


PAIR_SCHEMA = _with_features(PAIR_COLUMNS)
DEAD_LETTER_SCHEMA = _with_features(DEAD_LETTER_COLUMNS)

# What a rule of early stopping reads of one round of a chain; of the description its digest.
FACTS_TYPE = pa.struct(
    [
        ("phash", pa.string()),
        ("text_sha256", pa.string()),
        ("num_words", pa.int32()),  # distinct ones
        ("image_similarity_first", pa.float32()),
        ("image_similarity_previous", pa.float32()),
        ("text_similarity_first", pa.float32()),
        ("text_similarity_previous", pa.float32()),
    ]
)

# Vectors are float32 in bytes here, little-endian: a list of 768 numbers is slow row by row.
_EMBEDDINGS = ("image_embedding", "text_embedding")
MEMORY_VECTORS = tuple(f"{name}_{of}" for name in _EMBEDDINGS for of in ("first", "previous"))

# A chain in flight: what the next stage needs and nothing more; `record` takes the image out.
CHAIN_SCHEMA = pa.schema(
    [
        ("chain_id", pa.string()),
        ("unit_id", pa.string()),
        ("unit_index", pa.int64()),
        ("first_round", pa.int32()),  # 0, or the round that a replay begins with
        ("next_round", pa.int32()),  # rounds below it are committed: their stages let the unit pass
        ("replaces", pa.string()),  # in a replay: the reason that the chain failed for before
        ("seed", pa.string()),
        ("parent_id", pa.string()),
        ("prompt", pa.string()),
        ("is_prompt_truncated", pa.bool_()),
        ("image", IMAGE_TYPE),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("image_sha256", pa.string()),
        ("description", pa.string()),
        ("finish_reason", pa.string()),
        ("rng_seed_draw", pa.int64()),
        ("rng_seed_describe", pa.int64()),
        ("draw_s", pa.float64()),
        ("describe_s", pa.float64()),
        ("error", pa.string()),  # `reason_code: message`
        ("error_stage", pa.string()),
        ("error_attempts", pa.int32()),
        ("error_traceback_sha256", pa.string()),
        # an earlier round failed, or a rule ended it: nothing more is grown from this chain
        ("is_stopped", pa.bool_()),
        ("stop_reason", pa.string()),  # of the round before, where a rule ended it then
        *((name, pa.binary() if kind == _VECTOR else kind) for name, kind, _ in SCORE_COLUMNS),
        # what later rounds need of the earlier ones, where there is a scorer or a rule
        *((name, pa.binary()) for name in MEMORY_VECTORS),
        ("past", pa.list_(FACTS_TYPE)),
        # by round, where the run injects any: the fresh description that it begins anew with
        ("fresh", pa.list_(pa.string())),
    ]
)

SEED_SCHEMA = pa.schema(
    [
        ("chain_id", pa.string()),
        ("seed", pa.string()),
        ("source", pa.string()),  # file and line, list entry, or author batch
        ("prompt_id", pa.string()),  # the author's prompt P, null when no model wrote the seed
        ("prompt_sha256", pa.string()),
        ("rng_seed", pa.int64()),  # the author's, likewise
        ("error", pa.string()),
    ]
)


def _digest(*parts: object) -> bytes:
    # Length-prefixed, so that ("ab", "c") and ("a", "bc") differ. A lone surrogate, which JSON can
    # spell, has bytes of its own: naming a seed never fails.
    texts = [str(part).encode(errors="surrogatepass") for part in parts]
    return hashlib.sha256(b"".join(b"%d:%s" % (len(text), text) for text in texts)).digest()


def derive_chain_ids(run_seed: int, seeds: Iterable[str]) -> list[str]:
    """Names each seed by its content; a repeat is told apart by its occurrence, not by position."""
    seen: defaultdict[str, int] = defaultdict(int)
    ids: list[str] = []
    for seed in seeds:
        ids.append(_digest("chain", run_seed, seed, seen[seed]).hex()[:20])
        seen[seed] += 1
    return ids


def derive_unit_id(unit_index: int, chain_ids: Iterable[str]) -> str:
    """Names a unit so that names sort by age and another slicing of the chains never reuses one."""
    return f"{unit_index:07d}-{_digest('unit', *chain_ids).hex()[:8]}"


def derive_replay_id(
    unit_index: int, chain_ids: Iterable[str], generation: int, round_index: int
) -> str:
    """Names a unit that runs failed chains of unit `unit_index` again, from `round_index` on."""
    return f"{derive_unit_id(unit_index, chain_ids)}.replay{generation}r{round_index}"


@dataclass(frozen=True, kw_only=True)
class UnitName:
    """What the id of a unit says; generation 0 is a unit of the run itself."""

    unit_index: int
    generation: int
    first_round: int


def parse_unit_id(unit_id: str) -> UnitName:
    """The inverse of `derive_unit_id` and `derive_replay_id`, but for the digest of the chains."""
    match = _UNIT_ID.fullmatch(unit_id)
    if match is None:  # no unit of ours has such an id
        return UnitName(unit_index=-1, generation=0, first_round=0)
    return UnitName(
        unit_index=int(match["index"]),
        generation=int(match["generation"] or 0),
        first_round=int(match["first"] or 0),
    )


def is_replay(unit_id: str) -> bool:
    """Whether the unit runs failed chains of an earlier unit again."""
    return parse_unit_id(unit_id).generation > 0


def derive_pair_id(chain_id: str, round_index: int) -> str:
    """The unique name of one (chain, round)."""
    return f"{chain_id}-{round_index:03d}"


def derive_rng_seed(run_seed: int, chain_id: str, round_index: int, role: Role) -> int:
    """A number in [0, 2**63) that depends on nothing but the four arguments."""
    return int.from_bytes(_digest("rng", run_seed, chain_id, round_index, role)[:8], "big") >> 1
