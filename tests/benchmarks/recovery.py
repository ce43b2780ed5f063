"""How soon a run goes on after its replica, or its driver, is killed, and what it does twice.

    make benchmark-recovery

One run of 1,002 rows on simulated engines (calls of .3 and .05 s). The replica of the generator
gets a SIGKILL in a batch, later the driver gets one, and the same command is typed again. Printed:
the seconds until the next call and the next commit, rows drawn for each row asked for, and what
the independent reader says.

Limits: one machine, one kill of each; a driver's time has Ray's start in it.
"""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parents[1])]
os.environ.setdefault("RAY_worker_niceness", "0")

import cli
from runs import read_log
from whole_runs import receipts_of, wait_for, words_of

from pipelines.verify import describe_report, verify_run

NUM_SEEDS, NUM_ROUNDS = 334, 3


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    log, output = folder / "draw.log", folder / "run"
    times = ["generator.simulated.call_s=0.3", "captioner.simulated.call_s=0.05"]
    words = ["run", *words_of(folder, "unit_size=16", *times, num_seeds=NUM_SEEDS)]

    def commits_after(moment: float) -> list[float]:
        found = [path.stat().st_mtime for path in output.glob("receipts/*/*.json")]
        return sorted(at for at in found if at > moment)

    driver = cli.start(words)
    wait_for(lambda: len(receipts_of(output)) >= 20, driver)
    pid, killed_at = read_log(log)[-1]["pid"], time.time()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: any(call["pid"] != pid for call in read_log(log)), driver)
    called_at = next(call["time"] for call in read_log(log) if call["pid"] != pid)
    wait_for(lambda: bool(commits_after(called_at)), driver)
    print(
        f"replica: its first call was done after {called_at - killed_at:.1f} s, the next commit "
        f"after {commits_after(called_at)[0] - killed_at:.1f} s (goal 10 s)"
    )
    wait_for(lambda: len(receipts_of(output)) >= 40, driver)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    killed_at = time.time()
    driver = cli.start(words)
    wait_for(lambda: bool(commits_after(killed_at)), driver)
    took_s = commits_after(killed_at)[0] - killed_at
    print(f"driver: the next commit after {took_s:.1f} s (goal 20 s and Ray's start)")
    driver.communicate()
    num_drawn = sum(len(call["rng_seeds"]) for call in read_log(log))
    num_rows = NUM_SEEDS * NUM_ROUNDS
    print(f"{num_drawn} rows drawn for {num_rows}: {num_drawn / num_rows:.3f} (goal 1.05)")
    print(describe_report(verify_run(str(output))))
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
