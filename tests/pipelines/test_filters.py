"""pipelines/filters: every pair is kept or has a reason, whatever the order it is met in."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corrupt import RunWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from scored import add_columns

from cluster.config import from_dict
from cluster.errors import CommitError
from cluster.receipts import Receipt, ShardRef
from cluster.storage import open_store
from pipelines import cli
from pipelines.filters import FilterConfig, FilterReport, describe_filter, filter_run
from pipelines.filters.columns import Columns, in_order
from pipelines.filters.duplicates import Pictures, Scope, find_repeated
from pipelines.filters.judge import judge_files
from pipelines.verify import verify_run

SCORES = [
    pa.field("clip_similarity", pa.float32()),
    pa.field("punsafe", pa.float32()),
    pa.field("phash", pa.string()),
    pa.field("caption_flags", pa.list_(pa.string())),
    pa.field("image_embedding", pa.list_(pa.float32())),
]


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    """Ten chains, three rounds, 30 pairs; no scores."""
    writer = RunWriter(folder=tmp_path)
    for index in range(len(writer.units)):
        writer.write_unit(index)
    return writer


def config_of(*words: str) -> FilterConfig:
    return from_dict(FilterConfig, {}, "of the test", words)


def apply(run: RunWriter, *words: str) -> FilterReport:
    return filter_run(str(run.folder), config_of(*words))


def read(run: RunWriter, report: FilterReport) -> dict[str, dict[str, Any]]:
    table = pq.read_table(run.folder / report.file, partitioning=None)
    return {row["pair_id"]: row for row in table.to_pylist()}


def chain_of(run: RunWriter, row: dict[str, Any]) -> int:
    return run.chain_ids.index(row["chain_id"])


def score(run: RunWriter, values_of: Callable[[int, int], dict[str, Any]]) -> None:
    """Scores by the place of the chain and the round."""
    add_columns(run.folder, SCORES, lambda row: values_of(chain_of(run, row), row["round_index"]))


def kept(run: RunWriter, report: FilterReport) -> set[tuple[int, int]]:
    """(chain, round) of the pairs that are kept."""
    rows = read(run, report)
    names = [one.rpartition("-") for one, row in rows.items() if row["is_kept"]]
    return {(run.chain_ids.index(chain), int(r)) for chain, _, r in names}


def test_an_empty_filter_keeps_all(run: RunWriter) -> None:
    report = apply(run)
    assert (report.num_pairs, report.num_kept, report.reasons) == (30, 30, {})
    assert "all is kept" in describe_filter(report, config_of())


def test_every_drop_is_a_row_with_its_first_and_all_its_reasons(run: RunWriter) -> None:
    score(run, lambda chain, r: {"clip_similarity": 0.1 * chain, "punsafe": 0.5 * (r == 2)})
    report = apply(run, "clip_similarity.min=0.3", "punsafe.max=0.4", "rounds=[1,2]")
    rows = read(run, report)
    assert len(rows) == report.num_pairs == report.num_kept + report.num_dropped == 30
    assert sum(report.reasons.values()) == report.num_dropped
    for row in rows.values():
        assert row["is_kept"] == (row["reason"] is None) == (not row["reasons"])
        assert row["is_kept"] or row["reason"] == row["reasons"][0]
    assert kept(run, report) == {(chain, 1) for chain in range(3, 10)}
    assert report.reasons == {"round": 10, "clip_similarity_low": 6, "punsafe_high": 7}
    assert report.failing == {"round": 10, "clip_similarity_low": 9, "punsafe_high": 10}
    assert report.rounds == {0: (10, 0), 1: (10, 7), 2: (10, 0)}
    worst = rows[f"{run.chain_ids[0]}-002"]
    assert worst["reasons"] == ["clip_similarity_low", "punsafe_high"]


def test_a_bound_keeps_what_equals_it_in_the_digits_of_the_column(run: RunWriter) -> None:
    """.3 as a float32 is .30000001."""
    score(run, lambda chain, r: {"clip_similarity": 0.3, "punsafe": 0.7})
    assert apply(run, "clip_similarity.max=0.3", "punsafe.min=0.7").num_kept == 30


@pytest.mark.parametrize("is_there", [False, True])
def test_a_score_that_no_pair_has_is_an_error_unless_told_otherwise(
    run: RunWriter, is_there: bool
) -> None:
    if is_there:
        score(run, lambda chain, r: {})
    with pytest.raises(ValueError, match="no pair has clip_similarity"):
        apply(run, "clip_similarity.min=0.2")
    report = apply(run, "clip_similarity.min=0.2", "missing=keep")
    assert (report.num_kept, report.num_unknown) == (30, {"clip_similarity": 30})
    assert "the rule let them pass" in describe_filter(report, config_of("missing=keep"))
    report = apply(run, "clip_similarity.min=0.2", "missing=drop")
    assert report.reasons == {"no_clip_similarity": 30}


def test_pairs_without_a_score_that_others_have_are_dropped_for_that(run: RunWriter) -> None:
    values = {0: None, 1: float("nan")}
    score(run, lambda chain, r: {"clip_similarity": values.get(chain, 0.5)})
    report = apply(run, "clip_similarity.min=0.2", "clip_similarity.max=0.6")
    assert report.reasons == {"no_clip_similarity": 6}
    assert report.num_unknown == {"clip_similarity": 6}
    assert apply(run, "clip_similarity.min=0.2", "missing=keep").num_kept == 30


def test_captions_words_and_truncated_prompts(run: RunWriter) -> None:
    flags = {0: ["url", "hedging"], 1: ["too_long"], 2: [], 3: None}
    score(run, lambda chain, r: {"caption_flags": flags.get(chain, [])})
    truncated = pa.field("is_prompt_truncated", pa.bool_())
    add_columns(run.folder, [truncated], lambda row: {truncated.name: chain_of(run, row) == 5})
    reason = pa.field("finish_reason", pa.string())
    ends = {1: "length", 2: None}
    add_columns(
        run.folder, [reason], lambda row: {reason.name: ends.get(chain_of(run, row), "stop")}
    )
    assert apply(run, "keeps_cut_descriptions=false").reasons == {
        "no_finish_reason": 3,
        "description_cut": 3,
    }
    report = apply(run, "forbidden_flags=[hedging,url]")
    assert report.reasons == {"no_caption_flags": 3, "caption_hedging": 3}
    assert report.failing["caption_url"] == 3
    assert apply(run, "keeps_truncated_prompts=false").reasons == {"prompt_truncated": 3}
    assert apply(run, "words.min=7").num_kept == 30  # what 3 looks like in round 1
    assert apply(run, "words.max=6.5").reasons == {"too_many_words": 30}


def set_images(run: RunWriter, image_of: Callable[[int, int], str]) -> None:
    sha = pa.field("image_sha256", pa.string())
    add_columns(
        run.folder,
        [sha],
        lambda row: {sha.name: image_of(chain_of(run, row), row["round_index"])},
    )


def test_of_equal_pictures_the_earliest_stays(run: RunWriter) -> None:
    set_images(
        run, lambda chain, r: "same" if chain == 4 or (chain, r) == (6, 1) else f"{chain}{r}"
    )
    in_chain = apply(run, "duplicate_images=drop_in_chain")
    everyone = {(chain, r) for chain in range(10) for r in range(3)}
    assert kept(run, in_chain) == everyone - {(4, 1), (4, 2)}
    anywhere = apply(run, "duplicate_images=drop")
    assert kept(run, anywhere) == everyone - {(4, 1), (4, 2), (6, 1)}
    assert anywhere.reasons == {"duplicate_image": 3}


def test_a_picture_is_not_dropped_in_favour_of_one_that_is_dropped_itself(run: RunWriter) -> None:
    set_images(run, lambda chain, r: f"{chain}")
    report = apply(run, "duplicate_images=drop", "rounds=[1,2]")
    assert kept(run, report) == {(chain, 1) for chain in range(10)}


def test_near_pictures_within_a_chain_and_across_chains(run: RunWriter) -> None:
    def hash_of(chain: int, r: int) -> int:
        own = hashlib.sha256(f"{chain if chain != 7 else 2}".encode()).digest()[:8]
        return int.from_bytes(own, "big") ^ (0b111 if r == 1 else 0) ^ (0xFF00 if r == 2 else 0)

    score(run, lambda chain, r: {"phash": f"{hash_of(chain, r):016x}"})
    in_chain = apply(run, "near_distance_in_chain=3")
    assert kept(run, in_chain) == {(chain, r) for chain in range(10) for r in (0, 2)}
    anywhere = apply(run, "near_distance=3")
    # The seventh chain looks like the second, whose unit comes first.
    assert kept(run, anywhere) == {(c, r) for c in range(10) if c != 7 for r in (0, 2)}
    assert anywhere.reasons == {"near_duplicate": 12}


def test_a_hash_that_is_none_is_damage(run: RunWriter) -> None:
    score(run, lambda chain, r: {"phash": "no hex"})
    with pytest.raises(CommitError, match="phash"):
        apply(run, "near_distance=3")


def test_similar_pictures_within_a_chain_and_across_chains(run: RunWriter) -> None:
    """Unit vectors in a plane: 20 degrees from chain to chain, the seventh looks like the second;
    in a chain round 1 is 3 degrees on, round 2 is 9."""

    def vector_of(chain: int, r: int) -> list[float]:
        angle = math.radians(20 * (2 if chain == 7 else chain) + (0, 3, 9)[r])
        return [math.cos(angle), math.sin(angle), 0.0]

    score(run, lambda chain, r: {"image_embedding": vector_of(chain, r)})
    bound = math.cos(math.radians(4))
    in_chain = apply(run, f"near_similarity_in_chain={bound}")
    assert kept(run, in_chain) == {(chain, r) for chain in range(10) for r in (0, 2)}
    assert in_chain.reasons == {"similar_image_in_chain": 10}
    anywhere = apply(run, f"near_similarity={bound}")
    assert kept(run, anywhere) == {(c, r) for c in range(10) if c != 7 for r in (0, 2)}
    assert anywhere.reasons == {"similar_image": 12}
    # The same picture is found at a cosine of 1, whatever float32 makes of it.
    assert apply(run, "near_similarity=1").reasons == {"similar_image": 3}


def test_pairs_without_a_vector_are_told_as_for_any_rule(run: RunWriter) -> None:
    score(run, lambda chain, r: {"image_embedding": None if chain == 3 else [1.0, 0.0]})
    words = ("near_similarity_in_chain=0.9",)
    assert apply(run, *words).reasons == {"no_image_embedding": 3, "similar_image_in_chain": 18}
    assert apply(run, *words, "missing=keep").reasons == {"similar_image_in_chain": 18}


def test_vectors_of_two_models_cannot_be_compared(run: RunWriter) -> None:
    score(run, lambda chain, r: {"image_embedding": [1.0] * (2 + (chain == 3))})
    with pytest.raises(CommitError, match="2 and 3 numbers"):
        apply(run, "near_similarity=0.9")


def test_what_nobody_has_checked_is_never_safe(run: RunWriter) -> None:
    score(run, lambda chain, r: {"punsafe": None if chain < 4 else 0.1, "clip_similarity": None})
    words = ("punsafe.max=0.5", "clip_similarity.min=0.2", "missing=keep")
    report = apply(run, *words)
    assert report.reasons == {"no_punsafe": 12}
    page = describe_filter(report, config_of(*words))
    assert "12 pairs have no punsafe: dropped as no_punsafe" in page
    assert "30 pairs have no clip_similarity: the rule let them pass" in page


def test_decisions_are_written_once_and_pairs_are_not_touched(run: RunWriter) -> None:
    def snapshot() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in run.folder.rglob("*.*") if path.is_file()}

    before = snapshot()
    first = apply(run, "words.min=8")
    written = (run.folder / first.file).read_bytes()
    assert apply(run, "words.min=8") == first
    other = apply(run, "words.min=7")
    assert other.file != first.file
    after = snapshot()
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2
    assert (run.folder / first.file).read_bytes() == written
    assert verify_run(str(run.folder)).num_orphans == 0
    stated = pq.read_schema(run.folder / first.file).metadata[b"pairloom.filter"]
    assert json.loads(stated)["words"]["min"] == 8
    same = pq.read_table(run.folder / first.file)
    pq.write_table(same, run.folder / first.file, compression="gzip")  # as another pyarrow might
    assert apply(run, "words.min=8") == first
    others = same.set_column(1, "is_kept", pa.array([True] * same.num_rows))
    pq.write_table(others, run.folder / first.file)
    with pytest.raises(CommitError, match="other decisions than this version"):
        apply(run, "words.min=8")


def test_replays_take_the_place_of_what_failed(tmp_path: Path) -> None:
    writer = RunWriter(folder=tmp_path, failures=frozenset({(1, 1), (2, 1)}))
    for index in range(len(writer.units)):
        writer.write_unit(index)
    before = apply(writer, "words.min=1")
    writer.write_replay(0, 1, 1, [1, 2])
    after = apply(writer, "words.min=1")
    assert (before.num_pairs, after.num_pairs) == (26, 30)
    assert before.file != after.file


def test_pictures_are_not_read(run: RunWriter) -> None:
    """With every picture's bytes flipped the decisions are the same."""
    sound = apply(run, "words.min=1")
    for path in (run.folder / "data").rglob("*.parquet"):
        data = bytearray(path.read_bytes())
        group = pq.ParquetFile(path).metadata.row_group(0)
        column = next(
            group.column(index)
            for index in range(group.num_columns)
            if group.column(index).path_in_schema == "image.bytes"
        )
        start = column.dictionary_page_offset or column.data_page_offset
        for place in range(start, start + column.total_compressed_size):
            data[place] ^= 0xFF
        path.write_bytes(bytes(data))
    assert apply(run, "words.min=1") == sound


def test_a_run_on_s3_is_filtered_as_one_on_a_disk(run: RunWriter, moto_s3: Any) -> None:
    store = open_store(moto_s3.uri)
    for path in run.folder.rglob("*.*"):
        store.put(str(path.relative_to(run.folder)), path.read_bytes())
    words = ("rounds=[1]", "duplicate_images=drop")
    there, here = filter_run(moto_s3.uri, config_of(*words)), apply(run, *words)
    assert (there.file, there.reasons, there.num_kept) == (here.file, here.reasons, 10)
    assert moto_s3.objects()[there.file] == (run.folder / here.file).read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["clip_similarity.min=2", "clip_similarity.max=1"], "nothing lies between"),
        (["clip_similarity.min=.inf"], "must be a number"),
        (["forbidden_flags=[rude]"], "must be of instruction_echo"),
        (["near_distance=40"], "must be from 0 to 16"),
        (["near_similarity=1.5"], "must be a cosine"),
        (["rounds=[-1]"], "rounds count from 0"),
        (["clip_similarty.min=0.3"], "did you mean 'clip_similarity"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config_of(*words)


def test_the_command_line_filters(run: RunWriter, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["filter", str(run.folder), "rounds=[0]", "--json"]) == 0
    page, _, line = capsys.readouterr().out.strip().rpartition("\n")
    assert "10 of 30 pairs kept" in page
    assert json.loads(line)["reasons"] == {"round": 20}
    assert cli.main(["filter", str(run.folder), "punsafe.max=0.1"]) == 2
    assert "missing=drop" in capsys.readouterr().err


def _columns(unit_index: int, round_index: int, rows: Sequence[dict[str, Any]]) -> Columns:
    schema = pa.schema(
        [
            *[("pair_id", pa.string()), ("chain_id", pa.string()), ("round_index", pa.int32())],
            *[("image_sha256", pa.string()), ("phash", pa.string())],
            ("aesthetic", pa.float32()),
        ]
    )
    table = pa.Table.from_pylist(list(rows), schema)
    ref = ShardRef(file="f", sha256="s", size_bytes=1, num_rows=len(rows))
    receipt = Receipt(
        unit_id=f"{unit_index:07d}-abcdef01",
        round_index=round_index,
        data=ref,
        dead_letter=None,
        num_pairs=len(rows),
        num_error_rows=0,
        num_stopped=0,
        num_replaced_errors=0,
        num_replaced_stopped=0,
        error_reasons={},
        replaced_reasons={},
        ids_digest="",
        fingerprint="",
        versions={},
        committed_at="",
    )
    return Columns(receipt=receipt, table=table, row_bytes=1.0, schema=schema)


PAIR = st.tuples(
    st.integers(0, 5),  # chain
    st.integers(0, 2),  # round
    st.sampled_from(["a", "b", "c", "d"]),  # picture
    st.sampled_from([None, "00", "01", "03", "ff"]),
    st.sampled_from([None, 0.0, 1.0, float("nan")]),
)


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(PAIR, min_size=1, max_size=18, unique_by=lambda pair: pair[:2]),
    scope=st.sampled_from(["keep", "drop_in_chain", "drop"]),
    near=st.sampled_from([None, 0, 1, 8]),
    missing=st.sampled_from(["drop", "keep"]),
    random=st.randoms(use_true_random=False),
)
def test_decisions_depend_on_the_pairs_and_on_nothing_else(
    pairs: list[Any], scope: str, near: int | None, missing: str, random: Any
) -> None:
    """Whatever the order of files and of rows in them; and kept and dropped are all there is."""
    config = config_of(
        f"duplicate_images={scope}",
        f"near_distance={'null' if near is None else near}",
        f"missing={missing}",
        "aesthetic.min=0.5",
    )

    def decide(is_shuffled: bool) -> dict[str, list[str]]:
        files: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for chain, r, image, phash, aesthetic in pairs:
            row = {
                "pair_id": f"{chain}-{r}",
                "chain_id": str(chain),
                "round_index": r,
                "image_sha256": image,
                "phash": phash,
                "aesthetic": aesthetic,
            }
            files.setdefault((chain // 2, r), []).append(row)
        found = [_columns(*place, rows) for place, rows in files.items()]
        if is_shuffled:
            for rows in files.values():
                random.shuffle(rows)
            found = [_columns(*place, rows) for place, rows in files.items()]
            random.shuffle(found)
        judged = judge_files(found, config)
        first, failing = judged.reasons()
        assert [bool(names) for names in failing] == [one is not None for one in first]
        assert len(judged.masks) == len(pairs)
        assert sum(judged.count_reasons().values()) + judged.is_kept.sum() == len(pairs)
        return dict(zip(judged.table.column("pair_id").to_pylist(), failing, strict=True))

    assert decide(False) == decide(True)


@settings(max_examples=30, deadline=None)
@given(
    hashes=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40),
    flips=st.lists(st.integers(0, 63), max_size=40),
    limit=st.integers(0, 4),
    data=st.data(),
)
def test_near_duplicates_are_those_of_the_definition(
    hashes: list[int], flips: list[int], limit: int, data: st.DataObject
) -> None:
    """Against the definition in one line, across the borders of the blocks."""
    hashes = hashes + [one ^ (1 << bit) for one, bit in zip(hashes * 2, flips, strict=False)]
    hashes = hashes * data.draw(st.sampled_from([1, 7]))
    num = len(hashes)
    pictures = Pictures(
        chains=np.zeros(num, np.int64),
        images=np.arange(num),
        hashes=np.array(hashes, np.uint64),
        has_hash=np.ones(num, np.bool_),
        vectors=np.zeros((num, 0), np.float32),
        has_vector=np.zeros(num, np.bool_),
    )
    found = find_repeated(pictures, np.arange(num), np.ones(num, np.bool_), Scope(near=limit))
    kept_so_far: list[int] = []
    for row, own in enumerate(hashes):
        is_near = any((own ^ other).bit_count() <= limit for other in kept_so_far)
        assert bool(found.near[row]) == is_near
        if not is_near:
            kept_so_far.append(own)


def test_similar_vectors_are_those_of_the_definition() -> None:
    """Likewise, over more pairs than a block holds."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((700, 4)).astype(np.float32)
    vectors = noise / np.linalg.norm(noise, axis=1, keepdims=True)
    chains, passes = rng.integers(0, 30, 700), rng.random(700) < 0.8
    pictures = Pictures(
        chains=chains,
        images=np.arange(700),
        hashes=np.zeros(700, np.uint64),
        has_hash=np.zeros(700, np.bool_),
        vectors=vectors,
        has_vector=rng.random(700) < 0.9,
    )
    order = rng.permutation(700)
    found = find_repeated(pictures, order, passes, Scope(similar=0.97, similar_in_chain=0.9))
    kept_so_far: list[int] = []
    for row in order.tolist():
        near = [one for one in kept_so_far if pictures.has_vector[row] and pictures.has_vector[one]]
        cosines = {one: float(vectors[row] @ vectors[one]) for one in near}
        is_similar = any(value >= 0.97 for value in cosines.values())
        in_chain = any(v >= 0.9 for one, v in cosines.items() if chains[one] == chains[row])
        assert (bool(found.similar[row]), bool(found.similar_in_chain[row])) == (
            is_similar,
            in_chain,
        )
        if passes[row] and not (is_similar or in_chain):
            kept_so_far.append(row)
    assert 0 < found.similar.sum() < 700


def test_files_are_read_by_unit_round_and_generation() -> None:
    places = [(1, 0), (0, 1), (0, 0)]
    receipts = [_columns(unit, r, [{"pair_id": "x"}]).receipt for unit, r in places]
    assert [(one.unit_id[6], one.round_index) for one in in_order(receipts)] == [
        ("0", 0),
        ("0", 1),
        ("1", 0),
    ]
