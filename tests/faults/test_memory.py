"""A machine that runs out of memory: Ray's monitor kills the newest processes until there is room.

Since 2.56 it does not look for who took it: a run whose replica swells on the same machine may lose
stages, or a dispatcher, before the replica. So what is held here is that nothing is lost, and that
the same command ends the run once there is memory.
"""

import logging
from pathlib import Path

import cli
import psutil
import pytest
from whole_runs import check_sound, check_whole, words_of

logger = logging.getLogger(__name__)

BALLOON_MB, ROOM_MB = 8192, 4096


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["walker", "actor"])
def test_a_machine_out_of_memory_loses_no_row(tmp_path: Path, kind: str) -> None:
    memory = psutil.virtual_memory()
    if memory.available < (BALLOON_MB + ROOM_MB) << 20:
        pytest.skip("needs 12 GiB of free memory")
    threshold = (memory.total - memory.available + (ROOM_MB << 20)) / memory.total
    fault = {"fault": "balloon", "fault_marker": "number 6", "balloon_mb": str(BALLOON_MB)}
    words = [f"generator.simulated.{key}={value}" for key, value in fault.items()]
    words += ["generator.simulated.hang_s=10", f"stages.kind={kind}", "unit_size=5", "--json"]
    words = words_of(tmp_path, *words)
    env = {"RAY_memory_usage_threshold": f"{threshold:.3f}", "RAY_memory_monitor_refresh_ms": "100"}
    pressed = cli.call("run", *words, env=env, timeout_s=240)
    logger.info("under pressure: exit code %d, %s", pressed.code, pressed.err[-500:])
    assert "OOM" in pressed.out + pressed.err, "nobody was killed"
    check_sound(tmp_path / "run")
    if pressed.code:
        done = cli.call("run", *words, timeout_s=240)
        assert done.code == 0, done.err
    check_whole(tmp_path / "run", tmp_path / "draw.log", 30, most=3.0)
