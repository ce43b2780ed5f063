"""Whether models fit into GPUs, as the plan tells it."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from cluster.config import from_dict
from pipelines.cli import main
from pipelines.gpu_memory import (
    check_memory,
    describe_memory,
    estimate_memory,
    find_gpu_gib,
    memory_to_dict,
)
from pipelines.synergy import SynergyConfig


def _config(num_gpus: float = 1, **more: Any) -> SynergyConfig:
    pool = {"num_gpus": num_gpus, "batch_size": 8}
    values = {
        "output": "out/x",
        "seeds": {"path": "conf/seeds/scenes.txt"},
        "pools": {"generator": pool, "captioner": pool},
    }
    return from_dict(SynergyConfig, values | more, "of the test")


def test_the_embedded_models_fit_and_on_cpus_nothing_is_asked() -> None:
    memory = estimate_memory(_config(0.5), 24)
    check_memory(memory)
    assert [one.name for one in memory] == ["generator", "captioner"]
    assert all(one.need is not None and one.has_gib == 12 for one in memory)
    lines = describe_memory(memory)
    assert len(lines) == 2
    assert all("estimated" in line and "has 12" in line for line in lines)
    assert estimate_memory(_config(0), 24) == []
    assert memory_to_dict(memory)[0]["total_bytes"] > 800 << 20


def test_weights_that_are_more_than_the_share_are_refused_and_a_sum_is_warned_of() -> None:
    weights_gib = estimate_memory(_config())[0].need.weights_bytes / 2**30
    small = estimate_memory(_config(), weights_gib * 3)
    check_memory(small)
    assert any("may run out of memory" in line for line in describe_memory(small))
    with pytest.raises(ValueError, match="the weights of embedded alone are"):
        check_memory(estimate_memory(_config(0.25), weights_gib * 3))


def test_what_is_not_known_is_said() -> None:
    generator = {"model": "owner/name", "width_px": 64, "height_px": 64}
    lines = describe_memory(estimate_memory(_config(generator=generator)))
    assert "owner/name is not on this machine" in lines[0]
    assert "set plan.gpu_gib" in lines[1]


def test_a_scorer_is_named_though_nobody_reckons_what_it_needs() -> None:
    scored = _config(scorer={"backend": "clip"})
    assert [one.name for one in estimate_memory(scored)] == ["generator", "captioner"]
    pools = {name: {"num_gpus": 0.5} for name in ("generator", "captioner", "scorer")}
    lines = describe_memory(estimate_memory(_config(scorer={"backend": "clip"}, pools=pools), 24))
    assert lines[-1].startswith("memory     scorer: not known")


def test_a_share_of_vllm_is_what_it_is_told_to_fill() -> None:
    captioner = {"backend": "vllm", "vllm": {"gpu_memory_utilization": 0.4}}
    (_, one) = estimate_memory(_config(0.5, captioner=captioner), 80)
    assert one.has_gib == pytest.approx(32)
    assert "at least" in describe_memory([one])[0]
    assert len(describe_memory([one])) == 1


def test_a_vllm_that_fills_more_than_it_asks_for_leaves_no_room_to_share() -> None:
    (_, one) = estimate_memory(_config(0.4, captioner={"backend": "vllm"}), 80)
    assert "fills 0.9 of a GPU and asks for 0.4 of it" in describe_memory([one])[-1]


def test_an_author_counts_where_seeds_are_written() -> None:
    author = {"num_batches": 1, "pool": {"num_gpus": 1}, "model": {"model": "embedded"}}
    config = _config(seeds={"path": None, "author": author})
    assert [one.name for one in estimate_memory(config)] == ["generator", "captioner", "author"]


@pytest.mark.parametrize(("said", "gib"), [("81559\n40960\n", 40.0), ("[N/A]\n", None), ("", None)])
def test_the_smallest_gpu_is_asked_of_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, gib: float | None
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpu_gib() is None
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{said}'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert find_gpu_gib() == gib


def test_the_plan_tells_it_and_refuses_what_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "conf/synergy.yaml", "output=out/x", "pools.generator.num_gpus=1"]
    assert main([*words, "plan.gpu_gib=24", "--json"]) == 0
    out = capsys.readouterr().out
    assert "memory     generator about" in out
    assert json.loads(out.splitlines()[-1])["memory"][0]["has_gib"] == 24
    assert main([*words, "plan.gpu_gib=0.01"]) == 2
    assert "the weights of embedded alone are" in capsys.readouterr().err
