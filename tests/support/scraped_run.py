"""Runs twice on a Ray of its own while it scrapes Ray's agents; writes what it saw to saw.json.

The first run has a row that fails and a replica that dies once; then a file of it is lost, and the
second is the repair, an attempt that goes on from the ledger. A process of its own, because what an
agent has counted stays with it, and because the interval of its reports is read when Ray is
imported.

Limits: for `python scraped_run.py FOLDER` with `ENVIRONMENT`, in a process that ends by itself.
"""

import json
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
REPORT_S = 1.0
ENVIRONMENT = {"RAY_metrics_report_interval_ms": str(int(1000 * REPORT_S)), "PYTHONPATH": str(ROOT)}
PRICE = 3.6
WORDS = [
    *("generator.backend=simulated", "captioner.backend=simulated", "unit_size=4"),
    *("pools.generator.num_cpus=0.1", "pools.captioner.num_cpus=0.1"),
    *("pools.generator.batch_size=4", "pools.captioner.batch_size=4"),
    *("pools.generator.num_gpus=1", "pools.captioner.num_gpus=1", "plan.can_move=false"),
    *("captioner.simulated.fault=empty", "captioner.simulated.fault_marker=number 6"),
    *("generator.simulated.fault=abort", "generator.simulated.fault_marker=number 3"),
    *("generator.simulated.call_s=0.3", f"plan.gpu_hour_price={PRICE}"),
]

Samples = list[tuple[str, dict[str, str], float]]


def scrape() -> Samples:
    """Every sample of every node that lives, as Prometheus reads them."""
    import ray
    from prometheus_client.parser import text_string_to_metric_families

    found: Samples = []
    for node in ray.nodes():
        if node["Alive"]:
            url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            for family in text_string_to_metric_families(_read(url)):
                found += [(one.name, dict(one.labels), one.value) for one in family.samples]
    return found


def _read(url: str) -> str:
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.read().decode()
        except OSError:  # an agent that is only starting
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def settled() -> Samples:
    """A scrape after which our counters did not change for two reports."""
    seen: list[Samples] = []
    while len(seen) < 4 or any(_counts(one) != _counts(seen[-1]) for one in seen[-4:]):
        time.sleep(REPORT_S)
        seen.append(scrape())
        assert len(seen) < 60, "the counters never come to rest"
    return seen[-1]


def _counts(samples: Samples) -> list[Any]:
    names = ("_total", "_count")
    return sorted(
        (name, sorted(labels.items()), value)
        for name, labels, value in samples
        if "pairloom" in name and name.endswith(names)
    )


def main(folder: Path) -> None:
    from cluster import config as config_files
    from cluster.session import SessionConfig, session
    from pipelines.repair import repair
    from pipelines.run import run
    from pipelines.synergy import SynergyConfig

    seeds = folder / "seeds.txt"
    seeds.write_text("".join(f"scene number {i}\n" for i in range(10)))
    words = [f"output={folder / 'run'}", f"seeds.path={seeds}", *WORDS]
    words.append(f"generator.simulated.fault_once_path={folder / 'died'}")
    config = config_files.load(SynergyConfig, str(ROOT / "conf" / "synergy.yaml"), words)
    gauges: Samples = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.5):
            gauges.extend(one for one in scrape() if one[0].startswith("ray_pairloom_pool_"))

    with session(SessionConfig(num_cpus=2, num_gpus=2, has_dashboard=False)):
        before = scrape()
        watching = threading.Thread(target=watch)
        watching.start()
        totals = run(config)
        is_over.set()
        watching.join()
        after_first = settled()
        lost = json.loads(sorted((folder / "run" / "receipts").glob("*/2.json"))[0].read_text())
        (folder / "run" / lost["data"]["file"]).unlink()
        repair(config)
        after_second = settled()
    saw = {
        "totals": {"num_pairs": totals.num_pairs, "num_stopped": totals.num_stopped},
        "error_reasons": totals.error_reasons,
        "num_again": lost["num_pairs"],
        "gauges": gauges,
        "before": [one[0] for one in before],
        "after_first": after_first,
        "after_second": after_second,
    }
    (folder / "saw.json").write_text(json.dumps(saw))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
