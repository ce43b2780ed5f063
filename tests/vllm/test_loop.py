"""The whole loop once with vLLM as captioner and as author, as a user runs it, and read again."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cli import call

from actors.image_to_text import ImageToTextConfig, build_image_to_text
from actors.scenes.grammar import parse

pytestmark = pytest.mark.vllm

SMALL = "{enforce_eager: true, kv_cache_bytes: 134217728, max_num_seqs: 16}"


@pytest.mark.timeout(1200)
def test_a_run_of_two_rounds_is_whole_and_verifies(tmp_path: Path) -> None:
    output = str(tmp_path / "run")
    ran = call(
        *("run", "conf/synergy.yaml", "--json", f"output={output}", "num_rounds=2", "unit_size=4"),
        *("captioner.backend=vllm", f"captioner.vllm={SMALL}", "cluster.has_dashboard=false"),
        *("pools.captioner.batch_size=4", "pools.captioner.calls_per_replica=2"),
        *("seeds.path=null", "seeds.author.num_batches=2", "seeds.author.batch_size=4"),
        *("seeds.author.model.backend=vllm", f"seeds.author.model.vllm={SMALL}"),
        timeout_s=1000,
    )
    assert ran.code == 0, ran.err[-3000:]
    assert (ran.totals["num_pairs"], ran.totals["num_error_rows"]) == (16, 0)
    checked = call("verify", output)
    assert checked.code == 0, checked.out + checked.err
    rows = pq.read_table(tmp_path / "run" / "data").to_pylist()
    assert len(rows) == 16
    assert all(parse(row["description"]) is not None for row in rows)
    assert {row["captioner"]["params"] for row in rows} == {rows[0]["captioner"]["params"]}
    assert '"backend": "vllm"' in rows[0]["captioner"]["params"]
    # Greedy, so that transformers says the same of the same pictures.
    names = ("chain_id", "image", "rng_seed_describe")
    asked = [{name: row[name] for name in names} | {"error": None} for row in rows]
    again = build_image_to_text(ImageToTextConfig())(asked)
    for name in ("description", "finish_reason"):
        assert [row[name] for row in rows] == [row[name] for row in again]
