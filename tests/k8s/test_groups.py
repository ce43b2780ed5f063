"""The manifests' groups as node types: those that Ray reads, and the nodes that they bring."""

from typing import Any

import pytest
from k8s_entry import config_of
from k8s_groups import head_resources, node_types
from k8s_render import K8S, OVERLAYS, cluster_spec, ray_resource, render
from ray.autoscaler._private.kuberay import autoscaling_config
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import (
    ResourceDemandScheduler,
    SchedulingRequest,
)
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ResourceRequestByCount

HEAD = autoscaling_config._HEAD_GROUP_NAME


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_node_types_are_those_that_ray_reads_from_the_manifest(overlay: str) -> None:
    resource = ray_resource(render(K8S / "overlays" / overlay))
    read = autoscaling_config._generate_available_node_types_from_ray_cr_spec(
        cluster_spec(resource)
    )
    for node_type in read.values():
        node_type["resources"].pop("memory")
    assert head_resources(resource) == read.pop(HEAD)["resources"] == {"CPU": 0}
    assert node_types(resource) == read


def brought(unavailable: dict[str, float]) -> dict[str, int]:
    """The nodes that Ray's own scheduler would start for the run of gpu-spot, from none."""
    resource = ray_resource(render(K8S / "overlays" / "gpu-spot"))
    pools = config_of(resource["spec"]["entrypoint"]).pools
    demands: list[Any] = []
    for pool in (pools.generator, pools.captioner):
        asked = {"CPU": pool.num_cpus, "GPU": pool.num_gpus}
        demands += [
            ResourceRequestByCount(request=ResourceRequestUtil.make(asked), count=pool.num_replicas)
        ]
    types = {
        name: NodeTypeConfig(
            name=name,
            resources=one["resources"],
            min_worker_nodes=one["min_workers"],
            max_worker_nodes=one["max_workers"],
            labels=one["labels"],
            priority=one.get("priority", 0),
        )
        for name, one in node_types(resource).items()
    }
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=types,
        max_num_nodes=100,
        resource_requests=demands,
        cloud_resource_availabilities=unavailable,
        recoverable_resource_availabilities=unavailable,
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    assert not reply.infeasible_resource_requests
    return {one.instance_type: one.count for one in reply.to_launch}


NORMAL = {"cpu": 1, "generator-spot": 6, "captioner-spot": 2}
NO_SPOT = {"cpu": 1, "generator-ondemand": 6, "captioner-ondemand": 2}


def test_each_pool_gets_the_spot_nodes_that_are_meant_for_it() -> None:
    assert brought({}) == NORMAL


def test_on_demand_nodes_stand_in_for_spot_nodes_that_did_not_come() -> None:
    assert brought({"generator-spot": 0.0, "captioner-spot": 0.0}) == NO_SPOT
    one_kind = brought({"captioner-spot": 0.0})
    assert one_kind == {"cpu": 1, "generator-spot": 6, "captioner-ondemand": 2}


def test_spot_nodes_come_first_again_once_they_are_to_be_had() -> None:
    assert brought({"generator-spot": 1.0, "captioner-spot": 1.0}) == NORMAL
