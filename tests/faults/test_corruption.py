"""1,000 random corruptions of a sound run: `verify` finds every one and names the unit.

Each corruption says what it did: which unit and round it damaged, or that it did no harm. What a
flipped byte in a receipt, in run.json or in the seed table means is told from the JSON and the
columns themselves.

Limits: one corruption at a time. The run is small, so that a thousand copies of it fit into a
minute or two; a tenth of them is done with every change, all of them with `make faults`.
"""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corrupt import RunWriter, digest_ids, put_json, put_table

from pipelines.verify import Report, exit_code, verify_run

NUM_QUICK, NUM_ALL = 100, 1_000
# What a receipt says that nothing else confirms.
UNPROVEN = ("versions", "committed_at", "replaced_reasons")
Row = dict[str, Any]


@dataclass(frozen=True)
class Done:
    """What a corruption did; without a unit it damaged what belongs to all, or nothing."""

    what: str
    is_harm: bool | None  # None: it may or may not be seen, nothing that counts was changed
    units: tuple[str, ...] = ()
    round_index: int | None = None


@dataclass(frozen=True)
class Copy:
    """A copy of the sound run, to be damaged."""

    folder: Path
    rng: random.Random

    def files(self, *folders: str) -> list[Path]:
        return sorted(
            path
            for name in folders
            for path in self.folder.glob(f"{name}/*/*")
            if _is_row_file(path)
        )

    def receipts(self) -> list[Path]:
        return sorted(self.folder.glob("receipts/*/*.json"))

    def pick(self, paths: list[Path]) -> Path:
        return self.rng.choice(paths)

    def refold(self) -> None:
        """Writes the Delta log anew from the receipts, so that it tells nothing."""
        refs = [json.loads(path.read_text())["data"] for path in self.receipts()]
        RunWriter.fold(self, [ref for ref in refs if ref])


def _is_row_file(path: Path) -> bool:
    return path.suffix == ".parquet" or path.parent.parent.name == "receipts"


def _place(path: Path) -> tuple[str, int]:
    """The unit and round that a file belongs to, by its name."""
    if path.suffix == ".json":
        return path.parent.name, int(path.stem)
    return path.name.rpartition("-")[0], int(path.parent.name.partition("=")[2])


def flip_byte(run: Copy) -> Done:
    path = run.pick(run.files("data", "dead_letter"))
    _flip(path, run.rng)
    unit_id, round_index = _place(path)
    return Done(f"byte flipped in {path.name}", True, (unit_id,), round_index)


def flip_byte_of_receipt(run: Copy) -> Done:
    path = run.pick(run.receipts())
    before = _proven(path)
    _flip(path, run.rng)
    unit_id, round_index = _place(path)
    is_harm = _proven(path) != before or None
    return Done(f"byte flipped in {path.name}", is_harm, (unit_id,) if is_harm else (), round_index)


def flip_byte_of_plan(run: Copy) -> Done:
    path = run.folder / f"replays/{run.rng.choice([1, 2])}.json"
    before = json.loads(path.read_text())
    _flip(path, run.rng)
    try:
        is_harm = json.loads(path.read_bytes()) != before or None
    except ValueError:
        is_harm = True
    return Done(f"byte flipped in {path.name}", is_harm, tuple(before["units"]) if is_harm else ())


def flip_byte_of_run(run: Copy) -> Done:
    path = run.folder / "run.json"
    before = _asked(path)
    _flip(path, run.rng)
    return Done("byte flipped in run.json", _asked(path) != before or None)


def flip_byte_of_seeds(run: Copy) -> Done:
    path = run.folder / "seeds/seeds.parquet"
    before = _seeds(path)
    _flip(path, run.rng)
    return Done("byte flipped in seeds", _seeds(path) != before or None)


def truncate(run: Copy) -> Done:
    path = run.pick([*run.files("data", "dead_letter"), *run.receipts()])
    data = path.read_bytes()
    # A receipt's last byte is its line end.
    path.write_bytes(data[: run.rng.randrange(len(data) - 1)])
    unit_id, round_index = _place(path)
    return Done(f"{path.name} truncated", True, (unit_id,), round_index)


def delete(run: Copy) -> Done:
    path = run.pick(run.files("data", "dead_letter"))
    path.unlink()
    unit_id, round_index = _place(path)
    return Done(f"{path.name} deleted", True, (unit_id,), round_index)


def swap(run: Copy) -> Done:
    one, other = run.rng.sample(run.files("data", "dead_letter"), 2)
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    return Done("two files swapped", True, (_place(one)[0], _place(other)[0]))


def duplicate_receipt(run: Copy) -> Done:
    path = run.pick(run.receipts())
    unit_id, round_index = _place(path)
    others = [
        run.folder / f"receipts/{unit_id[:-1]}x/{round_index}.json",
        run.folder / f"receipts/{unit_id}.replay9r{round_index}/{round_index}.json",
        run.folder / f"receipts/{unit_id}/{run.rng.choice([99, (round_index + 1) % 3])}.json",
    ]
    target = run.rng.choice(others)
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, target)
    return Done(f"{path} copied to {target}", True, (_place(target)[0],), _place(target)[1])


def edit_count(run: Copy) -> Done:
    path = run.pick(run.receipts())
    receipt = json.loads(path.read_text())
    names = [name for name in receipt if name.startswith("num_")]
    name = run.rng.choice([*names, "size_bytes", "num_rows"])
    refs = [receipt[kind] for kind in ("data", "dead_letter") if receipt[kind]]
    if name not in receipt and not refs:
        name = "num_stopped"
    target = receipt if name in receipt else run.rng.choice(refs)
    target[name] += run.rng.choice([1, 2, 100])
    put_json(path, receipt)
    unit_id, round_index = _place(path)
    return Done(f"{name} of {unit_id} round {round_index} raised", True, (unit_id,), round_index)


def drop_row(run: Copy) -> Done:
    path = run.pick(run.files("data", "dead_letter"))

    def change(rows: list[Row]) -> list[Row]:
        return rows[1:]

    return _rewrite(run, path, change, "row dropped, receipt to match")


def drop_row_as_stopped(run: Copy) -> Done:
    done = drop_row(run)
    path = run.folder / f"receipts/{done.units[0]}/{done.round_index}.json"
    receipt = json.loads(path.read_text())
    put_json(path, receipt | {"num_stopped": receipt["num_stopped"] + 1})
    return done


def double_row(run: Copy) -> Done:
    path = run.pick(run.files("data", "dead_letter"))
    return _rewrite(run, path, lambda rows: [*rows, rows[0]], "row doubled, receipt to match")


def take_row_of_another_unit(run: Copy) -> Done:
    """Into the same round, under the name of the unit that it is put into."""
    path = run.pick(run.files("data"))
    unit_id = _place(path)[0]
    others = [
        other
        for other in path.parent.glob("*.parquet")
        if _place(other)[0].partition("-")[0] != unit_id.partition("-")[0]
    ]
    row = _rows(run.pick(sorted(others)))[0] | {"unit_id": unit_id}
    return _rewrite(run, path, lambda rows: [*rows, row], "row of another unit, receipt to match")


def alter_description(run: Copy) -> Done:
    """Of a row that another one was made from."""
    parents = {
        row["parent_id"]
        for path in run.files("data", "dead_letter")
        for row in _rows(path)
        if row["parent_id"]
    }
    found = [
        (path, row["pair_id"])
        for path in run.files("data")
        for row in _rows(path)
        if row["pair_id"] in parents
    ]
    path, pair_id = run.rng.choice(found)

    def change(rows: list[Row]) -> list[Row]:
        return [
            row | ({"description": "something else"} if row["pair_id"] == pair_id else {})
            for row in rows
        ]

    return _rewrite(run, path, change, "description altered, receipt to match")


def alter_image(run: Copy) -> Done:
    path = run.pick(run.files("data"))

    def change(rows: list[Row]) -> list[Row]:
        image = bytearray(rows[0]["image"]["bytes"])
        image[run.rng.randrange(len(image))] ^= 1 << run.rng.randrange(8)
        return [rows[0] | {"image": {"bytes": bytes(image), "path": None}}, *rows[1:]]

    return _rewrite(run, path, change, "image altered, receipt to match")


def tamper_seeds(run: Copy) -> Done:
    path = run.folder / "seeds/seeds.parquet"
    rows = pq.read_table(path).to_pylist()
    kind = run.rng.choice(["text", "id", "error", "order", "fewer", "gone"])
    place = run.rng.randrange(len(rows) - 1)
    if kind == "gone":
        path.unlink()
        return Done("seed table gone", True)
    if kind == "order":
        rows[place], rows[place + 1] = rows[place + 1], rows[place]
    elif kind == "fewer":
        rows = rows[:-1]
    else:
        name = {"text": "seed", "id": "chain_id", "error": "error"}[kind]
        rows[place][name] = "tampered"
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)
    return Done(f"seed table tampered with: {kind}", True)


def remove_receipt_in_the_middle(run: Copy) -> Done:
    paths = [
        path for path in run.receipts() if path.with_name(f"{int(path.stem) + 1}.json").exists()
    ]
    path = run.pick(paths)
    path.unlink()
    run.refold()
    unit_id, round_index = _place(path)
    return Done("receipt removed", True, (unit_id,), round_index)


def remove_last_receipt(run: Copy) -> Done:
    """Seen only because the Delta log knows the file."""
    paths = [
        path
        for path in run.receipts()
        if not path.with_name(f"{int(path.stem) + 1}.json").exists()
        and json.loads(path.read_text())["data"]
    ]
    path = run.pick(paths)
    path.unlink()
    unit_id, round_index = _place(path)
    return Done("last receipt removed", True, (unit_id,), round_index)


def edit_delta_log(run: Copy) -> Done:
    path = run.folder / "data/_delta_log/00000000000000000000.json"
    lines = path.read_text().splitlines()
    place = run.rng.randrange(2, len(lines))
    entry = json.loads(lines[place])
    if run.rng.random() < 0.3:
        lines[place] = "{"
        done = Done("Delta log not readable", True)
    else:
        unit_id, round_index = _place(Path(entry["add"]["path"]))
        entry["add"]["size"] += 1
        lines[place] = json.dumps(entry)
        done = Done("Delta log with another size", True, (unit_id,), round_index)
    path.write_text("\n".join(lines))
    return done


def add_stray(run: Copy) -> Done:
    path = run.pick(run.files("data", "dead_letter"))
    names = ["0000000-deadbeef-0123456789abcdef.parquet", "notes.txt", ".DS_Store"]
    (path.parent / run.rng.choice(names)).write_bytes(path.read_bytes())
    return Done("stray file", False)


CORRUPTIONS: list[Callable[[Copy], Done]] = [
    flip_byte,
    flip_byte_of_receipt,
    flip_byte_of_run,
    flip_byte_of_plan,
    flip_byte_of_seeds,
    truncate,
    delete,
    swap,
    duplicate_receipt,
    edit_count,
    drop_row,
    drop_row_as_stopped,
    double_row,
    take_row_of_another_unit,
    alter_description,
    alter_image,
    tamper_seeds,
    remove_receipt_in_the_middle,
    remove_last_receipt,
    edit_delta_log,
    add_stray,
]


def _flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def _proven(path: Path) -> Any:
    try:
        receipt = json.loads(path.read_bytes())
        return {name: value for name, value in receipt.items() if name not in UNPROVEN}
    except ValueError:
        return "unreadable"


def _asked(path: Path) -> Any:
    try:
        run = json.loads(path.read_bytes())
    except ValueError:
        return "unreadable"
    run.pop("started_at", None)  # for people
    return run


def _seeds(path: Path) -> Any:
    try:
        return pq.read_table(path, columns=["chain_id", "seed", "error"]).to_pylist()
    except (pa.ArrowException, OSError, ValueError):
        return "unreadable"


def _rows(path: Path) -> list[Row]:
    return pq.read_table(path, partitioning=None).to_pylist()


def _rewrite(run: Copy, path: Path, change: Callable[[list[Row]], list[Row]], what: str) -> Done:
    """Changes the rows of a file and makes receipt and Delta log say the same."""
    unit_id, round_index = _place(path)
    kind = path.parent.parent.name
    rows = change(_rows(path))
    path.unlink()
    at = run.folder / f"receipts/{unit_id}/{round_index}.json"
    receipt = json.loads(at.read_text())
    receipt[kind] = put_table(run.folder, kind, unit_id, round_index, rows)
    receipt["num_pairs" if kind == "data" else "num_error_rows"] = len(rows)
    if kind == "dead_letter":
        receipt["error_reasons"] = dict(Counter(row["reason"] for row in rows))
    refs = [receipt[name] for name in ("data", "dead_letter") if receipt[name]]
    ids = [row["pair_id"] for ref in refs for row in _rows(run.folder / ref["file"])]
    put_json(at, receipt | {"ids_digest": digest_ids(ids)})
    run.refold()
    return Done(what, True, (unit_id,), round_index)


@pytest.fixture(scope="module")
def sound_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten chains in three units, one bad seed, three failures, two replays one upon the other."""
    folder = tmp_path_factory.mktemp("runs") / "sound"
    folder.mkdir()
    failures = frozenset({(1, 1), (2, 1), (5, 0), (8, 2)})
    writer = RunWriter(folder=folder, bad_seeds=frozenset({9}), failures=failures)
    for index in range(3):
        writer.write_unit(index)
    writer.write_replay(0, 1, 1, [1, 2], fail_at=2)
    writer.write_replay(0, 2, 2, [1, 2])
    writer.fold()
    assert exit_code(verify_run(str(folder))) == 0
    return folder


def test_random_corruptions_are_found(sound_run: Path, tmp_path: Path) -> None:
    _corrupt(sound_run, tmp_path, range(NUM_QUICK))


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_thousand_random_corruptions_are_found(sound_run: Path, tmp_path: Path) -> None:
    _corrupt(sound_run, tmp_path, range(NUM_ALL))


def _corrupt(sound_run: Path, tmp_path: Path, seeds: range) -> None:
    for seed in seeds:
        folder = tmp_path / str(seed)
        shutil.copytree(sound_run, folder)
        corruption = CORRUPTIONS[seed % len(CORRUPTIONS)]
        done = corruption(Copy(folder, random.Random(seed)))
        report = verify_run(str(folder))
        _judge(f"{seed} {corruption.__name__}: {done}", done, report)
        shutil.rmtree(folder)


def _judge(case: str, done: Done, report: Report) -> None:
    if done.is_harm is None:
        return
    assert (exit_code(report) == 1) == done.is_harm, (case, report)
    if not done.is_harm:
        assert report.num_orphans == 1, case
        return
    assert set(done.units) <= report.damaged_units.keys(), (case, report)
    # A replay stands on its base unit and may be named beside it, nothing else.
    bases = {unit_id.partition("-")[0] for unit_id in done.units}
    named = {unit_id.partition("-")[0] for unit_id in report.damaged_units}
    assert named == bases, (case, report)
    if done.round_index is not None and done.units:
        assert report.damaged_units[done.units[0]] == done.round_index, (case, report)
