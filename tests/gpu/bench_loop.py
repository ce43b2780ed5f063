"""A short loop at full size on one GPU: `pairloom run` on models of random weights, no download.

    python tests/gpu/bench_loop.py [--seeds 32] [--rounds 2] [--captioner hf_mllm]
                                   [--models out/full_size] [--out out/bench_loop.json] [--tiny]

SDXL and a LLaVA-1.5-7B (shapes.py) are written as folders, 21 GB, unless they are there. Then the
run itself, conf/synergy_sdxl.yaml with both pools on the one GPU, and `pairloom verify`: printed is
what the run says at its end. `--captioner vllm` wants pairloom[vllm]. --tiny is a CPU's rehearsal.

Limits: random weights describe nothing, so text rules are off; answers run to their full length.
"""

import argparse
import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from measure import conditions, pick_device, say
from shapes import build_llava, build_sdxl

ROOT = Path(__file__).parents[2]
# Both models on one GPU of 80 GB, whose halves they do not fill.
FULL = ["pools.generator.num_replicas=1", "pools.generator.num_gpus=0.5"]
FULL += ["pools.captioner.num_replicas=1", "pools.captioner.num_gpus=0.5"]
VLLM = ["captioner.vllm.gpu_memory_utilization=0.4", "pools.captioner.calls_per_replica=4"]
TINY = ["generator.width_px=64", "generator.height_px=64", "generator.num_steps=2"]
TINY += ["generator.dtype=float32", "generator.sdxl.vae_dtype=float32"]
TINY += ["generator.sdxl.compile=none", "generator.sdxl.compile_cache=''"]
TINY += ["captioner.max_new_tokens=8", "unit_size=2"]
TINY += [f"pools.{pool}.{key}" for pool in ("generator", "captioner")
         for key in ("num_replicas=1", "num_gpus=0", "num_cpus=0.5", "batch_size=2")]  # fmt: skip


def write_models(folder: Path, device: torch.device, dtype: torch.dtype, *, is_tiny: bool) -> None:
    """Folders as a hub's repositories are, each whole once it is there."""
    for name in ("sdxl", "llava"):
        if (folder / name).exists():
            continue
        part = folder / f"{name}.partial"
        shutil.rmtree(part, ignore_errors=True)
        if name == "sdxl":
            build_sdxl(is_tiny, device, dtype).save_pretrained(part)
        else:
            for each in build_llava(is_tiny, device, dtype):
                each.save_pretrained(part)
        part.rename(folder / name)
        gc.collect()
        torch.cuda.empty_cache()  # the run is another process, on the same GPU


def pairloom(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", *words]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)


def run_words(words: argparse.Namespace, models: Path, output: Path) -> list[str]:
    return [
        *("run", "conf/synergy_sdxl.yaml", "--json", f"output={output}"),
        *("seeds.path=conf/seeds/scenes.txt", f"seeds.limit={words.seeds}"),
        *(f"num_rounds={words.rounds}", "limits.max_error_share=1"),
        *(f"generator.model={models / 'sdxl'}", f"captioner.model={models / 'llava'}"),
        *(f"captioner.backend={words.captioner}", "captioner.has_text_rules=false"),
        *(TINY if words.tiny else FULL),
        *(VLLM if words.captioner == "vllm" else []),
    ]


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--captioner", choices=("hf_mllm", "vllm"), default="hf_mllm")
    parser.add_argument("--models", default="out/full_size", type=Path)
    parser.add_argument("--out", default="out/bench_loop.json", type=Path)
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args()


def main() -> int:
    words = _read_arguments()
    device = pick_device(words.tiny)
    where = conditions(device)
    for name, value in where.items():
        say(f"{name}: {value}")
    models = words.models.absolute()
    models.mkdir(parents=True, exist_ok=True)
    dtype = torch.float32 if words.tiny else torch.bfloat16
    write_models(models, device, dtype, is_tiny=words.tiny)
    output = words.out.absolute().with_suffix("")  # the run is made anew each time
    shutil.rmtree(output, ignore_errors=True)
    done = pairloom(*run_words(words, models, output))
    if done.returncode:
        return done.returncode
    totals: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    checked = pairloom("verify", str(output))
    say(f"{checked.stdout}{json.dumps(totals, indent=1)}")
    report = {"conditions": where, "totals": totals, "verify": checked.returncode}
    words.out.parent.mkdir(parents=True, exist_ok=True)
    words.out.write_text(json.dumps(report, indent=1) + "\n")
    say(f"written: {words.out}")
    return checked.returncode


if __name__ == "__main__":
    sys.exit(main())
