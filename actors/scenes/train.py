"""Trains the embedded models: `python -m actors.scenes.train PHASE --out DIR --budget-minutes N`.

PHASE is `all` or one phase, so that phases can run as processes of their own, one core each:
`vae` -> `unet` on one, `text` -> `vision` -> `decoder` -> `mllm` on the other. Every phase resumes
from its checkpoint when the same command is typed again, and a finished phase returns at once.

Limits: `all` runs the phases one after another; budgets are wall-clock shares of one total, sized
for a CPU core (a GPU is used if named, with the same batch sizes).
"""

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

# Shares of the total budget, in an order that respects what needs what.
SHARES = {"vae": 0.08, "text": 0.03, "vision": 0.08, "decoder": 0.03, "mllm": 0.24, "unet": 0.54}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m actors.scenes.train", description=__doc__)
    parser.add_argument("phase", choices=("all", *SHARES, "export"))
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and weights go here")
    parser.add_argument(
        "--budget-minutes", type=float, default=160.0, help="for the phase(s) named"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--num-threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--export-to", type=Path, default=Path(__file__).parent / "weights")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the phase named on the command line, or all of them and the export."""
    args = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    import torch

    from actors.scenes.loop import RunSettings
    from actors.scenes.phases import export, run

    torch.set_num_threads(args.num_threads)
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = RunSettings(args.out, args.seed, device)
    names = list(SHARES) if args.phase == "all" else [args.phase]
    for name in names:
        if name != "export":
            share = SHARES[name] if args.phase == "all" else 1.0
            run(name, settings, args.budget_minutes * 60 * share)
    if args.phase in ("all", "export"):
        export(settings, args.export_to)


if __name__ == "__main__":
    main()
