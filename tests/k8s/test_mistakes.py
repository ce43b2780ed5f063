"""Mistakes that people make in manifests, each of which the check that is meant for it must see."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
from k8s_checks import problems
from k8s_render import K8S, Manifest, cluster_spec, of_kind, ray_resource, render

Mistake = Callable[[list[Manifest]], object]


@functools.cache
def rendered(overlay: str) -> list[Manifest]:
    return render(K8S / "overlays" / overlay)


def job(manifests: list[Manifest]) -> Manifest:
    return ray_resource(manifests)["spec"]


def head(manifests: list[Manifest]) -> Manifest:
    return cluster_spec(ray_resource(manifests))["headGroupSpec"]


def group(manifests: list[Manifest], name: str) -> Manifest:
    groups = cluster_spec(ray_resource(manifests))["workerGroupSpecs"]
    return next(one for one in groups if one["groupName"] == name)


def pod(part: Manifest) -> Manifest:
    return part["template"]["spec"]


def container(part: Manifest) -> Manifest:
    return pod(part)["containers"][0]


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    return next(one for one in of_kind(manifests, kind) if one["metadata"]["name"] == name)


def variable(part: Manifest, name: str, value: str) -> None:
    env = [one for one in container(part)["env"] if one["name"] != name]
    container(part)["env"] = [*env, {"name": name, "value": value}]


def command(manifests: list[Manifest], old: str, new: str) -> None:
    assert old in job(manifests)["entrypoint"]
    job(manifests)["entrypoint"] = job(manifests)["entrypoint"].replace(old, new)


def without(node: Manifest, key: str) -> Any:
    return node.pop(key)


def rule(manifests: list[Manifest], alert: str) -> Manifest:
    (rules,) = of_kind(manifests, "PrometheusRule")
    return next(one for one in rules["spec"]["groups"][0]["rules"] if one["alert"] == alert)


def hard(manifests: list[Manifest]) -> Manifest:
    return of_kind(manifests, "ResourceQuota")[0]["spec"]["hard"]


def policy(manifests: list[Manifest], name: str) -> Manifest:
    return named(manifests, "NetworkPolicy", name)["spec"]


SPOT, CAPTIONER, ONDEMAND = "generator-spot", "captioner-spot", "generator-ondemand"
INGRESS = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "Ingress",
    "metadata": {"name": "ray", "namespace": "pairloom"},
    "spec": {"defaultBackend": {"service": {"name": "ray", "port": {"number": 8265}}}},
}
SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "type": "Opaque",
    "metadata": {"name": "pairloom-ray-token", "namespace": "pairloom"},
}
REGISTRY = "registry.example.com/pairloom"

# What is wrong, the check that must say so, and how it is done to the overlay gpu-spot.
MISTAKES: dict[str, tuple[str, Mistake]] = {
    # wrong shape
    "misspelt key of the job": (
        "schema", lambda m: job(m).update(backofLimit=3)),
    "misspelt key of a group": (
        "schema", lambda m: group(m, SPOT).update(idleTimeoutSecond=600)),
    "misspelt key of a container": (
        "schema", lambda m: container(head(m)).update(imagePullPolice="Always")),
    "number as text": (
        "schema", lambda m: group(m, SPOT).update(maxReplicas="6")),
    "misspelt key of a policy": (
        "schema", lambda m: policy(m, "ray").update(policyType=["Ingress"])),
    "misspelt key of a service account": (
        "schema", lambda m: named(m, "ServiceAccount", "pairloom-head").update(automount=False)),
    "unknown version of authentication": (
        "schema", lambda m: cluster_spec(ray_resource(m)).update(authOptions={"mode": "basic"})),
    "group without maxReplicas": (
        "schema", lambda m: without(group(m, SPOT), "maxReplicas")),
    # what the operator refuses
    "name too long for its pods": (
        "operator", lambda m: ray_resource(m)["metadata"].update(name="p" * 48)),
    "name with capitals": (
        "operator", lambda m: ray_resource(m)["metadata"].update(name="Pairloom")),
    "time to live without shutdown": (
        "operator", lambda m: job(m).update(shutdownAfterJobFinishes=False)),
    "deletion rules beside shutdown": (
        "operator", lambda m: job(m).update(deletionStrategy={"deletionRules": [
            {"policy": "DeleteCluster", "condition": {"jobStatus": "SUCCEEDED"}}]})),
    "half of the old deletion policies": (
        "operator", lambda m: job(m).update(
            deletionStrategy={"onSuccess": {"policy": "DeleteSelf"}})),
    "job that goes before its cluster": (
        "operator", lambda m: job(m).update(
            shutdownAfterJobFinishes=False, ttlSecondsAfterFinished=0, deletionStrategy={
                "deletionRules": [
                    {"policy": policy, "condition": {"jobStatus": "FAILED", "ttlSeconds": ttl}}
                    for policy, ttl in (("DeleteCluster", 9), ("DeleteSelf", 1))
                ]})),
    "retries of an interactive job": (
        "operator", lambda m: job(m).update(submissionMode="InteractiveMode")),
    "pods that restart under autoscaler v2": (
        "operator", lambda m: pod(group(m, SPOT)).update(restartPolicy="Always")),
    "resources said twice": (
        "operator", lambda m: head(m).update(resources={"CPU": "0"})),
    "labels in rayStartParams": (
        "operator", lambda m: group(m, SPOT)["rayStartParams"].update(labels="a=b")),
    "Ray too old for the token": (
        "operator", lambda m: cluster_spec(ray_resource(m)).update(rayVersion="2.51.1")),
    "more replicas at least than at most": (
        "operator", lambda m: group(m, SPOT).update(minReplicas=9)),
    "two groups of one name": (
        "operator", lambda m: group(m, CAPTIONER).update(groupName=SPOT)),
    # pods
    "root user": (
        "security", lambda m: pod(head(m))["securityContext"].update(runAsUser=0)),
    "may be root": (
        "security", lambda m: without(pod(group(m, SPOT))["securityContext"], "runAsNonRoot")),
    "writable root file system": (
        "security", lambda m: container(group(m, SPOT))["securityContext"].update(
            readOnlyRootFilesystem=False)),
    "autoscaler without a security context": (
        "security", lambda m: without(
            cluster_spec(ray_resource(m))["autoscalerOptions"], "securityContext")),
    "capabilities kept": (
        "security", lambda m: without(container(head(m))["securityContext"], "capabilities")),
    "tracing in the restricted namespace": (
        "security", lambda m: container(head(m))["securityContext"]["capabilities"].update(
            add=["SYS_PTRACE"])),
    "no seccomp": (
        "security", lambda m: without(pod(head(m))["securityContext"], "seccompProfile")),
    "privilege escalation in the submitter": (
        "security", lambda m: job(m)["submitterPodTemplate"]["spec"]["containers"][0][
            "securityContext"].update(allowPrivilegeEscalation=True)),
    "network of the host": (
        "security", lambda m: pod(group(m, "cpu")).update(hostNetwork=True)),
    "path of the host": (
        "security", lambda m: pod(group(m, SPOT))["volumes"].append(
            {"name": "host", "hostPath": {"path": "/var/lib/models"}})),
    "Kubernetes token on workers": (
        "account", lambda m: pod(group(m, SPOT)).update(automountServiceAccountToken=True)),
    "default service account": (
        "account", lambda m: without(pod(group(m, SPOT)), "serviceAccountName")),
    "workers with the head's account": (
        "account", lambda m: pod(group(m, SPOT)).update(serviceAccountName="pairloom-head")),
    "nowhere to write": (
        "volumes", lambda m: container(head(m))["volumeMounts"].pop(0)),
    "mount without its volume": (
        "volumes", lambda m: pod(group(m, SPOT))["volumes"].pop(2)),
    "empty directory without a limit": (
        "volumes", lambda m: pod(group(m, SPOT))["volumes"][1].update(emptyDir={})),
    "claim that is not there": (
        "volumes", lambda m: m.remove(named(m, "PersistentVolumeClaim", "pairloom-models"))),
    "models writable": (
        "volumes", lambda m: container(group(m, SPOT))["volumeMounts"][4].update(readOnly=False)),
    "no limits": (
        "resources", lambda m: without(container(group(m, "cpu"))["resources"], "limits")),
    "request under the limit": (
        "resources", lambda m: container(group(m, "cpu"))["resources"]["requests"].update(cpu="1")),
    "secret as a value": (
        "secret", lambda m: variable(head(m), "AWS_SECRET_ACCESS_KEY", "abc")),
    "token in the submitter": (
        "secret", lambda m: job(m)["submitterPodTemplate"]["spec"]["containers"][0]["env"].append(
            {"name": "RAY_AUTH_TOKEN", "value": "0123456789abcdef"})),
    "knob of the session left out": (
        "environment", lambda m: variable(
            group(m, SPOT), "RAY_DATA_DEFAULT_ASYNC_BATCH_UDF_MAX_CONCURRENCY", "4")),
    "models from the hub at run time": (
        "environment", lambda m: variable(group(m, SPOT), "HF_HUB_OFFLINE", "0")),
    "object store larger than shared memory": (
        "memory", lambda m: pod(group(m, SPOT))["volumes"][3]["emptyDir"].update(sizeLimit="1Gi")),
    "shared memory on disk": (
        "memory", lambda m: without(pod(head(m))["volumes"][3]["emptyDir"], "medium")),
    "shared memory takes all memory": (
        "memory", lambda m: pod(group(m, SPOT))["volumes"][3]["emptyDir"].update(sizeLimit="27Gi")),
    "GPU nodes not tolerated": (
        "placement", lambda m: pod(group(m, SPOT))["tolerations"].pop(0)),
    "spot nodes not tolerated": (
        "placement", lambda m: pod(group(m, CAPTIONER))["tolerations"].pop(1)),
    "head on spot nodes": (
        "placement", lambda m: pod(head(m)).update(
            tolerations=pod(group(m, SPOT))["tolerations"])),
    "head with work": (
        "placement", lambda m: without(head(m)["rayStartParams"], "num-cpus")),
    "GPU group with the CPU image": (
        "placement", lambda m: container(group(m, SPOT)).update(image=container(head(m))["image"])),
    "selector that is not its label": (
        "placement", lambda m: pod(group(m, SPOT))["nodeSelector"].update(
            {"pairloom.io/capacity": "ondemand"})),
    # what stands around
    "nothing denied": (
        "network", lambda m: m.remove(named(m, "NetworkPolicy", "deny-all"))),
    "policy that selects nobody": (
        "network", lambda m: policy(m, "dashboard")["podSelector"]["matchLabels"].update(
            {"pairloom.io/part": "haed"})),
    "pod without its label": (
        "network", lambda m: group(m, SPOT)["template"]["metadata"].pop("labels")),
    "Ray's port closed": (
        "network", lambda m: policy(m, "ray")["ingress"][0]["ports"].pop(1)),
    "Ray's port moved": (
        "network", lambda m: group(m, SPOT)["rayStartParams"].update(
            {"object-manager-port": "7777"})),
    "Ray's port left to chance": (
        "network", lambda m: without(group(m, SPOT)["rayStartParams"], "node-manager-port")),
    "metadata service of the nodes open": (
        "network", lambda m: without(
            policy(m, "bucket")["egress"][0]["to"][0]["ipBlock"], "except")),
    "anybody may come in": (
        "network", lambda m: policy(m, "ray")["ingress"][0].update(
            {"from": [{"podSelector": {}}]})),
    "no names": (
        "network", lambda m: m.remove(named(m, "NetworkPolicy", "names"))),
    "bucket out of reach": (
        "network", lambda m: m.remove(named(m, "NetworkPolicy", "bucket"))),
    "dashboard for a namespace": (
        "dashboard", lambda m: policy(m, "dashboard")["ingress"][0]["from"].append(
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}})),
    "dashboard by load balancer": (
        "dashboard", lambda m: head(m).update(serviceType="LoadBalancer")),
    "dashboard by ingress of KubeRay": (
        "dashboard", lambda m: head(m).update(enableIngress=True)),
    "dashboard by ingress": (
        "dashboard", lambda m: m.append(copy.deepcopy(INGRESS))),
    "no token": (
        "dashboard", lambda m: without(cluster_spec(ray_resource(m)), "authOptions")),
    "submitter shut out": (
        "dashboard", lambda m: policy(m, "dashboard")["ingress"][0]["from"].pop(0)),
    "budget as a percentage": (
        "disruption", lambda m: named(m, "PodDisruptionBudget", "pairloom-head")["spec"].update(
            minAvailable="100%")),
    "budget over everything blocks every drain": (
        "disruption", lambda m: named(m, "PodDisruptionBudget", "pairloom-head")["spec"].update(
            selector={})),
    "budget of two heads": (
        "disruption", lambda m: named(m, "PodDisruptionBudget", "pairloom-head")["spec"].update(
            minAvailable=2)),
    "budget that keeps nobody": (
        "disruption", lambda m: named(m, "PodDisruptionBudget", "pairloom-head")["spec"][
            "selector"].update(matchLabels={"ray.io/node-type": "heads"})),
    "quota of GPUs under the groups": (
        "quota", lambda m: hard(m).update({"requests.nvidia.com/gpu": "8"})),
    "quota of memory under the groups": (
        "quota", lambda m: hard(m).update({"limits.memory": "300Gi"})),
    "load balancers allowed": (
        "quota", lambda m: hard(m).pop("services.loadbalancers")),
    "wrong namespace": (
        "names", lambda m: named(m, "ServiceAccount", "pairloom-head")["metadata"].update(
            namespace="default")),
    "no pod security": (
        "names", lambda m: of_kind(m, "Namespace")[0]["metadata"].pop("labels")),
    "secret in the repository": (
        "names", lambda m: m.append(copy.deepcopy(SECRET))),
    # the command and what it needs
    "image without a version": (
        "image", lambda m: container(head(m)).update(image=f"{REGISTRY}/cpu:latest")),
    "images of two versions": (
        "image", lambda m: container(head(m)).update(image=f"{REGISTRY}/cpu:0.0.9")),
    "another Ray than the image's": (
        "ray", lambda m: cluster_spec(ray_resource(m)).update(rayVersion="2.59.1")),
    "option that ray start does not know": (
        "ray", lambda m: head(m)["rayStartParams"].update({"num-cpu": "0"})),
    "no autoscaler": (
        "ray", lambda m: cluster_spec(ray_resource(m)).update(enableInTreeAutoscaling=False)),
    "no retry": (
        "resume", lambda m: without(job(m), "backoffLimit")),
    "another output for each retry": (
        "resume", lambda m: command(m, "runs/one", "runs/$(date +%s)")),
    "no deadline": (
        "resume", lambda m: without(job(m), "activeDeadlineSeconds")),
    "no submitter of our own": (
        "resume", lambda m: without(job(m), "submitterPodTemplate")),
    "Kueue without the elastic annotation": (
        "kueue", lambda m: without(ray_resource(m)["metadata"], "annotations")),
    "another verb": (
        "entrypoint", lambda m: command(m, "pairloom run", "pairloom start")),
    "config that is not in the image": (
        "entrypoint", lambda m: command(m, "synergy_kuberay", "synergy_kube_ray")),
    "misspelt key of the config": (
        "entrypoint", lambda m: command(m, "seeds.path", "seed.path")),
    "value out of range": (
        "entrypoint", lambda m: command(m, "seeds.path", "num_rounds=0 seeds.path")),
    "models where no volume is": (
        "entrypoint", lambda m: command(
            m, "seeds.path", "generator.model=/mirror/sdxl seeds.path")),
    "output on a pod's own disk": (
        "entrypoint", lambda m: command(m, "s3://replace-me/runs/one", "/tmp/runs/one")),
    "nodes that are not waited for": (
        "entrypoint", lambda m: command(m, "seeds.path", "cluster.can_autoscale=false seeds.path")),
    "grace shorter than the drain": (
        "times", lambda m: pod(group(m, SPOT)).update(terminationGracePeriodSeconds=30)),
    "drain shorter than the run's grace": (
        "times", lambda m: command(m, "seeds.path", "limits.grace_s=120 seeds.path")),
    "head that goes without a word to its driver": (
        "times", lambda m: without(container(head(m)), "lifecycle")),
    "ray job stop kills after 3 s": (
        "times", lambda m: variable(head(m), "RAY_JOB_STOP_WAIT_TIME_S", "")),
    "idle timeout shorter than a load": (
        "idle", lambda m: group(m, SPOT).update(idleTimeoutSeconds=120)),
    "idle timeout of a minute": (
        "idle", lambda m: without(group(m, CAPTIONER), "idleTimeoutSeconds")
        and cluster_spec(ray_resource(m))["autoscalerOptions"].update(idleTimeoutSeconds=60)),
    "replica larger than any node": (
        "room", lambda m: command(m, "seeds.path", "pools.captioner.num_cpus=9 seeds.path")),
    "more replicas than nodes": (
        "room", lambda m: command(m, "seeds.path", "pools.generator.num_replicas=40 seeds.path")),
    "no fallback": (
        "fallback", lambda m: cluster_spec(ray_resource(m))["workerGroupSpecs"].remove(
            group(m, ONDEMAND))),
    "fallback larger than what it stands in for, so never taken": (
        "fallback", lambda m: [container(group(m, ONDEMAND))["resources"][key].update(cpu="8")
                               for key in ("limits", "requests")]),
    "on-demand nodes first": (
        "fallback", lambda m: group(m, ONDEMAND).update(priority=20)),
    "fallback after an hour": (
        "fallback", lambda m: without(
            cluster_spec(ray_resource(m))["autoscalerOptions"], "env")),
    # monitoring
    "alert on a metric that does not exist": (
        "monitoring", lambda m: rule(m, "PairloomNoCommit").update(
            expr="increase(ray_pairloom_pairs_comitted_total[10m]) == 0")),
    "alert on Ray's metric by a wrong name": (
        "monitoring", lambda m: rule(m, "PairloomSpill").update(
            expr="ray_object_store_spilled > 0")),
    "runbook without a heading": (
        "monitoring", lambda m: rule(m, "PairloomGpuIdle")["annotations"].update(
            runbook="idle-gpus")),
    "label that is summed away": (
        "monitoring", lambda m: rule(m, "PairloomSlowCommits")["annotations"].update(
            summary="{{ $labels.pool }} is slow")),
    "monitor that sees no pod": (
        "monitoring", lambda m: of_kind(m, "PodMonitor")[0]["spec"].update(
            selector={"matchLabels": {"app": "ray"}})),
    "monitor of a port that no pod has": (
        "monitoring", lambda m: of_kind(m, "PodMonitor")[0]["spec"]["podMetricsEndpoints"][
            0].update(port="metric")),
    "metrics on another port": (
        "monitoring", lambda m: group(m, SPOT)["rayStartParams"].update(
            {"metrics-export-port": "52365"})),
    "Prometheus shut out": (
        "monitoring", lambda m: m.remove(named(m, "NetworkPolicy", "prometheus"))),
}  # fmt: skip


CHECKS = """
    schema operator security account volumes resources secret environment memory placement network
    dashboard disruption quota names image ray resume kueue entrypoint times idle room fallback
    monitoring
"""


def test_there_are_more_than_forty_mistakes_and_every_check_has_one() -> None:
    readme = (K8S / "README.md").read_text()
    assert f"{len(MISTAKES)} seeded mistakes" in readme
    assert len(MISTAKES) >= 40
    assert {check for check, _ in MISTAKES.values()} == set(CHECKS.split())


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_caught_by_the_check_that_is_meant_for_it(name: str) -> None:
    check, make = MISTAKES[name]
    manifests = copy.deepcopy(rendered("gpu-spot"))
    make(manifests)
    found = problems(manifests)
    assert check in {one.check for one in found}, found
