"""An output folder that not all nodes see is refused, with the nodes named."""

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.session import SessionInfo
from cluster.visible import check_visible_everywhere, refuse_blind


def test_nodes_that_do_not_see_the_output_are_named_with_a_way_out() -> None:
    refuse_blind("/data/run", "run.json", [])
    with pytest.raises(
        ValueError, match=r"/data/run.* 2 nodes .* run\.json .*: a, b\. Use object storage"
    ):
        refuse_blind("/data/run", "run.json", ["b", "a"])
    with pytest.raises(ValueError, match=r"12 nodes .*, \.\.\."):
        refuse_blind("/data/run", "run.json", [f"n{number}" for number in range(12)])


def test_one_node_sees_what_it_wrote(local_ray: SessionInfo) -> None:
    check_visible_everywhere("/nowhere", "run.json")


TWO_NODES = """
import sys
from pathlib import Path
from cluster import visible
from cluster.session import SessionConfig, session
from ray.cluster_utils import Cluster

visible.VISIBLE_WITHIN_S = 0.5
cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False})
for number in range(2):
    cluster.add_node(num_cpus=1)
with session(SessionConfig(address=cluster.address)) as info:
    assert sorted(node.num_cpus for node in info.nodes) == [0, 1, 1], info
    folder = Path(sys.argv[1])
    (folder / "run.json").touch()
    visible.check_visible_everywhere(str(folder), "run.json")
    visible.check_visible_everywhere("s3://bucket/run", "run.json")
    try:
        visible.check_visible_everywhere(str(folder), "other.json")
    except ValueError as error:
        assert "2 nodes of the cluster do not see the other.json" in str(error), error
        print("DONE")
cluster.shutdown()
"""


@pytest.mark.slow
def test_every_node_is_asked_whether_it_sees_the_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = subprocess.run(
        [sys.executable, "-c", TWO_NODES, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.endswith("DONE\n"), done.stderr
