"""What the head does before it goes: its driver is asked to leave, and waited for."""

import subprocess
import sys
from pathlib import Path

import pytest
from k8s_render import K8S, ray_pods, render

ALONE = ["unshare", "--pid", "--fork", "--mount-proc"]  # or it would find drivers of this machine

DRIVER = """
import pathlib, signal, sys, time
def leave(number, frame):
    time.sleep(1.5)  # what is under way
    pathlib.Path(sys.argv[2]).write_text("committed")
    sys.exit(143)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
time.sleep(60)
"""


def _can_be_alone() -> bool:
    return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _can_be_alone(), reason="needs a PID namespace, so root")
def test_the_hook_asks_the_driver_to_leave_and_waits_for_it(tmp_path: Path) -> None:
    head = ray_pods(render(K8S / "overlays" / "gpu-spot"))[0]
    program, flag, code = head.container["lifecycle"]["preStop"]["exec"]["command"]
    assert (program, flag) == ("python", "-c")
    driver, hook, trace = tmp_path / "bin" / "pairloom", tmp_path / "hook.py", tmp_path / "trace"
    driver.parent.mkdir()
    driver.write_text(DRIVER)
    hook.write_text(code)
    script = (
        f"{sys.executable} {driver} run {trace} > {tmp_path}/out & driver=$!\n"
        f"until grep -q ready {tmp_path}/out; do sleep 0.1; done\n"
        f"{sys.executable} {hook}\n"
        f"test -s {trace} || exit 7  # it did not wait\n"
        "wait $driver"
    )
    done = subprocess.run([*ALONE, "bash", "-c", script], check=False, timeout=60)
    assert done.returncode == 143
    assert trace.read_text() == "committed"
