"""`pairloom publish`: claims a place, judges, plans, writes, and closes with a manifest.

    publish.json      whose place this is                 (first)
    data/...          the pairs; or images/, train/, ...
    dropped.parquet   what the filter left out, and why
    README.md         the card, with example.png: one chain as a film strip
    manifest.json     every file with its hash            (last)

Each step is a pure function of the run and the config, and each file is put if absent: the same
command after a kill writes what is missing, and the result is the same to the byte.

Limits: one process. Files that a kill left in the temporary folder of a local place are removed at
the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from actors.records import RECORD_FORMAT
from cluster.config import to_dict
from cluster.errors import PairloomError
from cluster.ledger import Ledger
from cluster.receipts import Receipt
from cluster.run_record import read_run
from cluster.shards import encode_shard
from cluster.storage import open_store
from pipelines import seeds as seed_tables
from pipelines.filters import Judged, judge_run
from pipelines.filters.report import decisions, digest_commits
from pipelines.publish.card import write_card
from pipelines.publish.card_parts import EXAMPLE_KEY, draw_example
from pipelines.publish.config import PublishConfig
from pipelines.publish.destination import CARD_KEY, Claim, Destination, FileEntry
from pipelines.publish.facts import FACT_COLUMNS, gather_facts
from pipelines.publish.plan import Plan, plan_parts
from pipelines.publish.schema import published_schema
from pipelines.publish.write import Job, published_columns, write_pairs
from pipelines.status import cells_of, is_finished

DROPPED_KEY = "dropped.parquet"


@dataclass(frozen=True, kw_only=True)
class Published:
    """What lies at the destination."""

    dest: str
    splits: dict[str, int]
    num_pairs: int
    num_dropped: int
    reasons: dict[str, int]
    num_files: int
    size_bytes: int
    is_new: bool  # False: it was whole before


def publish(output: str, dest: str, config: PublishConfig) -> Published:
    """Publishes the run at `output` to `dest`, a folder or a URI, or goes on where that stopped.

    Raises:
        ValueError: there is no run, nothing to publish, or `dest` holds something else.
        RunMismatchError: `dest` holds a publish of another run or config.
        PairloomError: the run is not finished, and `is_partial` is not set.
        CommitError: a committed file is damaged.
    """
    store = open_store(output)
    run = read_run(store)
    ledger = Ledger(store, run["fingerprint"])
    receipts = ledger.receipts()
    seeds = seed_tables.find_table(store)
    num_chains = None if seeds is None else seeds.num_rows
    if not (config.is_partial or is_finished(cells_of(receipts), num_chains, run["record"])):
        raise PairloomError(
            f"{output} is not finished (`pairloom status {output}`): let it end, or publish what "
            "there is with is_partial=true"
        )
    place = Destination(dest)
    claim = place.claim(ledger, receipts, config)
    manifest = place.manifest()
    is_new = manifest is None
    if manifest is None:
        is_whole = is_finished(cells_of(claim.receipts), num_chains, run["record"])
        manifest = _write(output, ledger, run, claim, config, place, is_whole=is_whole)
    place.tidy()
    return _summarise(dest, manifest, is_new=is_new)


def _write(
    output: str,
    ledger: Ledger,
    run: dict[str, Any],
    claim: Claim,
    config: PublishConfig,
    place: Destination,
    *,
    is_whole: bool,
) -> dict[str, Any]:
    receipts = claim.receipts
    judged = judge_run(output, receipts, config.filter, FACT_COLUMNS)
    plan = plan_parts(judged, config)
    schema = published_schema(one.schema for one in judged.files)
    facts = gather_facts(ledger, run, claim, judged, plan, is_finished=is_whole)
    job = Job(
        ledger=ledger, files=judged.files, plan=plan, schema=schema, config=config, place=place
    )
    entries = [place.claim_entry(), *write_pairs(job)]
    if config.filter.asked:
        entries.append(_write_dropped(judged, config, place))
    entries.append(place.put(EXAMPLE_KEY, draw_example(facts)))
    card = write_card(facts, plan, config, published_columns(schema, config))
    entries.append(place.put(CARD_KEY, card.encode()))
    return place.finish(_head(run, receipts, judged, plan, config), entries)


def _head(
    run: dict[str, Any],
    receipts: Sequence[Receipt],
    judged: Judged,
    plan: Plan,
    config: PublishConfig,
) -> dict[str, Any]:
    return {
        "run": {
            "fingerprint": run["fingerprint"],
            "started_at": run["started_at"],
            "commits_digest": digest_commits(receipts),
            "record_format": RECORD_FORMAT,
        },
        "config": to_dict(config),
        "filter_digest": config.filter.digest,
        "num_dropped": int((~judged.is_kept).sum()),
        "reasons": judged.count_reasons(),
        "splits": {split: plan.num_rows(split) for split in plan.splits},
    }


def _write_dropped(judged: Judged, config: PublishConfig, place: Destination) -> FileEntry:
    table = decisions(judged, config.filter)
    table = table.filter(pa.array(~judged.is_kept)).drop_columns(["is_kept"])
    return place.put(DROPPED_KEY, encode_shard(table).data, num_rows=table.num_rows)


def _summarise(dest: str, manifest: dict[str, Any], *, is_new: bool) -> Published:
    files: list[dict[str, Any]] = manifest["files"]
    return Published(
        dest=dest,
        splits=manifest["splits"],
        num_pairs=sum(manifest["splits"].values()),
        num_dropped=manifest["num_dropped"],
        reasons=manifest["reasons"],
        num_files=len(files) + 1,
        size_bytes=sum(one["size_bytes"] for one in files),
        is_new=is_new,
    )


def describe_published(published: Published) -> str:
    """What was published, as a page of text."""
    splits = ", ".join(f"{number} {split}" for split, number in published.splits.items())
    state = "" if published.is_new else " (it was whole before: nothing was written)"
    size = published.size_bytes / 1e6
    return "\n".join(
        [
            f"published  {published.dest}{state}",
            f"pairs      {published.num_pairs}: {splits}",
            f"dropped    {published.num_dropped}",
            *(f"           {number} {name}" for name, number in published.reasons.items()),
            f"files      {published.num_files}, {size:.1f} MB, all in manifest.json",
            f"card       {published.dest.rstrip('/')}/{CARD_KEY}",
        ]
    )
