"""`pairloom gallery`: builds the site of a run, or brings it up to what is committed now.

A site knows which commits it has (`data/state/`), so that only new ones are read, with --follow
and in any later call alike; the same commits give the same bytes, however the site came about.
Files are replaced whole, and in the order in which a reader needs them: pictures, pages, index,
and last the head, which names no more than is there.

Limits: one unit's pictures and one segment's texts are in memory at a time. Every call looks once
at all receipts, since a repair may have changed old ones; a look of --follow asks
for a listing and reads what the attempts have spent.
"""

import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actors.records import parse_unit_id
from cluster.receipts import Receipt
from cluster.storage import is_local, local_path, open_store
from pipelines import seeds as seed_tables
from pipelines.budget import SAVE_INTERVAL_S, Spent, add_spent, read_spent
from pipelines.evaluation.truth import NUM_SEEDS_TRIED, is_of_embedded_world
from pipelines.gallery.config import GalleryConfig
from pipelines.gallery.pages import (
    Page,
    add_commit,
    commit_digest,
    commit_name,
    finish_page,
    new_page,
    page_name,
)
from pipelines.gallery.report import write_report
from pipelines.gallery.segments import (
    Sums,
    add_sums,
    commit_of,
    segment_name,
    units_a_segment,
    write_segment,
)
from pipelines.gallery.site import Site
from pipelines.gallery.summary import Overview, make_head
from pipelines.status import is_finished, open_ledger

logger = logging.getLogger(__name__)

# Decoding and encoding pictures let go of the interpreter's lock, the rest does not.
NUM_THREADS = 2
# An attempt that is alive says no later than this what it holds; one that was killed never again.
SETTLE_S = SAVE_INTERVAL_S + 10.0
Cell = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a call has made."""

    gallery: str
    num_pairs: int
    num_chains: int
    num_new_commits: int
    is_finished: bool
    wall_s: float


def build_gallery(
    output: str, dest: str | None, config: GalleryConfig, *, is_following: bool = False
) -> Built:
    """Builds or refreshes the site; with `is_following` until the run is
    finished, and up to 40 s more where an attempt has not said what it held in the end.

    Raises:
        ValueError: there is no run, or no place for the site.
        CommitError: a committed file is damaged.
    """
    started_at = time.monotonic()
    builder = Builder(output, _folder(output, dest), config)
    builder.refresh()
    if is_following and not builder.is_finished:
        _follow(builder, config.follow_s)
    return builder.built(time.monotonic() - started_at)


def _follow(builder: "Builder", follow_s: float) -> None:
    """Until the run is finished, and has said what its GPUs were held for in the end."""
    while not (builder.is_finished and builder.is_settled):
        time.sleep(follow_s)
        builder.refresh()


def describe_built(built: Built) -> str:
    """Where it is, and what is in it."""
    state = "finished" if built.is_finished else "not finished: the same command goes on"
    return "\n".join(
        [
            f"gallery    {built.gallery}/index.html",
            f"report     {built.gallery}/report.html",
            f"shows      {built.num_pairs} pairs of {built.num_chains} chains; the run is {state}",
            f"read       {built.num_new_commits} new commits in {built.wall_s:.1f} s",
        ]
    )


class Builder:
    """A site that is brought up to date again and again."""

    def __init__(self, output: str, folder: Path, config: GalleryConfig) -> None:
        self._output = output
        self._config = config
        self._ledger, self._run = open_ledger(output)
        record = self._run["record"]
        self._num_rounds: int = record["num_rounds"]
        self._unit_size: int = record["unit_size"]
        self._is_loop = record["mode"] == "loop"
        self._site = Site(folder)
        made_with = asdict(config) | {"run": self._run["fingerprint"]}
        self._site.open(
            {
                k: made_with[k]
                for k in ("run", "thumbnail_px", "kept_from", "lost_below", "num_truth_chains")
            }
        )
        self._sums: dict[int, Sums] = {}
        self._num_chains: int | None = None  # of the seed table, once there is one
        self._is_of_world = False  # of the embedded one, where there is an oracle
        self._spent: list[Spent] = []
        self._spent_at = time.monotonic()  # when that was last seen to change
        self._is_first = True
        self.num_new_commits = 0
        self.is_finished = False

    def refresh(self) -> None:
        """Reads what has been committed since the last time, and writes what that changes."""
        self._look_at_seeds()
        found = self._ledger.committed()
        if self._is_first:
            self._load(found)
        have = {_cell(one) for sums in self._sums.values() for one in sums["commits"]}
        new = self._ledger.receipts(found if self._is_first else found - have)
        if self._is_first:
            digests = {_cell(c): c["digest"] for s in self._sums.values() for c in s["commits"]}
            new = [o for o in new if digests.get((o.unit_id, o.round_index)) != commit_digest(o)]
        gone = {one for one in have if one not in found}
        self._update(new, gone)
        before, self._spent = self._spent, read_spent(self._ledger.store)
        has_spent = self._spent != before
        if has_spent:
            self._spent_at = time.monotonic()
        if new or gone or self._is_first or has_spent:
            self._write_head()
        self._is_first = False
        self.num_new_commits += len(new)

    @property
    def is_settled(self) -> bool:
        """Whether no attempt has more to say of what it held."""
        is_over = all(one.is_over for one in self._spent)
        return is_over or time.monotonic() - self._spent_at > SETTLE_S

    def built(self, wall_s: float) -> Built:
        """What there is now."""
        total = add_sums(self._sums.values())
        return Built(
            gallery=str(self._site.folder),
            num_pairs=total.get("num_pairs", 0),
            num_chains=total.get("num_chains", 0),
            num_new_commits=self.num_new_commits,
            is_finished=self.is_finished,
            wall_s=round(wall_s, 2),
        )

    def _look_at_seeds(self) -> None:
        """Before the commits: what is committed has seeds."""
        table = None
        if self._num_chains is None:
            table = seed_tables.find_table(open_store(self._output))
        if table is not None:
            self._num_chains = table.num_rows
            seeds: list[str | None] = table.column("seed").slice(0, NUM_SEEDS_TRIED).to_pylist()
            self._is_of_world = is_of_embedded_world(self._run["record"], seeds)

    def _load(self, found: Iterable[Cell]) -> None:
        folder = self._site.folder / "data" / "state"
        there = {int(path.stem) for path in folder.glob("*.js")}
        for number in sorted(there | {self._segment(unit_id) for unit_id, _ in found}):
            sums = self._site.get(f"state/{segment_name(number)}")
            if sums is not None:
                self._sums[number] = sums

    def _segment(self, unit_id: str) -> int:
        return parse_unit_id(unit_id).unit_index // units_a_segment(self._unit_size)

    def _update(self, new: list[Receipt], gone: set[Cell]) -> None:
        """Brings every segment up to date that a commit has come to, or gone from."""
        dirty = defaultdict[int, list[Receipt]](list)
        for receipt in new:
            dirty[self._segment(receipt.unit_id)].append(receipt)
        for unit_id, _ in gone:
            dirty[self._segment(unit_id)] += []
        for done, number in enumerate(sorted(dirty)):
            self._update_segment(number, dirty[number], gone)
            if len(dirty) > 1:
                logger.info("gallery: %d of %d segments", done + 1, len(dirty))

    def _update_segment(self, number: int, new: list[Receipt], gone: set[Cell]) -> None:
        before: list[Sums] = self._sums.get(number, {}).get("commits", [])
        commits = {_cell(one): one for one in before if _cell(one) not in gone}
        commits |= {(one.unit_id, one.round_index): commit_of(one) for one in new}
        by_unit = defaultdict[int, dict[Cell, Sums]](dict)
        for cell, commit in commits.items():
            by_unit[parse_unit_id(cell[0]).unit_index][cell] = commit
        at_hand = {(one.unit_id, one.round_index): one for one in new}
        with ThreadPoolExecutor(NUM_THREADS) as threads:
            # One page is no more than its texts: the pictures are gone once it is made.
            pages = list(
                threads.map(lambda unit: self._page(unit, by_unit[unit], at_hand), sorted(by_unit))
            )
        pages = [page for page in pages if page["chains"]]
        sums = write_segment(
            self._site, number, pages, list(commits.values()), self._unit_size, self._num_rounds
        )
        self._site.put(f"state/{segment_name(number)}", sums)
        self._sums[number] = sums

    def _page(self, unit: int, wanted: dict[Cell, Sums], at_hand: dict[Cell, Receipt]) -> Page:
        """The page of a unit with the commits that are wanted, read only where they are new."""
        name = f"units/{page_name(unit)}"
        page: Page | None = self._site.get(name)
        digests = {f"{unit_id}/{r}": one["digest"] for (unit_id, r), one in wanted.items()}
        if page is not None and not page["commits"].items() <= digests.items():
            self._remove_pictures(page)
            page = None
        page = page or new_page(unit)
        missing = [cell for cell in sorted(wanted) if f"{cell[0]}/{cell[1]}" not in page["commits"]]
        if not missing:
            return page
        is_asked = unit * self._unit_size < self._config.num_truth_chains
        has_truth = self._is_of_world and is_asked
        for receipt in (at_hand.get(cell) or self._ledger.receipt(*cell) for cell in missing):
            assert receipt is not None, "a commit was taken back while it was read"
            sprites = add_commit(page, self._ledger, receipt, self._config, has_truth=has_truth)
            for file, data in sprites.items():
                self._site.write(f"pictures/{_folder_of(file)}/{file}", data)
            logger.debug("%s is in the gallery", commit_name(receipt))
        finish_page(page, self._config, is_loop=self._is_loop)
        self._site.put(name, page)
        return page

    def _remove_pictures(self, page: Page) -> None:
        for sheet in page["sheets"].values():
            for file in sheet["files"]:
                self._site.remove(f"pictures/{_folder_of(file)}/{file}")

    def _write_head(self) -> None:
        total = add_sums(self._sums.values())
        cells = [_cell(one) for one in total["commits"]]
        self.is_finished = is_finished(cells, self._num_chains, self._run["record"])
        overview = Overview(
            output=self._output,
            run=self._run,
            sums=total,
            num_seeds=self._num_chains,
            is_finished=self.is_finished,
            version=_version(total["commits"]),
            config=self._config,
            spent_s=add_spent(self._spent),
        )
        self._site.write_assets()
        self._site.put(
            "head", make_head(overview, [segment_name(one) for one in sorted(self._sums)])
        )
        write_report(self._site, self._ledger, overview)


def _folder(output: str, dest: str | None) -> Path:
    if dest is not None:
        if not is_local(dest):
            raise ValueError(
                f"DEST {dest!r}: must be a local folder; copy it to a bucket from there"
            )
        return local_path(dest)
    if not is_local(output):
        raise ValueError(f"{output} is no local folder: name one for the gallery after it")
    return local_path(output) / "gallery"


def _folder_of(file: str) -> str:
    """Pictures lie in folders of a thousand units: no folder gets too many of them."""
    return file[:4]


def _cell(commit: Sums) -> Cell:
    return commit["unit"], commit["round"]


def _version(commits: list[dict[str, Any]]) -> str:
    lines = sorted(f"{one['unit']}/{one['round']} {one['digest']}\n" for one in commits)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]
