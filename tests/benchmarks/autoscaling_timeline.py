"""A run whose work comes in waves on a cluster that scales: what was there when, as a picture.

    make benchmark-autoscaling

Five times the store of one run is taken away until the last GPU node is gone, and given back; in
the third wave a GPU node is lost. Ray's own autoscaler, fake nodes, simulated models, node types of
k8s/overlays/gpu-spot; `tests/support/wave_run.py` has it all. Written: autoscaling.svg beside this
file, and what it is drawn from with --keep FILE; --draw FILE draws that again.

Limits: seconds that nodes take here say nothing of a cloud, nor do the pairs/s of models.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parents[1])]

from wave_run import Timeline, run_waves

PICTURE = HERE / "autoscaling.svg"
BIN_S = 3.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-cycles", type=int, default=5)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--draw", type=Path)
    args = parser.parse_args()
    if args.draw:
        timeline = Timeline(**json.loads(args.draw.read_text()))
    else:
        load = os.getloadavg()[0]
        timeline = run_waves(Path(tempfile.mkdtemp()), args.num_cycles)
        print(f"load {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end")
    if args.keep:
        args.keep.write_text(timeline.to_json())
    draw(timeline, PICTURE)
    print(f"{timeline.num_cycles} cycles, {timeline.totals['num_pairs']} pairs; {PICTURE}")
    print(f"pairloom verify: {timeline.verify_code}: {timeline.verify_said.strip()}")


def draw(timeline: Timeline, path: Path) -> None:
    """Nodes, replicas and pairs/s over the run, the outages shaded."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "pairloom", "font.size": 9, "svg.fonttype": "none"}
    from matplotlib import pyplot as plt

    began = timeline.samples[0]["at"]
    at = [one["at"] - began for one in timeline.samples]
    figure, axes = plt.subplots(3, 1, figsize=(9, 5.5), sharex=True, layout="constrained")
    nodes, replicas, pairs = axes
    nodes.step(at, [len(one["gpu_nodes"]) for one in timeline.samples], where="post")
    nodes.set_ylabel("GPU nodes")
    placed = [one["num_placed"] for one in timeline.samples]
    wanted = [one["num_placed"] + one["num_pending"] for one in timeline.samples]
    replicas.fill_between(at, placed, wanted, step="post", alpha=0.4, label="waiting for a node")
    replicas.step(at, placed, where="post", label="on a node")
    replicas.set_ylabel("replicas")
    replicas.legend(loc="upper left", fontsize=7, ncols=2)
    _draw_pairs(pairs, timeline, began, at[-1])
    for axis in axes:
        axis.set_ylim(bottom=0)
        for start, end in timeline.outages:
            axis.axvspan(start - began, end - began, color="0.85", lw=0)
        if timeline.node_lost_at:
            axis.axvline(timeline.node_lost_at - began, color="C3", ls="--", lw=1)
    for axis in (nodes, replicas):
        axis.set_yticks(range(5))
        axis.set_ylim(0, 4.4)
    nodes.set_title("grey: the store is away; dashed: a GPU node is lost", fontsize=9)
    pairs.set_xlabel("seconds")
    figure.savefig(path, metadata={"Date": None})


def _draw_pairs(axis: Any, timeline: Timeline, began: float, end_s: float) -> None:
    bins = [0.0] * (int(end_s / BIN_S) + 1)
    for moment, num_pairs in timeline.commits:
        bins[min(max(int((moment - began) / BIN_S), 0), len(bins) - 1)] += num_pairs / BIN_S
    axis.bar([index * BIN_S for index in range(len(bins))], bins, width=BIN_S, align="edge")
    axis.set_ylabel("pairs/s")


if __name__ == "__main__":
    main()
