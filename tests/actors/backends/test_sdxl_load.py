"""Switches that only pay on a GPU reach the calls that they are about."""

import inspect
import io
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLPipeline

from actors.backends import sdxl_load
from actors.backends.sdxl_config import SCHEDULERS, SdxlConfig
from actors.backends.sdxl_load import (
    SdxlPipes,
    _check_fp8,
    prepare_pipes,
    quantize_blocks,
    set_scheduler,
)


@pytest.fixture
def pipe(sdxl_folder: Path) -> Any:
    return StableDiffusionXLPipeline.from_pretrained(sdxl_folder, dtype=torch.float32)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_keeps_the_noise_the_model_was_trained_with(pipe: Any, name: str) -> None:
    own = pipe.scheduler.config
    set_scheduler(pipe, SdxlConfig(scheduler=name))
    assert type(pipe.scheduler).__name__ == SCHEDULERS[name]
    for key in ("beta_start", "beta_end", "beta_schedule", "prediction_type"):
        assert pipe.scheduler.config[key] == own[key]


def test_trailing_spacing_begins_at_full_noise(pipe: Any) -> None:
    set_scheduler(pipe, SdxlConfig(scheduler="euler", timestep_spacing="trailing"))
    pipe.scheduler.set_timesteps(4)
    assert pipe.scheduler.timesteps.tolist() == [999, 749, 499, 249]
    set_scheduler(pipe, SdxlConfig(timestep_spacing="leading"))
    pipe.scheduler.set_timesteps(4)
    assert pipe.scheduler.timesteps.tolist() == [750, 500, 250, 0]


def test_a_spacing_that_a_scheduler_does_not_know_is_refused(pipe: Any) -> None:
    from diffusers import DDPMWuerstchenScheduler

    pipe.scheduler = DDPMWuerstchenScheduler()
    with pytest.raises(ValueError, match="DDPMWuerstchenScheduler has none"):
        set_scheduler(pipe, SdxlConfig(timestep_spacing="trailing"))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("none", set()),
        ("regional", {"BasicTransformerBlock"}),
        ("full", {"UNet2DConditionModel", "Decoder"}),
    ],
)
def test_compiling_reaches_the_modules_it_is_about(
    pipe: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str, expected: set[str]
) -> None:
    compiled: list[tuple[str, dict[str, Any]]] = []

    def note(module: torch.nn.Module, **options: Any) -> None:
        compiled.append((type(module).__name__, options))

    monkeypatch.setattr(torch.nn.Module, "compile", note)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    cache = "" if mode == "none" else str(tmp_path / "cache")
    config = SdxlConfig(compile=mode, compile_cache=cache)
    with torch._dynamo.config.patch(recompile_limit=8):  # puts it back afterwards
        prepare_pipes(SdxlPipes(base=pipe), config, 4)
    assert {name for name, _ in compiled} == expected
    assert all(options["fullgraph"] for _, options in compiled)
    if mode == "regional":
        assert len(compiled) == sum(
            type(module).__name__ == "BasicTransformerBlock" for module in pipe.unet.modules()
        )
    if cache:
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == cache
        assert Path(cache).is_dir()


def test_what_is_compiled_is_kept_where_no_other_user_can_be_first(
    pipe: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is put back afterwards
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    with torch._dynamo.config.patch(recompile_limit=8):
        prepare_pipes(SdxlPipes(base=pipe), SdxlConfig(compile="full"), 4)
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert folder == tmp_path / ".cache" / "pairloom" / "compiled"
    assert folder.stat().st_mode & 0o077 == 0


def test_compiling_without_a_compiler_says_what_to_do(
    pipe: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ValueError, match="needs a C compiler"):
        prepare_pipes(SdxlPipes(base=pipe), SdxlConfig(compile="regional"), 4)


def test_a_cache_that_anyone_may_write_to_is_refused(pipe: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    config = SdxlConfig(compile="full", compile_cache=str(tmp_path))
    with pytest.raises(ValueError, match="anyone may write there"):
        prepare_pipes(SdxlPipes(base=pipe), config, 4)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives a folder away")
def test_a_cache_that_another_user_has_filled_is_refused(pipe: Any, tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    config = SdxlConfig(compile="full", compile_cache=str(tmp_path))
    with pytest.raises(ValueError, match="the user with the id 65534"):
        prepare_pipes(SdxlPipes(base=pipe), config, 4)


def test_fp8_reaches_the_linear_layers_of_the_blocks(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchao need not be installed here: a module with its names stands for it."""
    done: list[tuple[Any, str]] = []

    def quantize_(model: Any, scheme: Any, *, filter_fn: Any) -> None:
        for name, module in model.named_modules():
            if filter_fn(module, name):
                done.append((scheme, name))

    stand_in = types.ModuleType("torchao.quantization")
    stand_in.quantize_ = quantize_
    stand_in.PerRow = lambda: "per row"
    stand_in.Float8DynamicActivationFloat8WeightConfig = lambda granularity: granularity
    monkeypatch.setitem(sys.modules, "torchao", types.ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.quantization", stand_in)
    monkeypatch.setattr(sdxl_load, "_check_fp8", lambda device: None)
    prepare_pipes(SdxlPipes(base=pipe), SdxlConfig(quantization="fp8"), 4)
    assert {scheme for scheme, _ in done} == {"per row"}
    names = [name for _, name in done]
    assert any(name.endswith("attn1.to_q") for name in names)
    assert any("ff.net" in name for name in names)
    assert not any("embed" in name or "conv" in name for name in names)


def test_fp8_without_torchao_says_what_to_do(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ValueError, match=r"pip install torchao, or take 'none'"):
        quantize_blocks(pipe.unet)


def test_fp8_is_refused_where_there_is_no_such_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="cpu has no 8-bit floats"):
        _check_fp8(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(ValueError, match="cuda:0 has no 8-bit floats"):
        _check_fp8(torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    _check_fp8(torch.device("cuda:0"))


def test_the_real_torchao_has_the_names_that_the_stand_in_has() -> None:
    """Where it is installed; it quantizes on a GPU only."""
    real = pytest.importorskip("torchao.quantization")
    scheme = real.Float8DynamicActivationFloat8WeightConfig(granularity=real.PerRow())
    assert all(isinstance(each, real.PerRow) for each in scheme.granularity)
    assert "filter_fn" in inspect.signature(real.quantize_).parameters


DRAW = """
import sys, json
import numpy as np
from actors.backends.sdxl import SdxlEngine
from actors.backends import sdxl_load
from actors.backends.sdxl_config import SdxlConfig
from actors.text_to_image import TextToImageConfig
from torch._dynamo.utils import counters
import torch
torch.set_num_threads(1)
folder, mode, cache = sys.argv[1:]
sdxl = SdxlConfig(compile=mode, compile_cache=cache)
engine = SdxlEngine(TextToImageConfig(model=folder, num_steps=2, sdxl=sdxl))
drawn = engine.draw(["red star", "blue star"], [1, 2])
drawn += engine.draw(["green star"], [3])
np.save(sys.stdout.buffer, np.stack([np.asarray(each.image) for each in drawn]))
print(json.dumps(dict(counters["inductor"])), file=sys.stderr)
"""


def _draw(folder: Path, mode: str, cache: str) -> tuple[np.ndarray, dict[str, int]]:
    done = subprocess.run(
        [sys.executable, "-c", DRAW, str(folder), mode, cache], capture_output=True, check=True
    )
    counts = json.loads(done.stderr.decode().strip().splitlines()[-1])
    return np.load(io.BytesIO(done.stdout)).astype(int), counts


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["regional", "full"])
def test_compiled_pictures_are_the_same_and_a_second_replica_finds_the_code(
    sdxl_folder: Path, tmp_path: Path, mode: str
) -> None:
    cache = str(tmp_path / "cache")
    eager, _ = _draw(sdxl_folder, "none", "")
    first, first_counts = _draw(sdxl_folder, mode, cache)
    second, second_counts = _draw(sdxl_folder, mode, cache)
    assert np.abs(first - eager).max() <= 2
    assert (second == first).all()
    assert first_counts.get("fxgraph_cache_miss", 0) > 0
    assert second_counts.get("fxgraph_cache_miss", 0) == 0


def test_a_solver_from_eulers_config_has_its_own_defaults(pipe: Any) -> None:
    set_scheduler(pipe, SdxlConfig(scheduler="dpmpp_2m"))
    assert isinstance(pipe.scheduler, DPMSolverMultistepScheduler)
    assert pipe.scheduler.config.algorithm_type == "dpmsolver++"
    assert pipe.scheduler.config.solver_order == 2
