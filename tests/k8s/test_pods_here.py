"""The demo's pods as processes of this machine: read-only, without rights, on fixed ports."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from k8s_here import RAY, Pods, after, can_be_here, here, ray_start, wait_until
from k8s_network import may_open
from k8s_render import K8S, ROOT, Manifest, PodTemplate, all_pods, of_kind, ray_resource, render

from pipelines import verify

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_be_here(), reason="needs root and network namespaces"),
]
TIMEOUT_S = 300


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    for weights in (ROOT / "actors" / "scenes" / "weights").rglob("*.safetensors"):
        weights.chmod(0o644)  # as git has them; safetensors writes them for their owner alone
    made = Pods(shared)
    try:
        yield made
    finally:
        made.close()


def _grow(pods: Pods, manifests: list[Manifest], tmp_path: Path) -> dict[str, PodTemplate]:
    """Starts head and worker, submits the job's own command, waits for its end."""
    templates = {pod.name: pod for pod in all_pods(manifests)}
    head = pods.add("head")
    start = ray_start(templates["head"], head, None)
    pods.start("head", templates["head"], start, {}, tmp_path / "head.log")
    worker = pods.add("cpu")
    start = ray_start(templates["cpu"], worker, head)
    pods.start("cpu", templates["cpu"], after(8, start), {}, tmp_path / "cpu.log")
    pods.add("submitter")
    entrypoint = here(ray_resource(manifests)["spec"]["entrypoint"]) + " seeds.limit=8 num_rounds=2"
    submit = f"{RAY} job submit --address http://{head}:8265 -- {entrypoint}"
    pods.start("submitter", templates["submitter"], after(30, submit), {}, tmp_path / "job.log")
    return templates


@pytest.mark.timeout(TIMEOUT_S + 60)
def test_the_demos_pods_grow_its_dataset_locked_down_and_on_the_ports_of_the_policies(
    pods: Pods, tmp_path: Path
) -> None:
    manifests = render(K8S / "overlays" / "cpu-demo")
    templates = _grow(pods, manifests, tmp_path)
    submitter = pods.processes["submitter"]
    assert wait_until(lambda: submitter.poll() is not None, TIMEOUT_S), _logs(tmp_path)
    assert submitter.returncode == 0, _logs(tmp_path)
    report = verify.verify_run(str(tmp_path / "shared" / "demo"))
    assert verify.exit_code(report) == 0
    policies = of_kind(manifests, "NetworkPolicy")
    refused = {
        (client, server, port)
        for client, server, port in pods.talk
        if not may_open(policies, templates[client], templates[server], port)
    }
    assert refused == set()
    assert ("cpu", "head", 6379) in pods.talk
    assert ("submitter", "head", 8265) in pods.talk
    for name in ("head", "cpu"):  # as the kubelet does for KubeRay, of a Ray from 2.53 on
        port = int(templates[name].group["rayStartParams"]["dashboard-agent-listen-port"])
        assert pods.ask("submitter", name, port, "/api/healthz").startswith("200 ")
    status = Path(f"/proc/{pods.processes['head'].pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "CapBnd:\t0000000000000000" in status


def _logs(folder: Path) -> str:
    names = ("head.log", "cpu.log", "job.log")
    return "\n".join(f"{name}: {(folder / name).read_text()[-3000:]}" for name in names)


def test_a_pod_here_cannot_write_where_the_manifest_has_no_volume(
    pods: Pods, tmp_path: Path
) -> None:
    templates = {pod.name: pod for pod in all_pods(render(K8S / "overlays" / "cpu-demo"))}
    pods.add("cpu")
    code = (
        "for path in /var/tmp/a /etc/a /tmp/app/conf/a; do "
        "if touch $path 2>/dev/null; then exit 1; fi; done; "
        "touch /tmp/a /tmp/ray/a $HOME/a /dev/shm/a /tmp/output/a"
    )
    pods.start("cpu", templates["cpu"], f"bash -c '{code}'", {}, tmp_path / "log")
    assert pods.processes["cpu"].wait(timeout=30) == 0, (tmp_path / "log").read_text()
