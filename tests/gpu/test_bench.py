"""The GPU benchmarks in rehearsal on a CPU, and their models' sizes against the published ones."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def _run(script: str, out: Path, *words: str) -> tuple[str, dict[str, Any]]:
    command = [sys.executable, str(HERE / script), "--tiny", "--repeats", "1", "--out", str(out)]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(out.read_text())


def _is_held_to_no_goal(report: dict[str, Any]) -> bool:
    return {row["is"] for row in report["goals"]} == {"not measured"}


@pytest.mark.slow
def test_the_sdxl_benchmark_runs_every_case_on_a_cpu(tmp_path: Path) -> None:
    words = ("--compile", "none", "--batches", "1")
    said, report = _run("bench_sdxl.py", tmp_path / "out.json", *words)
    (mode,) = report["modes"]
    cases = [(case["steps"], case["guided"]) for case in mode["pictures"]]
    assert cases == [(20, True), (30, True), (4, False), (20, False)]
    assert all(case["img/s"] > 0 and 0 < case["MFU"] < 1 for case in mode["pictures"])
    assert all(0 < case["VAE share"] < 1 for case in mode["pictures"])
    guided, plain = mode["pictures"][0], mode["pictures"][3]
    vae = report["work"]["vae_picture"]
    assert guided["TFLOP/img"] - vae == pytest.approx(2 * (plain["TFLOP/img"] - vae))
    assert report["left_out"] == []
    assert "its figures mean nothing" in said
    assert _is_held_to_no_goal(report)


@pytest.mark.slow
def test_what_does_not_fit_into_the_budget_is_left_out_and_named(tmp_path: Path) -> None:
    words = ("--compile", "none", "--batches", "1", "--budget-s", "0")
    said, report = _run("bench_sdxl.py", tmp_path / "out.json", *words)
    assert report["modes"][0]["pictures"] == []
    assert len(report["left_out"]) == 4
    assert "left out for want of time: none, batch 1, 20 steps" in said


def test_the_mllm_benchmark_runs_every_case_on_a_cpu(tmp_path: Path) -> None:
    words = ("--batches", "2", "--tokens", "5")
    _, report = _run("bench_mllm.py", tmp_path / "out.json", *words)
    assert set(report["caches"]) == {"dynamic", "static"}
    for (case,) in report["caches"].values():
        assert case["batch"] == 2
        assert case["img/s"] > 0
        assert case["CPU ms/img"] > 0
    work = report["work"]
    assert 0 < work["token_tflop"] < work["prefill_tflop"]
    assert _is_held_to_no_goal(report)


@pytest.mark.slow
def test_a_pool_is_measured_against_the_bare_loop(tmp_path: Path) -> None:
    words = ("--compile", "none", "--batches", "1", "--pool")
    _, report = _run("bench_sdxl.py", tmp_path / "out.json", *words)
    assert report["pool"]["pictures"] == 4
    assert 0 < report["pool"]["ratio"] < 1.5


@pytest.mark.slow
def test_a_short_loop_is_run_and_verified(tmp_path: Path) -> None:
    out, models = tmp_path / "loop.json", tmp_path / "models"
    command = [sys.executable, str(HERE / "bench_loop.py"), "--tiny", "--seeds", "4"]
    command += ["--models", str(models), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert (report["verify"], report["totals"]["num_pairs"]) == (0, 8)
    assert {path.name for path in models.iterdir()} == {"sdxl", "llava"}


@pytest.mark.slow
def test_full_size_is_the_public_models_size() -> None:
    """On the meta device: no memory. Published: 2.567 B and 83.7 M parameters; 6.76 and 10.47
    TFLOP are reckoned from the architecture in 1024 px, apart from this.
    """
    code = (
        "import torch\n"
        "from shapes import build_llava, build_unet, build_vae, made_on\n"
        "from measure import count_tflop\n"
        "count = lambda model: sum(each.numel() for each in model.parameters())\n"
        "with made_on(torch.device('meta'), torch.bfloat16):\n"
        "    unet, vae = build_unet(False), build_vae(False)\n"
        "    added = {'text_embeds': torch.randn(1, 1280), 'time_ids': torch.randn(1, 6)}\n"
        "    latent, text = torch.randn(1, 4, 128, 128), torch.randn(1, 77, 2048)\n"
        "    step = lambda: unet(latent, torch.tensor(5), text, added_cond_kwargs=added)\n"
        "    print(count(unet), count_tflop(step))\n"
        "    print(count(vae), count_tflop(lambda: vae.decode(latent)))\n"
        "_, llava = build_llava(False, torch.device('meta'), torch.bfloat16)\n"
        "print(count(llava))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True
    )
    numbers = [float(word) for word in done.stdout.split()]
    assert numbers == pytest.approx([2.5675e9, 6.76, 83.65e6, 10.47, 7.063e9], rel=1e-3)
