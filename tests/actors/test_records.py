"""actors/records.py: ids and rng_seeds depend on content alone; readers find their schema."""

import json

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from actors import records

# `characters` brings lone surrogates, which `text` alone leaves out.
TEXTS = st.lists(st.text(st.characters(), max_size=12), min_size=1, max_size=20)


@given(texts=TEXTS, run_seed=st.integers(0, 2**63 - 1))
def test_chain_ids_are_unique_even_for_equal_texts(texts: list[str], run_seed: int) -> None:
    assert len(set(records.derive_chain_ids(run_seed, texts))) == len(texts)


@given(texts=st.lists(st.text(max_size=12), min_size=1, max_size=20, unique=True))
def test_the_id_of_a_seed_does_not_depend_on_its_neighbours(texts: list[str]) -> None:
    ids = dict(zip(texts, records.derive_chain_ids(0, texts), strict=True))
    turned = list(reversed(texts))
    assert dict(zip(turned, records.derive_chain_ids(0, turned), strict=True)) == ids


@given(run_seed=st.integers(0, 2**63 - 1), round_index=st.integers(0, 998))
def test_rng_seeds_fit_int64_and_differ_by_round_and_role(run_seed: int, round_index: int) -> None:
    seeds = {
        records.derive_rng_seed(run_seed, chain, r, role)
        for chain in ("a", "b")
        for r in (round_index, round_index + 1)
        for role in ("draw", "describe")
    }
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_ids_are_pinned_because_published_datasets_hold_them() -> None:
    (chain_id,) = records.derive_chain_ids(0, ["a red star"])
    assert chain_id == "b05aec47d5b271a8b231"
    assert records.derive_pair_id(chain_id, 7) == "b05aec47d5b271a8b231-007"
    assert records.derive_rng_seed(0, chain_id, 0, "draw") == 2049539579387803216


def test_unit_ids_sort_by_age_and_tell_slicings_apart() -> None:
    assert records.derive_unit_id(2, ["a"]) < records.derive_unit_id(10, ["a"])
    assert records.derive_unit_id(0, ["a", "b"]) != records.derive_unit_id(0, ["ab"])


def test_a_unit_id_says_which_unit_it_replays() -> None:
    unit_id, replay_id = records.derive_unit_id(3, ["a"]), records.derive_replay_id(3, ["a"], 2, 1)
    base, again = records.parse_unit_id(unit_id), records.parse_unit_id(replay_id)
    assert (base.unit_index, base.generation, base.first_round) == (3, 0, 0)
    assert (again.unit_index, again.generation, again.first_round) == (3, 2, 1)
    assert [records.is_replay(one) for one in (unit_id, replay_id, "x")] == [False, True, False]
    assert records.parse_unit_id("x").unit_index == -1


def test_the_schema_tells_datasets_its_features() -> None:
    metadata = records.PAIR_SCHEMA.metadata
    features = json.loads(metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert set(features) == set(records.PAIR_SCHEMA.names)
    assert records.PAIR_SCHEMA.field("image").type == pa.struct(
        [("bytes", pa.binary()), ("path", pa.string())]
    )
