"""pipelines/evaluation/truth.py: sums over a stream of pairs are those over all at once."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from truths import measure_rounds

from actors.scenes.grammar import caption, sample_scene
from actors.scenes.render import render
from actors.scenes.truth import QUESTIONS, measure_truth, tally_pair
from pipelines.evaluation.truth import is_of_embedded_world


def _pairs(num_pairs: int) -> list[Any]:
    """Of each scene three pairs: said rightly, said of another scene, not said."""
    rng = np.random.default_rng(0)
    pairs: list[Any] = []
    for at in range(num_pairs):
        scene, other = sample_scene(rng), sample_scene(rng)
        buffer = io.BytesIO()
        Image.fromarray(render(scene, rng)).save(buffer, "PNG")
        said = (caption(scene), caption(other), "a lovely view")[at % 3]
        pair = {"round_index": at % 2, "seed": caption(scene), "description": said}
        pairs.append(pair | {"image": {"bytes": buffer.getvalue(), "path": None}})
    return pairs


def test_rates_are_those_of_the_pure_function() -> None:
    pairs = _pairs(24)
    ours, theirs = measure_rounds(pairs), measure_truth(pairs)
    assert ours.keys() == theirs.keys() == {0, 1}
    for round_index, one in ours.items():
        for name in QUESTIONS:
            assert one.rates[name].value == pytest.approx(getattr(theirs[round_index], name))
        assert (one.num_pairs, one.num_readable) == (12, 8)


def test_the_error_is_what_the_jackknife_over_pairs_says() -> None:
    pairs = _pairs(30)
    (one,) = measure_rounds([pair | {"round_index": 0} for pair in pairs]).values()
    asked = [tally_pair(pair)["seed_recall"] for pair in pairs]
    right = np.array([tally.attributes_rate * _total(tally) for tally in asked])
    total = np.array([_total(tally) for tally in asked])
    left_out = (right.sum() - right) / (total.sum() - total)
    n = len(pairs)
    jackknife = ((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()) ** 0.5
    assert one.rates["seed_recall"].error == pytest.approx(jackknife, rel=0.1)


def _total(tally: Any) -> int:
    return sum(number for name, number in tally.total.items() if name != "whole")


def test_attributes_add_up_to_the_rate() -> None:
    (one,) = measure_rounds([pair | {"round_index": 0} for pair in _pairs(3)]).values()
    recalls = [rates["seed_recall"] for rates in one.attributes.values()]
    assert min(recalls) <= one.rates["seed_recall"].value <= max(recalls)
    (alone,) = measure_rounds(_pairs(1)).values()
    assert alone.rates["seed_recall"].error is None


def test_the_world_is_known_by_its_seeds_and_its_size() -> None:
    scene = caption(sample_scene(np.random.default_rng(0)))
    record = {"generator": {"width_px": 64, "height_px": 64}}
    assert is_of_embedded_world(record, ["a dog in a park", None, scene])
    assert not is_of_embedded_world(record, ["a dog in a park", ""])
    assert not is_of_embedded_world({"generator": {"width_px": 512, "height_px": 512}}, [scene])
