"""Whether a job's command is one that runs here: verb, config, keys, paths, times, room for pools.

The command is taken apart as a shell would, its config loaded by the project's own loader.

Limits: buckets and model folders are not there to be looked into; that they are mounted is checked.
"""

import functools
import importlib.metadata
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from k8s_groups import node_types
from k8s_render import GPU, ROOT, Manifest, Problem, all_pods, cluster_spec, ray_pods, ray_resource

from cluster import config as config_files
from pipelines.synergy import SynergyConfig

DOCKERFILE = ROOT / "k8s" / "docker" / "Dockerfile"
# Of a cluster without a job: what its users are told to run.
DEVELOPMENT = (
    "pairloom run /app/conf/synergy_kuberay.yaml output=s3://b/x seeds.path=s3://b/seeds.txt"
)
CHANGING = re.compile(r"\$\(|`|\$\{?RANDOM|\bdate\b|\{\{")
IMAGE = re.compile(
    r"[\w.:-]+/pairloom/(cpu|gpu|vllm)(:\d+\.\d+\.\d+(-debug)?|@sha256:[0-9a-f]{64})"
)


def entry_problems(manifests: list[Manifest]) -> list[Problem]:
    resource = ray_resource(manifests)
    entrypoint = resource["spec"].get("entrypoint", DEVELOPMENT)
    found = [Problem("image", one) for one in _image_problems(manifests)]
    found += [Problem("ray", one) for one in _ray_problems(manifests)]
    if resource["kind"] == "RayJob":
        found += [Problem("resume", one) for one in _resume_problems(resource["spec"], entrypoint)]
        found += [Problem("kueue", one) for one in _kueue_problems(resource)]
    try:
        config = config_of(entrypoint)
    except ValueError as error:
        return [*found, Problem("entrypoint", str(error))]
    found += [Problem("entrypoint", one) for one in _path_problems(manifests, config)]
    found += [Problem("times", one) for one in _time_problems(manifests, config)]
    found += [Problem("idle", one) for one in _idle_problems(manifests, config)]
    found += [Problem("room", one) for one in _room_problems(manifests, config)]
    found += [Problem("fallback", one) for one in _fallback_problems(manifests)]
    return found


@functools.cache
def config_of(entrypoint: str) -> SynergyConfig:
    """The config that the command would run with.

    Raises:
        ValueError: the command is none of ours, or its config is wrong.
    """
    program, verb, path, *words = shlex.split(entrypoint)
    if (program, verb) != ("pairloom", "run") or any("=" not in word for word in words):
        raise ValueError(f"not `pairloom run CONFIG key=value ...`: {entrypoint}")
    return config_files.load(SynergyConfig, str(in_repository(path)), words)


def in_repository(path: str) -> Path:
    """Where a file of the image comes from.

    Raises:
        ValueError: nothing in the Dockerfile puts it there, or it is not in the repository.
    """
    for source, target in re.findall(
        r"^COPY (\w+) (/app\S*)$", DOCKERFILE.read_text(), re.MULTILINE
    ):
        if path.startswith(f"{target}/"):
            found = ROOT / source / path.removeprefix(f"{target}/")
            if found.exists():
                return found
    raise ValueError(f"{path} is not in the image")


def _image_problems(manifests: list[Manifest]) -> Iterator[str]:
    for pod in all_pods(manifests):
        for one in pod.containers:
            if not IMAGE.fullmatch(one.get("image", "")):
                yield f"{pod.name}: image {one.get('image')!r} is not pairloom/cpu|gpu|vllm:X.Y.Z"
    names = [pod.container.get("image", "").rpartition("/")[2] for pod in all_pods(manifests)]
    tags = {name.partition(":")[2] for name in names if "@" not in name}
    if len(tags) > 1:
        yield f"images of different versions: {sorted(tags)}"


def _ray_problems(manifests: list[Manifest]) -> Iterator[str]:
    from ray.scripts.scripts import start

    known = {name.removeprefix("--") for param in start.params for name in param.opts}
    spec = cluster_spec(ray_resource(manifests))
    if spec.get("rayVersion") != importlib.metadata.version("ray"):
        yield f"rayVersion {spec.get('rayVersion')!r} is not what the images have"
    if not spec.get("enableInTreeAutoscaling"):
        yield "nothing would bring the nodes: enableInTreeAutoscaling"
    for pod in ray_pods(manifests):
        unknown = set(pod.group.get("rayStartParams", {})) - known
        if unknown:
            yield f"{pod.name}: `ray start` knows no {sorted(unknown)}"


def _resume_problems(spec: Manifest, entrypoint: str) -> Iterator[str]:
    if spec.get("backoffLimit", 0) < 1:
        yield "a lost head ends the run: backoffLimit"
    if CHANGING.search(entrypoint):
        yield "the command differs from one retry to the next, so none of them resumes"
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if not spec.get(key):
            yield f"nothing ends a job that hangs: {key}"
    if not spec.get("shutdownAfterJobFinishes") and not spec.get("deletionStrategy"):
        yield "nothing removes the cluster, and its GPUs, after the run"
    if not spec.get("submitterPodTemplate"):
        yield "KubeRay's own submitter is refused by restricted pod security"


def _kueue_problems(resource: Manifest) -> Iterator[str]:
    metadata, spec = resource["metadata"], resource["spec"]
    if "kueue.x-k8s.io/queue-name" not in metadata.get("labels", {}):
        return
    if not spec.get("shutdownAfterJobFinishes"):
        yield "Kueue refuses a job that keeps its cluster: shutdownAfterJobFinishes"
    if metadata.get("annotations", {}).get("kueue.x-k8s.io/elastic-job") != "true":
        yield "Kueue refuses a job that autoscales without the annotation elastic-job"


def _path_problems(manifests: list[Manifest], config: SynergyConfig) -> Iterator[str]:
    paths = {"output": config.output, "seeds.path": config.seeds.path or ""}
    for name, model in (("generator", config.generator), ("captioner", config.captioner)):
        paths[f"{name}.model"] = "" if model.model == "embedded" else model.model
    for name, path in paths.items():
        if not path or "://" in path:
            continue
        if path.startswith("/app/"):
            in_repository(path)
            continue
        for pod in ray_pods(manifests):
            mounts = {one["mountPath"]: one for one in pod.container["volumeMounts"]}
            volumes = {one["name"]: one for one in pod.spec["volumes"]}
            around = [mounts[m] for m in mounts if Path(path).is_relative_to(m)]
            if not any("persistentVolumeClaim" in volumes[one["name"]] for one in around):
                yield f"{name} {path} is on no volume that {pod.name} shares with others"
            if name == "output" and any(one.get("readOnly") for one in around):
                yield f"output {path} is read-only on {pod.name}"
    if not config.cluster.can_autoscale and any(
        pod.group.get("minReplicas") == 0 for pod in ray_pods(manifests)
    ):
        yield "cluster.can_autoscale is false: the run is refused while its nodes are not there"


def _time_problems(manifests: list[Manifest], config: SynergyConfig) -> Iterator[str]:
    """Whoever is asked to end gets the time that it needs, at each of the three places."""
    grace = config.limits.grace_s
    for pod in ray_pods(manifests):
        env = pod.env()
        stop = float(env.get("RAY_JOB_STOP_WAIT_TIME_S") or 3)
        drain = float(env.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S") or 30)
        end = pod.spec.get("terminationGracePeriodSeconds", 30)
        if stop < grace + 15:
            yield f"{pod.name}: `ray job stop` kills after {stop:g} s, limits.grace_s is {grace:g}"
        if drain < grace + 15:
            yield f"{pod.name}: Ray drains for {drain:g} s, limits.grace_s is {grace:g}"
        hook = pod.container.get("lifecycle", {}).get("preStop", {}).get("exec", {})
        if pod.part == "head":
            wait = re.search(r"timeout=(\d+)", " ".join(hook.get("command", [])))
            if not wait or float(wait[1]) < grace + 15:
                yield "the head goes without giving its driver limits.grace_s: preStop"
            drain += float(wait[1]) if wait else 0
        if end < drain + 15:
            yield f"{pod.name}: terminationGracePeriodSeconds {end}, the drain takes {drain:g}"


def _idle_problems(manifests: list[Manifest], config: SynergyConfig) -> Iterator[str]:
    rates = config.plan.rates
    load = max(rates.generator.load_s or 0, rates.captioner.load_s or 0)
    options = cluster_spec(ray_resource(manifests)).get("autoscalerOptions", {})
    for pod in ray_pods(manifests)[1:]:
        idle = pod.group.get("idleTimeoutSeconds", options.get("idleTimeoutSeconds", 60))
        if pod.limit(GPU) and idle < 2 * load:
            yield f"{pod.name} goes after {idle} s, loading its model again takes {load:g}"
        if idle < 60:
            yield f"{pod.name} goes after {idle} s: shorter than a pause between two stages"


def _room_problems(manifests: list[Manifest], config: SynergyConfig) -> Iterator[str]:
    types = node_types(ray_resource(manifests))
    for name, pool in (
        ("generator", config.pools.generator),
        ("captioner", config.pools.captioner),
    ):
        asked = {"CPU": pool.num_cpus, "GPU": pool.num_gpus}
        places = 0
        for one in types.values():
            has = one["resources"]
            if all(has.get(key, 0) >= value for key, value in asked.items()):
                each = [int(has[key] // value) for key, value in asked.items() if value]
                places += one["max_workers"] * min(each)
        if places < pool.num_replicas:
            yield f"{name}: {pool.num_replicas} replicas of {asked}, places for {places}"


def _fallback_problems(manifests: list[Manifest]) -> Iterator[str]:
    """Ray takes the tightest fit, then what is to be had, then priority: twins must be alike."""
    types = node_types(ray_resource(manifests))
    kinds = {name: one["labels"].get("pairloom.io/capacity") for name, one in types.items()}
    spot = [name for name, kind in kinds.items() if kind == "spot"]
    for name in spot:
        twins = [
            other
            for other, kind in kinds.items()
            if kind == "ondemand" and types[other]["resources"] == types[name]["resources"]
        ]
        if sum(types[twin]["max_workers"] for twin in twins) < types[name]["max_workers"]:
            yield f"{name}: no on-demand group is like it and as large, to stand in for it"
        if any(types[twin]["priority"] >= types[name]["priority"] for twin in twins):
            yield f"{name} is not preferred to {twins}: priority"
    options = cluster_spec(ray_resource(manifests)).get("autoscalerOptions", {})
    env = {one["name"]: one.get("value") for one in options.get("env", [])}
    wait = int(env.get("RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S") or 3600)
    if spot and not 300 <= wait <= 1800:
        yield f"a spot node that does not come is given up after {wait} s: from 300 to 1800"
    if spot and options.get("version") != "v2":
        yield "only autoscaler v2 has priorities and gives up nodes that do not come"
