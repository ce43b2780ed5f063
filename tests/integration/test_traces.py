"""A run with profile.torch=true: a trace of each model lies beside its pairs."""

import gzip
import json
from pathlib import Path

import pytest
from runs import MakeConfig

from pipelines.run import run

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.slow]


def test_a_run_stores_a_trace_of_each_replica(make_config: MakeConfig, tmp_path: Path) -> None:
    words = ["generator.backend=sdxl", "captioner.backend=hf_mllm", "generator.num_steps=2"]
    words += ["profile.torch=true", "profile.skip_calls=1", "profile.record_calls=1"]
    totals = run(make_config(*words, "num_rounds=2"))
    assert totals.num_pairs == 20
    traces = sorted((tmp_path / "run" / "profiles").glob("*/*.json.gz"))
    assert [path.name.split("-")[0] for path in traces] == ["captioner", "generator"]
    for path in traces:
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        assert any(event.get("name") == "aten::linear" for event in events)
