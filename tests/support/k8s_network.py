"""Who may talk to whom, what may be evicted, and how much there may be: policies, budget, quota.

Limits: policies are taken as the API defines them; that a network plugin enforces them is not seen.
"""

import ipaddress
from collections.abc import Iterator

from k8s_render import (
    GPU,
    Manifest,
    PodTemplate,
    Problem,
    all_pods,
    cluster_spec,
    of_kind,
    quantity,
    ray_pods,
    ray_resource,
    selects,
)

METADATA = ipaddress.IPv4Network("169.254.169.254/32")
DASHBOARD = 8265
# As a node of the Ray at hand opens them; those that are fixed in rayStartParams.
PORT_PARAMS = (
    "node-manager-port",
    "object-manager-port",
    "runtime-env-agent-port",
    "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port",
    "metrics-export-port",
)
FIXED_PORTS = (6379,)
MANIFESTS_OF_DOORS = ("Ingress", "Gateway", "HTTPRoute", "Route")


def around_problems(manifests: list[Manifest]) -> list[Problem]:
    """What stands around the pods."""
    checks = (
        ("network", _network_problems),
        ("dashboard", _dashboard_problems),
        ("disruption", _disruption_problems),
        ("quota", _quota_problems),
        ("names", _name_problems),
    )
    return [Problem(name, one) for name, check in checks for one in check(manifests)]


def _network_problems(manifests: list[Manifest]) -> Iterator[str]:
    policies = of_kind(manifests, "NetworkPolicy")
    denying = [
        one
        for one in policies
        if one["spec"].get("podSelector") == {}
        and set(one["spec"].get("policyTypes", [])) == {"Ingress", "Egress"}
        and not one["spec"].get("ingress")
        and not one["spec"].get("egress")
    ]
    if not denying:
        yield "no policy denies everything"
    pods = all_pods(manifests)
    for policy in policies:
        selector = policy["spec"]["podSelector"]
        if selector and not any(selects(selector, pod.labels) for pod in pods):
            yield f"policy {policy['metadata']['name']} selects no pod"
        yield from _breadth_problems(policy)
    for pod in pods:
        if pod.labels.get("pairloom.io/part") != pod.part:
            yield f"{pod.name} has not the label pairloom.io/part={pod.part}"
        if not _goes_out(policies, pod, "namespaceSelector", 53):
            yield f"{pod.name} cannot ask for names"
        if pod.part != "submitter" and not _goes_out(policies, pod, "ipBlock", 443):
            yield f"{pod.name} cannot reach the bucket"
    yield from _ray_port_problems(manifests, policies)


def _breadth_problems(policy: Manifest) -> Iterator[str]:
    name, spec = policy["metadata"]["name"], policy["spec"]
    for rule in spec.get("ingress") or []:
        peers = rule.get("from", [])
        if not peers or any("ipBlock" in one or not any(one.values()) for one in peers):
            yield f"policy {name} lets anybody in"
    for rule in spec.get("egress") or []:
        if not rule.get("to") or not rule.get("ports"):
            yield f"policy {name} lets everything out"
        for block in (one["ipBlock"] for one in rule.get("to", []) if "ipBlock" in one):
            network = ipaddress.IPv4Network(block["cidr"])
            spared = [ipaddress.IPv4Network(one) for one in block.get("except", [])]
            is_open = METADATA.subnet_of(network) and not any(METADATA.subnet_of(s) for s in spared)
            if is_open and network.prefixlen < 24:
                yield f"policy {name} lets pods reach the nodes' metadata service"


def _ports_of(rule: Manifest) -> list[range]:
    return [
        range(one["port"], one.get("endPort", one["port"]) + 1) for one in rule.get("ports", [])
    ]


def _goes_out(policies: list[Manifest], pod: PodTemplate, kind: str, port: int) -> bool:
    """Whether the pod may go to that port of a peer that is named by `kind`."""
    return any(
        any(port in ports for ports in _ports_of(rule))
        for policy in policies
        if selects(policy["spec"]["podSelector"], pod.labels)
        for rule in policy["spec"].get("egress") or []
        if any(kind in one for one in rule.get("to", []))
    )


def may_open(policies: list[Manifest], one: PodTemplate, other: PodTemplate, port: int) -> bool:
    """Whether `one` may open a connection to `port` of `other`: both ends must agree."""

    def agrees(direction: str, peers: str, mine: PodTemplate, theirs: PodTemplate) -> bool:
        return any(
            any(port in ports for ports in _ports_of(rule))
            and any(selects(peer.get("podSelector"), theirs.labels) for peer in rule.get(peers, []))
            for policy in policies
            if selects(policy["spec"]["podSelector"], mine.labels)
            for rule in policy["spec"].get(direction) or []
        )

    return agrees("egress", "to", one, other) and agrees("ingress", "from", other, one)


def _ray_port_problems(manifests: list[Manifest], policies: list[Manifest]) -> Iterator[str]:
    pods = ray_pods(manifests)
    for pod in pods:
        params = pod.group.get("rayStartParams", {})
        for key in (*PORT_PARAMS, "min-worker-port", "max-worker-port"):
            if not params.get(key, "").isdecimal():
                yield f"{pod.name}: {key} is not fixed, so no policy can name it"
                return
        ports = {int(params[key]) for key in PORT_PARAMS}
        ports |= set(FIXED_PORTS) if pod.part == "head" else set()
        workers = range(int(params["min-worker-port"]), int(params["max-worker-port"]) + 1)
        if ports & set(workers) or len(workers) < 100:
            yield f"{pod.name}: worker ports {workers} overlap, or are too few"
        ports |= {workers[0], workers[-1]}
        for other in pods:
            closed = sorted(p for p in ports if not may_open(policies, other, pod, p))
            if closed and other.name != pod.name:
                yield f"{other.name} cannot reach ports {closed} of {pod.name}"


def _dashboard_problems(manifests: list[Manifest]) -> Iterator[str]:
    head = ray_pods(manifests)[0]
    for one in manifests:
        if one["kind"] in MANIFESTS_OF_DOORS:
            yield f"a {one['kind']} leads to the cluster"
        if one["kind"] == "Service" and one["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"service {one['metadata']['name']} is a {one['spec']['type']}"
    if head.group.get("enableIngress"):
        yield "enableIngress"
    if head.group.get("serviceType", "ClusterIP") != "ClusterIP":
        yield f"the head's service is a {head.group['serviceType']}"
    for policy in of_kind(manifests, "NetworkPolicy"):
        if not selects(policy["spec"]["podSelector"], head.labels):
            continue
        for rule in policy["spec"].get("ingress") or []:
            if not rule.get("ports") or any(DASHBOARD in ports for ports in _ports_of(rule)):
                yield from _visitor_problems(rule)
    options = cluster_spec(ray_resource(manifests)).get("authOptions", {})
    if options.get("mode") != "token" or not options.get("secretName"):
        yield "the job server takes commands without a token: authOptions"
    submitter = [pod for pod in all_pods(manifests) if pod.part == "submitter"]
    policies = of_kind(manifests, "NetworkPolicy")
    for pod in submitter:
        if not may_open(policies, pod, head, DASHBOARD):
            yield "the submitter cannot reach the job server"


def _visitor_problems(rule: Manifest) -> Iterator[str]:
    operator = {"app.kubernetes.io/name": "kuberay-operator"}
    for peer in rule.get("from", []):
        labels = peer.get("podSelector", {}).get("matchLabels", {})
        if labels not in (operator, {"pairloom.io/part": "submitter"}):
            yield f"port {DASHBOARD} is open to {peer}"


def _disruption_problems(manifests: list[Manifest]) -> Iterator[str]:
    budgets = of_kind(manifests, "PodDisruptionBudget")
    head, *workers = ray_pods(manifests)
    if not any(selects(one["spec"].get("selector"), head.labels) for one in budgets):
        yield "no budget keeps the head, where the driver lives"
    for one in budgets:
        if any(selects(one["spec"].get("selector"), pod.labels) for pod in workers):
            yield "a budget over workers blocks the drain of every node"
        if type(one["spec"].get("minAvailable")) is not int:
            yield "only a whole minAvailable works for pods of a custom resource"
        elif one["spec"]["minAvailable"] != 1:
            yield "there is one head: minAvailable is 1"


def _quota_problems(manifests: list[Manifest]) -> Iterator[str]:
    hard = {key: quantity(value) for one in of_kind(manifests, "ResourceQuota")
            for key, value in one["spec"]["hard"].items()}  # fmt: skip
    options = cluster_spec(ray_resource(manifests)).get("autoscalerOptions", {})
    sidecar = options.get("resources", {}).get("limits", {})
    for name in ("cpu", "memory", GPU):
        asked = quantity(sidecar.get(name, 0))
        for pod in all_pods(manifests):
            asked += pod.limit(name) * pod.group.get("maxReplicas", 1)
        for key in (f"requests.{name}", *([] if name == GPU else [f"limits.{name}"])):
            if hard.get(key, 0) < asked:
                yield f"{key} is {hard.get(key)}, all groups at their most ask for {asked}"
    if hard.get("services.loadbalancers") != 0 or hard.get("services.nodeports") != 0:
        yield "services that lead outside are not forbidden"


def _name_problems(manifests: list[Manifest]) -> Iterator[str]:
    (namespace,) = of_kind(manifests, "Namespace")
    name = namespace["metadata"]["name"]
    if "pod-security.kubernetes.io/enforce" not in namespace["metadata"].get("labels", {}):
        yield "the namespace enforces no pod security"
    for one in manifests:
        if one["kind"] != "Namespace" and one["metadata"].get("namespace") != name:
            yield f"{one['kind']} {one['metadata']['name']} is not in namespace {name}"
        if one["kind"] == "Secret":
            yield "a Secret has no place in a repository"
