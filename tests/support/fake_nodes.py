"""Ray's own autoscaler (v2) with nodes that are processes of this machine, of given types.

It is what `ray.cluster_utils.AutoscalingCluster` starts, with two differences: that class ends
every Ray of the machine first (`ray stop --force`), and it reads a file that is not in Ray's wheel.
As an external provider, the same class of fake nodes needs no file and takes any port.

Limits: no node fails to come, and each comes in seconds.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import psutil
from ports import free_ports
from ray_nodes import RayNodes, ray_nodes, tree_of

HEAD_TYPE = "ray.head.default"
HEAD_ID = "f" * 51 + "00000"  # as the provider counts: 1, 2, 3 are the nodes that it brings
# What the autoscaler's reader asks for and this provider has no use for.
LISTS = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")
LISTS += ("setup_commands", "head_setup_commands", "worker_setup_commands")
LISTS += ("head_start_ray_commands", "worker_start_ray_commands")
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"


@contextlib.contextmanager
def autoscaling_nodes(
    head: Mapping[str, int], types: Mapping[str, Any], extra: Mapping[str, str] | None = None
) -> Iterator[RayNodes]:
    """A head whose autoscaler looks once a second; what it brought is ended with it."""
    # Named after the systems where 0 is the default: every node takes the loopback's address.
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    with ray_nodes(loopback | dict(extra or {})) as nodes:
        (gcs,) = free_ports(1)
        path = nodes.folder / "autoscaling.json"
        path.write_text(json.dumps(_config(head, types, f"127.0.0.1:{gcs}")))
        env = {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        }
        words = [f"--autoscaling-config={path}", f"--num-cpus={head.get('CPU', 0)}"]
        nodes.start_head(*words, f"--num-gpus={head.get('GPU', 0)}", gcs_port=gcs, env=env)
        yield nodes


def _config(head: Mapping[str, int], types: Mapping[str, Any], gcs: str) -> dict[str, Any]:
    head_type = {"resources": dict(head), "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "fake-nodes",
        "max_workers": sum(one["max_workers"] for one in types.values()),
        "upscaling_speed": 100,
        "idle_timeout_minutes": 1,
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": HEAD_ID,
            "gcs_address": gcs,
        },
        "head_node_type": HEAD_TYPE,
        "available_node_types": {**types, HEAD_TYPE: head_type},
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in LISTS},
    }


def lose_node(nodes: RayNodes, node_id: str) -> None:
    """The raylet of a node and all that it started are killed, as with a spot machine that goes."""
    for process in tree_of(nodes.processes[0].pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            words = process.cmdline()
            if words and words[0].endswith("/raylet") and _id_of(process) == node_id:
                for one in tree_of(process.pid):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()
                return
    raise AssertionError(f"no raylet of node {node_id}")


def _id_of(raylet: psutil.Process) -> str:
    return raylet.environ().get("RAY_OVERRIDE_NODE_ID_FOR_TESTING", "")
