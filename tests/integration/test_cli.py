"""The command line as a user meets it: verbs, totals, errors that name their cause, resumes."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cli
import pyarrow.parquet as pq
import pytest
from runs import read_log, read_pairs

SIMULATED = ["generator.backend=simulated", "captioner.backend=simulated"]


def _words(tmp_path: Path, *more: str) -> list[str]:
    seeds = tmp_path / "seeds.txt"
    if not seeds.exists():
        seeds.write_text("".join(f"scene number {i}\n" for i in range(10)))
    base = [f"output={tmp_path / 'run'}", f"seeds.path={seeds}", "cluster.has_dashboard=false"]
    return ["conf/synergy.yaml", *base, *SIMULATED, *more]


def test_run_prints_totals_then_status_and_look_read_the_run(tmp_path: Path) -> None:
    done = cli.call("run", *_words(tmp_path), "--json")
    assert done.code == 0, done.err
    assert done.totals["num_pairs"] == 30
    assert done.totals["model_loads"] == {"generator": 1, "captioner": 1}
    assert f"dataset    {tmp_path}/run/data" in done.out
    assert "load_dataset(" in done.out
    assert "plan: generator 1 x CPU, captioner 1 x CPU; 30 of up to 30 pairs left" in done.err
    assert "pairs 30/30" in done.err  # off a terminal: log lines instead of bars
    assert "Traceback" not in done.err
    assert "Warning" not in done.err

    status = cli.call("status", str(tmp_path / "run"), "--json")
    assert status.totals["is_finished"]
    assert [one["num_pairs"] for one in status.totals["rounds"]] == [10, 10, 10]
    look = cli.call("look", str(tmp_path / "run"), "--json")
    assert Path(look.totals["contact_sheet"]).read_bytes().startswith(b"\x89PNG")

    from datasets import load_dataset

    pairs = load_dataset(
        "parquet", data_files=f"{tmp_path}/run/data/round=*/*.parquet", split="train",
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    assert pairs[0]["image"].size == (64, 64)
    assert len(set(pairs["pair_id"])) == 30


def _kill_after(words: list[str], output: Path, num_receipts: int, delay_s: float) -> None:
    process = cli.start(["run", *words])
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(output.glob("receipts/*/*.json"))) >= num_receipts:
            break
        time.sleep(0.05)
    time.sleep(delay_s if num_receipts else 10 * delay_s)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.faults
def test_sigkill_at_five_random_moments_loses_and_repeats_nothing(tmp_path: Path) -> None:
    log = tmp_path / "draw.log"
    slow = ["generator.simulated.call_s=0.6", f"generator.simulated.log_path={log}"]
    words = _words(tmp_path, "unit_size=2", "stages.num_units_in_flight=2", *slow)
    moments = random.Random(20261121)
    seen: list[int] = []
    for goal in (0, 2, 5, 8, 11):
        # Anywhere between the commit named and the next few, a call takes 0.6 s.
        _kill_after(words, tmp_path / "run", goal, moments.uniform(0.0, 1.2))
        seen.append(len(list((tmp_path / "run").glob("receipts/*/*.json"))))
    assert any(0 < number < 15 for number in seen), seen
    done = cli.call("run", *words, "--json")
    assert done.code == 0, done.err
    rows = read_pairs(tmp_path / "run")
    assert Counter((row["chain_id"], row["round_index"]) for row in rows) == Counter(
        {(chain, r): 1 for chain in {row["chain_id"] for row in rows} for r in range(3)}
    )
    assert len(rows) == done.totals["num_pairs"] == 30
    # A reader that globs sees the same rows: files that were never committed are gone.
    globbed = [
        pair_id
        for file in (tmp_path / "run").glob("data/round=*/*.parquet")
        for pair_id in pq.read_table(file, columns=["pair_id"], partitioning=None)[
            "pair_id"
        ].to_pylist()
    ]
    assert sorted(globbed) == sorted(row["pair_id"] for row in rows)
    by_id = {row["pair_id"]: row for row in rows}
    for row in rows:
        if row["round_index"]:
            assert row["prompt"] == by_id[row["parent_id"]]["description"]
    # Work is repeated at most for what was in flight at each kill: two units of two chains.
    num_drawn = sum(len(call["prompts"]) for call in read_log(log))
    assert num_drawn <= 30 + 5 * 2 * 2


@pytest.mark.slow
def test_seeds_verb_commits_the_table_that_the_run_then_uses(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("one\n\none\ntwo\n")
    words = _words(tmp_path)
    made = cli.call("seeds", *words, "--json")
    assert made.totals["num_usable"] == 2
    assert made.totals["num_unusable"] == {"seed_empty": 1, "seed_duplicate": 1}
    done = cli.call("run", *words, "--json")
    assert (done.totals["num_pairs"], done.totals["num_error_rows"]) == (6, 2)
    assert "1 seed_empty" in done.out


@pytest.mark.slow
def test_an_author_writes_b_batches_of_m(tmp_path: Path) -> None:
    author = ["seeds.path=null", "seeds.author.num_batches=2", "seeds.author.batch_size=3"]
    words = [*_words(tmp_path), *author, "seeds.author.model.backend=simulated", "num_rounds=1"]
    made = cli.call("seeds", *words, "--json")
    assert made.totals["num_usable"] == 6, made.err
    done = cli.call("run", *words, "--json")
    assert done.totals["num_pairs"] == 6
    assert sorted({row["seed"] for row in read_pairs(tmp_path / "run")})[0].startswith("simulated")


def test_a_run_on_object_storage_finishes_and_reports(tmp_path: Path, seaweed_s3: Any) -> None:
    from cluster.storage import open_store

    store = open_store(seaweed_s3.uri)
    store.put("in/seeds.txt", b"one\ntwo\nthree\n")
    words = [*_words(tmp_path), f"output={seaweed_s3.uri}/run", "num_rounds=2"]
    words.append(f"seeds.path={seaweed_s3.uri}/in/seeds.txt")
    done = cli.call("run", *words, "--json")
    assert done.code == 0, done.err
    assert done.totals["num_pairs"] == 6
    status = cli.call("status", f"{seaweed_s3.uri}/run", "--json")
    assert status.totals["is_finished"]
    again = cli.call("run", *words, "--json")
    assert again.totals["num_resumed"] == 6


def test_plan_answers_without_torch_or_a_running_ray() -> None:
    code = (
        "import sys; from pipelines.cli import main; main(['plan', 'conf/synergy.yaml']);"
        "import ray; assert not ray.is_initialized();"
        "bad = {'torch', 'diffusers', 'transformers', 'vllm', 'ray.data'} & set(sys.modules);"
        "assert not bad, bad"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cli.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "512, 3 rounds" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["num_round=3"], ["conf/synergy.yaml", "'num_round'", "'num_rounds'"]),
        (["num_rounds=many"], ["conf/synergy.yaml", "num_rounds", "'many'"]),
        (["num_rounds=0"], ["num_rounds", "from 1 to 999"]),
        (["mode=lop"], ["mode", "'lop'", "loop"]),
        (["generator.num_steps=0"], ["num_steps", "0"]),
        (["generator.model=./nowhere"], ["nowhere", "no such folder"]),
        (["seeds.path=nowhere.txt"], ["nowhere.txt", "cannot be read"]),
        (["seeds.path=seeds.docx"], ["seeds.docx", ".txt"]),
        (["seeds.path=table.csv", "seeds.column=text"], ["seeds.column", "text", "seed"]),
        (["output=/proc/nowhere/run"], ["/proc/nowhere/run", "cannot be written"]),
        (["output=s3://no-such-bucket-here/run"], ["s3://no-such-bucket-here/run"]),
        (["output=ftp://x/y"], ["ftp://x/y", "s3://"]),
        (["pools.generator.num_gpus=1"], ["asks for 1 GPU", "has 0"]),
        (["pools.generator.batch_size=0"], ["batch_size", "at least 1"]),
        (["cluster.address=127.0.0.1:1"], ["127.0.0.1:1"]),
    ],
)
def test_bad_input_is_one_paragraph_before_anything_starts(
    tmp_path: Path, words: list[str], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "table.csv").write_text("seed\nx\n")
    words = [word.replace("=table.csv", f"={tmp_path}/table.csv") for word in words]
    env = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x"}
    env["AWS_SECRET_ACCESS_KEY"] = "y"
    base = ["conf/synergy.yaml", f"output={tmp_path / 'run'}", "seeds.limit=2"]
    started = time.monotonic()
    done = cli.call("run", *base, *words, env=env, timeout_s=60)
    seconds = time.monotonic() - started
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    for part in said:
        assert part in done.err
    assert len(done.err.strip().splitlines()) <= 2, done.err
    assert seconds < 30  # the promise is 5 s on a quiet machine; this only catches a wait for Ray


def test_another_config_is_refused_with_the_difference(tmp_path: Path) -> None:
    cli.call("seeds", *_words(tmp_path))
    done = cli.call("run", *_words(tmp_path, "num_rounds=4"))
    assert done.code == 1
    assert "num_rounds: 3 -> 4" in done.err


def test_status_of_no_run_says_so(tmp_path: Path) -> None:
    done = cli.call("status", str(tmp_path))
    assert done.code == 2
    assert "holds no run" in done.err


@pytest.mark.faults
def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(tmp_path: Path) -> None:
    words = _words(tmp_path, "unit_size=2", "generator.simulated.call_s=0.5")
    process = cli.start(["run", *words])
    deadline = time.monotonic() + 90
    while not list((tmp_path / "run").glob("receipts/*/*.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in err
    assert "Traceback" not in err
    done = cli.call("run", *words, "--json")
    assert done.totals["num_pairs"] == 30
    assert done.totals["num_resumed"] > 0


def test_json_may_stand_anywhere_and_is_the_last_line() -> None:
    done = cli.call("plan", "conf/synergy.yaml", "--json", "seeds.limit=20")
    assert json.loads(done.out.splitlines()[-1])["num_pairs"] == 60
