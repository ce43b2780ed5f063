"""pipelines/traces.py: which models get a profiler, and what is said of the others."""

from functools import partial
from pathlib import Path

import pytest
from runs import MakeConfig

from actors.backends.profiling import build_profiled
from pipelines.attempt import prepare
from pipelines.traces import nothing_to_profile, traced, traces_uri

FACTORIES = {"generator": lambda: None, "captioner": lambda: None}


def test_models_are_left_as_they_are_unless_a_trace_is_asked_for(make_config: MakeConfig) -> None:
    with traced(prepare(make_config()), FACTORIES) as factories:
        assert factories == FACTORIES


def test_simulated_models_have_nothing_to_profile_and_it_says_so(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with traced(prepare(make_config("profile.torch=true")), FACTORIES) as factories:
        assert factories == FACTORIES
    for name in FACTORIES:
        assert f"the {name} is simulated, which runs no torch: nothing to profile" in caplog.text
    assert "no trace came" not in caplog.text


def test_a_model_in_torch_gets_a_profiler_and_traces_that_did_not_come_are_missed(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attempt = prepare(make_config("profile.torch=true", "generator.backend=sdxl"))
    with traced(attempt, FACTORIES) as factories:
        wrapped = factories["generator"]
        assert isinstance(wrapped, partial)
        assert wrapped.func is build_profiled
        assert wrapped.args[-1].startswith(f"{tmp_path}/run/profiles/2")
        assert factories["captioner"] is FACTORIES["captioner"]
    assert "no trace came: a replica needs 5 calls" in caplog.text


def test_traces_that_came_are_named_and_may_lie_elsewhere(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["profile.torch=true", "generator.backend=sdxl", f"profile.path={tmp_path}/traces"]
    attempt = prepare(make_config(*words))
    folder = Path(traces_uri(attempt))
    assert folder.parent == tmp_path / "traces"
    with caplog.at_level("INFO"), traced(attempt, FACTORIES):
        folder.mkdir(parents=True)
        (folder / "generator-here-1.json.gz").write_bytes(b"x")
    assert f"1 traces of torch in {folder}: generator-here-1.json.gz" in caplog.text


def test_what_vllm_does_happens_in_another_process() -> None:
    assert "a process of its own: nothing to profile" in nothing_to_profile("captioner", "vllm")
