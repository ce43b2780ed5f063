"""`pairloom models verify`: a mirror's files against its manifest, and the vetting once more.

Limits: reads every byte. Whoever can change the files can change the manifest with them: keep its
digest elsewhere (a run records it) if that matters.
"""

from dataclasses import dataclass
from pathlib import Path

from actors.models import digest_file
from actors.models_manifest import MANIFEST, Manifest
from actors.models_vetting import check_folder, model_files
from cluster.errors import StoreError
from cluster.storage import is_local, local_path, open_store
from pipelines.models.bucket import Bucket
from pipelines.models.destination import FETCHED, PARTIAL
from pipelines.models.mirror import read_mirror


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was found."""

    place: str
    is_finished: bool
    problems: tuple[str, ...] = ()
    repo: str = ""
    commit: str = ""
    licence: str = ""
    digest: str = ""
    num_files: int = 0
    num_bytes: int = 0


def verify(place: str) -> Check:
    """Reads a mirror and says what is wrong with it.

    Raises:
        ValueError: there is none, and none was begun.
        StoreError: the store failed.
    """
    manifest = read_mirror(place)
    if manifest is None:
        if not _is_begun(place):
            raise ValueError(
                f"{place!r} holds no {MANIFEST}: give a place that `pairloom models fetch` made"
            )
        return Check(place=place, is_finished=False)
    find = _problems_of_folder if is_local(place) else _problems_of_bucket
    return Check(
        place=place,
        is_finished=True,
        problems=tuple(find(place, manifest)),
        repo=manifest.repo,
        commit=manifest.commit,
        licence=manifest.licence,
        digest=manifest.digest,
        num_files=len(manifest.files),
        num_bytes=manifest.num_bytes,
    )


def describe_check(check: Check) -> str:
    """The verdict first, then what is wrong."""
    if not check.is_finished:
        return f"not finished: {check.place} was begun; the same `models fetch` goes on"
    verdict = "damaged" if check.problems else "sound"
    lines = [
        f"{verdict}: {check.place} holds {check.repo}@{check.commit}, licence {check.licence}",
        f"  {check.num_files} files, {check.num_bytes / 1e9:.3g} GB, digest {check.digest}",
    ]
    return "\n".join([*lines, *(f"  {problem}" for problem in check.problems)])


def exit_code(check: Check) -> int:
    """0 sound, 1 damaged, 3 not finished, as `pairloom verify` has it."""
    return 3 if not check.is_finished else 1 if check.problems else 0


def _is_begun(place: str) -> bool:
    if is_local(place):
        path = local_path(place).absolute()
        return path.with_name(f"{path.name}{PARTIAL}").is_dir()
    return bool(open_store(place).list(FETCHED))


def _problems_of_folder(place: str, manifest: Manifest) -> list[str]:
    folder = local_path(place)
    there = {path.relative_to(folder).as_posix() for path in model_files(folder)} - {MANIFEST}
    problems = _compare_names(there, manifest)
    for file in manifest.files:
        path = folder / file.path
        if file.path in there:
            found = path.stat().st_size, digest_file(path)
            problems += _compare(file.path, (file.size_bytes, file.sha256), found)
    return problems + _vet(folder, manifest)


def _vet(folder: Path, manifest: Manifest) -> list[str]:
    try:
        check_folder(folder)
    except ValueError as error:
        return [str(error)]
    return []


def _problems_of_bucket(place: str, manifest: Manifest) -> list[str]:
    # A fetch that was cut off after its manifest left its notes: the mirror is whole.
    there = {key for key in open_store(place).list() if not key.startswith(f"{FETCHED}/")}
    there -= {MANIFEST}
    problems = _compare_names(there, manifest)
    bucket = Bucket(place)
    for file in manifest.files:
        if file.path in there:
            try:
                found = bucket.measure(file.path)
            except StoreError as error:
                problems.append(str(error))
                continue
            problems += _compare(file.path, (file.size_bytes, file.sha256), found)
    return problems


def _compare_names(there: set[str], manifest: Manifest) -> list[str]:
    listed = {file.path for file in manifest.files}
    return [f"{path} is missing" for path in sorted(listed - there)] + [
        f"{path} is not in the manifest" for path in sorted(there - listed)
    ]


def _compare(path: str, listed: tuple[int, str], found: tuple[int, str]) -> list[str]:
    if found == listed:
        return []
    return [f"{path} has {found[0]} bytes with sha256 {found[1]}, not {listed[0]} with {listed[1]}"]
