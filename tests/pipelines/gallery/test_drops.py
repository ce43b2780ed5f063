"""What the report states of a filter."""

import json

from cluster.config import to_dict
from pipelines.filters.config import FilterConfig
from pipelines.gallery.drops import _asked


def test_a_filter_is_stated_by_all_that_is_not_at_its_default() -> None:
    asked = FilterConfig(near_distance=1, near_similarity=1.0, rounds=[], missing="drop")
    stated = json.loads(_asked(json.dumps(to_dict(asked)).encode()))
    assert stated == {"near_distance": 1, "near_similarity": 1.0, "rounds": [], "missing": "drop"}
    assert _asked(json.dumps(to_dict(FilterConfig())).encode()) == "{}"
