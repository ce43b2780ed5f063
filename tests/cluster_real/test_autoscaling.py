"""One run on a cluster that scales its GPU nodes from none to three and back, five times."""

from itertools import pairwise

import pytest
from wave_run import MOST_GPU_NODES, NODE_IDLE_S, Timeline, group_types, run_waves

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def timeline(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    folder = tmp_path_factory.mktemp("waves")
    timeline = run_waves(folder, num_cycles=5)
    (folder / "timeline.json").write_text(timeline.to_json())
    return timeline


def test_nodes_come_and_go_with_the_work_five_times_in_one_run(timeline: Timeline) -> None:
    assert timeline.num_cycles == 5
    counts = timeline.num_gpu_nodes()
    assert max(counts) == MOST_GPU_NODES, "no more than the pools may have"
    assert counts[0] == counts[-1] == 0
    seen = {node for one in timeline.samples for node in one["gpu_nodes"]}
    # Each wave brings three, and one more came for the one that was lost.
    assert len(seen) >= 5 * MOST_GPU_NODES + 1


def test_nothing_is_lost_nor_done_twice_that_was_committed(timeline: Timeline) -> None:
    assert timeline.verify_code == 0, timeline.verify_said
    totals = timeline.totals
    assert totals["num_pairs"] == sum(num for _, num in timeline.commits)
    assert totals["num_error_rows"] == totals["num_stopped"] == 0


def test_work_begins_before_the_last_node_is_there(timeline: Timeline) -> None:
    all_there = next(
        one["at"] for one in timeline.samples if len(one["gpu_nodes"]) == MOST_GPU_NODES
    )
    assert timeline.first_call_at < all_there


def test_what_is_pending_is_what_the_autoscaler_answers(timeline: Timeline) -> None:
    """A node comes for a pending replica only, so never more nodes than replicas wanted."""
    counts = timeline.num_gpu_nodes()
    for sample, (before, now) in zip(timeline.samples[1:], pairwise(counts), strict=True):
        if now > before:
            at = sample["at"]
            recent = [one for one in timeline.samples if at - 20 < one["at"] <= at]
            assert now <= max(one["num_placed"] + one["num_pending"] for one in recent)


def test_the_node_types_are_the_manifest_s(timeline: Timeline) -> None:
    head, types = group_types()
    assert head == {"CPU": 0}
    assert {"generator-spot", "captioner-spot", "cpu"} <= types.keys()
    assert all(one["idle_timeout_s"] == NODE_IDLE_S for one in types.values())
