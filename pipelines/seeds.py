"""Makes the seed table of a run and commits it before the loop starts, once for all attempts.

A resume sees by the bytes of the seed file that its seeds are still the same ones, and takes the
table that is committed: cleaning and checking 640,000 seeds anew took 25 s.

Limits: a file with other bytes is read anew, and may hold the same seeds. Seeds of an author are
read back from the table, because asking again costs GPU time.
"""

import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from actors.engines import Answer
from actors.models import ModelIdentity
from actors.records import SEED_SCHEMA, Row, derive_chain_ids
from actors.text_rules import TEXT_RULES_ID
from cluster.errors import PairloomError
from cluster.pool import Poison
from cluster.receipts import installed
from cluster.shards import encode_shard
from cluster.storage import Store
from pipelines.author import Ask, AuthorConfig, Written, write_batch
from pipelines.sources import SeedsConfig, parse_seeds, read_file, to_seed_table

logger = logging.getLogger(__name__)

SEEDS_KEY = "seeds/seeds.parquet"
# In the table's metadata: what it was made from, and what it is to a run's fingerprint.
_ORIGIN, _IDENTITY = b"pairloom.seeds_origin", b"pairloom.seeds_identity"


def read_table(config: SeedsConfig, run_seed: int, committed: pa.Table | None = None) -> pa.Table:
    """The seed table of the file that `config.path` names; `committed`, if that was made of it."""
    data = read_file(config)
    origin = _origin(config, run_seed, data)
    if committed is not None and _metadata(committed).get(_ORIGIN) == origin:
        return committed
    seeds = parse_seeds(config, data)
    table = to_seed_table(seeds, run_seed=run_seed, max_chars=config.max_chars)
    identity = json.dumps(_identify(table)).encode()
    return table.replace_schema_metadata({_ORIGIN: origin, _IDENTITY: identity})


def table_identity(table: pa.Table) -> Row:
    """What a run's fingerprint says of seeds that were read: how many, and a digest of them."""
    return json.loads(_metadata(table)[_IDENTITY])


def _metadata(table: pa.Table) -> dict[bytes, bytes]:
    return table.schema.metadata or {}


def _origin(config: SeedsConfig, run_seed: int, data: bytes) -> bytes:
    """A digest of all that the table is made of: the file's bytes, and how they are read."""
    assert config.path is not None
    rules = TEXT_RULES_ID if config.has_text_rules else ""
    how = [config.path.rpartition("/")[2], config.column, config.limit, config.max_chars, rules]
    words = json.dumps([installed(["pairloom"]).get("pairloom"), *how, run_seed]).encode()
    return hashlib.sha256(words + data).hexdigest().encode()


def _identify(table: pa.Table) -> Row:
    rows = table.select(["seed", "error"]).to_pylist()
    digest = hashlib.sha256(json.dumps([list(r.values()) for r in rows]).encode()).hexdigest()
    return {"num_seeds": len(rows), "sha256": digest}


def author_identity(config: SeedsConfig, model: ModelIdentity) -> Row:
    """What a run's fingerprint says of seeds that a model will write."""
    author = config.author
    return {
        "num_batches": author.num_batches,
        "batch_size": author.batch_size,
        "is_list": author.is_list,
        "max_chars": config.max_chars,
        "text_rules": TEXT_RULES_ID,
        "prompt_id": author.prompt_id,
        "prompt_sha256": author.prompt_used().sha256,
        "author": {"is": model.digest or model.id} | author.model.sampling_params(),
    }


def commit_table(store: Store, table: pa.Table, key: str = SEEDS_KEY) -> pa.Table:
    """Puts the table unless another attempt did, and returns the one that is there."""
    if store.put_if_absent(key, encode_shard(table).data):
        return table
    return load_table(store, key)


def find_table(store: Store, key: str = SEEDS_KEY) -> pa.Table | None:
    """The committed seed table, if there is one yet."""
    try:
        return load_table(store, key)
    except FileNotFoundError:
        return None


def load_table(store: Store, key: str = SEEDS_KEY) -> pa.Table:
    """The committed seed table; `FileNotFoundError` while there is none."""
    file = pq.ParquetFile(io.BytesIO(store.read(key)))
    return file.read().cast(SEED_SCHEMA).replace_schema_metadata(file.schema_arrow.metadata)


def write_table(config: SeedsConfig, run_seed: int, ask: Ask) -> pa.Table:
    """D_init = H(P): b batches of m distinct descriptions, as the seed table.

    Raises:
        PairloomError: a batch did not come together within `max_attempts`.
    """
    taken: set[str] = set()
    batches: list[Written] = []
    for index in range(config.author.num_batches):
        batch = write_batch(
            config.author,
            ask,
            run_seed=run_seed,
            batch_index=index,
            taken=taken,
            max_chars=config.max_chars,
        )
        _judge(config.author, batch, index)
        batches.append(batch)
    dropped = sum((batch.dropped for batch in batches), Counter[str]())
    logger.info(
        "author: %d distinct seeds in %d batches; dropped and asked again: %s",
        len(taken),
        len(batches),
        dict(dropped) or "none",
    )
    return _to_table(config.author, batches, run_seed)


def ask_with(run_rows: Callable[[list[Row]], Sequence[Row | Poison]], prompt: str) -> Ask:
    """Lets an author pool, or a bare task, answer; a failed call counts as an empty answer."""

    def ask(rng_seeds: list[int]) -> list[Answer]:
        rows = run_rows([{"prompt": prompt, "rng_seed": seed} for seed in rng_seeds])
        return [_to_answer(row) for row in rows]

    return ask


def _to_answer(row: Row | Poison) -> Answer:
    if isinstance(row, Poison) or row.get("error"):
        error = row.message if isinstance(row, Poison) else row["error"]
        logger.warning("author: a call failed and will be repeated: %s", error)
        return Answer(text="")
    return Answer(text=row["text"], finish_reason=row["finish_reason"])


def _judge(config: AuthorConfig, batch: Written, index: int) -> None:
    if len(batch.texts) == config.batch_size:
        return
    raise PairloomError(
        f"the author wrote only {len(batch.texts)} of {config.batch_size} distinct descriptions "
        f"for batch {index} in {config.max_attempts} attempts (dropped: {dict(batch.dropped)}): "
        "raise seeds.author.model.temperature or seeds.author.max_attempts, or ask for fewer"
    )


def _to_table(config: AuthorConfig, batches: list[Written], run_seed: int) -> pa.Table:
    prompt = config.prompt_used()
    rows: list[Row] = [
        {
            "seed": text,
            "source": f"author batch {index}",
            "prompt_id": prompt.id,
            "prompt_sha256": prompt.sha256,
            "rng_seed": rng_seed,
        }
        for index, batch in enumerate(batches)
        for text, rng_seed in zip(batch.texts, batch.rng_seeds, strict=True)
    ]
    chain_ids = derive_chain_ids(run_seed, [row["seed"] for row in rows])
    for row, chain_id in zip(rows, chain_ids, strict=True):
        row["chain_id"] = chain_id
    return pa.Table.from_pylist(rows, schema=SEED_SCHEMA)
