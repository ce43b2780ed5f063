"""Which failed rows to run again, as units of their own beside those that they failed in.

A receipt is never rewritten, so a replay commits under unit ids that name the unit, the generation
and the round it begins with: `0000003-ab12cd34.replay1r0`. It takes the place of the dead letters
that it begins with: for a (chain, round) the row of the highest generation counts.

    replays/<g>.json    the plan of generation g: its units, each with its chains

is put if absent before anything is drawn. Of two replays that begin at once one owns the generation
and the other is refused, unless both planned the same; without that they would commit one (chain,
round) twice under two names. A replay that was cut off is finished as planned, by whatever attempt
comes next.

Limits: reads the dead letters of the whole run into the driver, without their pictures. A unit a
replayed (unit, round): few chains each, so that batches are smaller than in the run itself.
"""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import pyarrow as pa

from actors.records import Row, derive_replay_id, is_replay, parse_unit_id
from cluster.errors import CommitError
from cluster.ledger import Ledger
from cluster.receipts import Receipt, parse_object
from pipelines.units import START_SCHEMA, Unit

PLAN_FOLDER = "replays"
FORMAT = 1
_PLAN_KEY = re.compile(rf"{PLAN_FOLDER}/([1-9][0-9]*)\.json")
_COLUMNS = ["chain_id", "seed", "prompt", "parent_id"]

Plan = Mapping[str, list[str]]  # unit id -> its chains
_Cell = tuple[int, int, str]  # unit index, round, chain


@dataclass(frozen=True, kw_only=True)
class Replays:
    """Units that slice `starts`, whose first row stands at the offset that was asked for."""

    units: list[Unit]
    starts: pa.Table


def claim_replays(
    ledger: Ledger, reasons: Collection[str], num_rounds: int, *, offset: int
) -> Replays:
    """A new generation of units for the dead letters that nothing has taken the place of.

    Args:
        ledger: of a run that is finished.
        reasons: only what failed for one of these codes; empty for all.
        num_rounds: of the run.
        offset: of the first start.

    A bad seed stays one: what failed at stage `seed` is left out.

    Raises:
        CommitError: another replay is under way.
    """
    # Plans before receipts: a generation that is claimed after this cannot be claimed below.
    plans = read_plans(ledger)
    receipts = ledger.receipts()
    committed = {(one.unit_id, one.round_index) for one in receipts}
    generation = max(plans, default=0) + 1
    plan = _plan_units(ledger, receipts, reasons, generation)
    is_free = not _due_rounds(ledger, plans, committed, num_rounds)
    if not is_free or (plan and not _claim(ledger, generation, plan)):
        raise CommitError(
            f"another replay of {ledger.store.uri} is under way: let it end, or finish it with "
            "`pairloom run`, and replay again what has failed then"
        )
    return resume_replays(ledger, committed, num_rounds, offset=offset)


def resume_replays(
    ledger: Ledger, committed: Collection[tuple[str, int]], num_rounds: int, *, offset: int
) -> Replays:
    """What was planned and is not finished, each unit at its first round without a receipt.

    `committed` must have been listed before this call, so that what it names has been planned.

    Raises:
        CommitError: receipts or plans contradict each other.
    """
    plans = read_plans(ledger)
    chains = {unit_id: ids for plan in plans.values() for unit_id, ids in plan.items()}
    strangers = {unit_id for unit_id, _ in committed if is_replay(unit_id)} - chains.keys()
    if strangers:
        raise CommitError(
            f"{ledger.store.uri} has receipts of {min(strangers)}, which no plan in {PLAN_FOLDER}/ "
            "names: `pairloom verify` says what else is damaged, `pairloom repair` removes them"
        )
    due_rounds = _due_rounds(ledger, plans, committed, num_rounds)
    letters = _read_letters(ledger, due_rounds, committed)
    units: list[Unit] = []
    starts: list[Row] = []
    for unit_id, next_round in sorted(due_rounds.items()):
        name = parse_unit_id(unit_id)
        units.append(
            Unit(
                unit_id=unit_id,
                unit_index=name.unit_index,
                offset=offset + len(starts),
                num_chains=len(chains[unit_id]),
                first_round=name.first_round,
                next_round=next_round,
            )
        )
        for chain_id in chains[unit_id]:
            starts.append(_start_of(letters, (name.unit_index, name.first_round, chain_id)))
    return Replays(units=units, starts=pa.Table.from_pylist(starts, schema=START_SCHEMA))


def read_plans(ledger: Ledger) -> dict[int, Plan]:
    """Every plan, by its generation; `CommitError` for one that cannot be read."""
    found = [(_PLAN_KEY.fullmatch(key), key) for key in ledger.store.list(PLAN_FOLDER)]
    return {int(match[1]): _read_plan(ledger, key) for match, key in found if match}


def remove_planned(ledger: Ledger, unit_ids: Collection[str]) -> None:
    """Takes units out of their plans. Only for a repair, of a run that nobody works on."""
    for generation, plan in read_plans(ledger).items():
        kept = {unit_id: chains for unit_id, chains in plan.items() if unit_id not in unit_ids}
        if len(kept) < len(plan):
            ledger.store.put(_plan_key(generation), _to_json(ledger, kept))


def find_current(
    ledger: Ledger, receipts: Iterable[Receipt]
) -> Iterable[tuple[tuple[int, int], Row]]:
    """((unit index, round), dead letter) of every failed row that no later generation replaced."""
    latest: dict[tuple[str, int], tuple[int, int, Row | None]] = {}
    by_generation = sorted(receipts, key=lambda one: parse_unit_id(one.unit_id).generation)
    for receipt in by_generation:
        name, round_index = parse_unit_id(receipt.unit_id), receipt.round_index
        if name.generation and receipt.data:
            for row in ledger.read_pairs(receipt, ["chain_id"]).to_pylist():
                latest[row["chain_id"], round_index] = (name.unit_index, round_index, None)
        if receipt.dead_letter:
            columns = [*_COLUMNS, "stage", "reason"]
            for row in ledger.read_dead_letters(receipt, columns).to_pylist():
                latest[row["chain_id"], round_index] = (name.unit_index, round_index, row)
    for unit_index, round_index, row in latest.values():
        if row is not None:
            yield (unit_index, round_index), row


def _plan_units(
    ledger: Ledger, receipts: Iterable[Receipt], reasons: Collection[str], generation: int
) -> Plan:
    groups: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for place, row in find_current(ledger, receipts):
        if row["stage"] != "seed" and (not reasons or row["reason"] in reasons):
            groups[place].append(row["chain_id"])
    return {
        derive_replay_id(unit_index, sorted(chains), generation, round_index): sorted(chains)
        for (unit_index, round_index), chains in sorted(groups.items())
    }


def _claim(ledger: Ledger, generation: int, plan: Plan) -> bool:
    key, data = _plan_key(generation), _to_json(ledger, plan)
    return ledger.store.put_if_absent(key, data) or ledger.store.read(key) == data


def _plan_key(generation: int) -> str:
    return f"{PLAN_FOLDER}/{generation}.json"


def _to_json(ledger: Ledger, plan: Plan) -> bytes:
    document = {"format": FORMAT, "fingerprint": ledger.fingerprint, "units": dict(plan)}
    return json.dumps(document, sort_keys=True).encode() + b"\n"


def _read_plan(ledger: Ledger, key: str) -> Plan:
    try:
        document = parse_object(ledger.store.read(key))
        if (document.get("format"), document.get("fingerprint")) != (FORMAT, ledger.fingerprint):
            raise ValueError(f"not of format {FORMAT} and of this run")
        plan = cast(Plan, document.get("units"))
        for unit_id, chains in plan.items():
            name = parse_unit_id(unit_id)
            own = (name.unit_index, chains, name.generation, name.first_round)
            if derive_replay_id(*own) != unit_id:
                raise ValueError(f"the chains that it has for {unit_id} are not those of the name")
    except (ValueError, TypeError, AttributeError, FileNotFoundError) as error:
        raise CommitError(
            f"{key} in {ledger.store.uri}: {error}: `pairloom verify` says what else is damaged, "
            "`pairloom repair` takes back what it had planned"
        ) from error
    return plan


def _due_rounds(
    ledger: Ledger,
    plans: Mapping[int, Plan],
    committed: Collection[tuple[str, int]],
    num_rounds: int,
) -> dict[str, int]:
    """The first round without a receipt, of each planned unit that is not finished."""
    by_first: defaultdict[int, list[str]] = defaultdict(list)
    for unit_id in (unit_id for plan in plans.values() for unit_id in plan):
        by_first[parse_unit_id(unit_id).first_round].append(unit_id)
    due: dict[str, int] = {}
    for first, unit_ids in by_first.items():
        rounds = ledger.next_rounds(unit_ids, committed, first_round=first)
        due |= {unit_id: r for unit_id, r in rounds.items() if r < num_rounds}
    return due


def _read_letters(
    ledger: Ledger, unit_ids: Iterable[str], committed: Iterable[tuple[str, int]]
) -> dict[_Cell, Row]:
    """The dead letters where these units begin, of the highest generation that has one there."""
    names = [parse_unit_id(unit_id) for unit_id in unit_ids]
    places = {(name.unit_index, name.first_round) for name in names}
    if not places:
        return {}
    wanted = [one for one in committed if (parse_unit_id(one[0]).unit_index, one[1]) in places]
    receipts = ledger.receipts(wanted)
    receipts.sort(key=lambda one: parse_unit_id(one.unit_id).generation)
    return {
        (parse_unit_id(receipt.unit_id).unit_index, receipt.round_index, row["chain_id"]): row
        for receipt in receipts
        for row in ledger.read_dead_letters(receipt, [*_COLUMNS, "reason"]).to_pylist()
    }


def _start_of(letters: Mapping[_Cell, Row], cell: _Cell) -> Row:
    row = letters.get(cell)
    if row is None:
        raise CommitError(
            f"chain {cell[2]} is to be replayed from round {cell[1]} on, where it has no dead "
            "letter: `pairloom verify` says what is damaged"
        )
    return {name: row[name] for name in _COLUMNS} | {"replaces": row["reason"]}
