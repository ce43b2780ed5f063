"""A whole run from mirrors, without the hub."""

from pathlib import Path

import cli
import polars
import pytest
from hub_server import repo_of, serve_hub

from actors.scenes.defaults import EMBEDDED_MODELS
from pipelines.models.fetch import fetch

pytestmark = pytest.mark.slow  # 20 s: it starts Ray and loads both models


def test_a_run_from_mirrors_is_offline_and_its_pairs_name_what_they_mirror(tmp_path: Path) -> None:
    words: list[str] = []
    commits: dict[str, str] = {}
    with serve_hub() as hub:
        for role, name in (("generator", "sdxl"), ("captioner", "llava")):
            card = {"README.md": b"---\nlicense: openrail++\n---\n"}
            hub.repos[f"owner/{name}"] = repo_of(EMBEDDED_MODELS[name], **card)
            dest = tmp_path / name
            commits[role] = fetch(f"owner/{name}", str(dest), endpoint=hub.endpoint).commit
            words.append(f"{role}.model={dest}")
    output = tmp_path / "run"
    words += [f"output={output}", "seeds.limit=2", "num_rounds=1", "unit_size=2"]
    done = cli.call("run", "conf/synergy.yaml", *words, env={"HF_HUB_OFFLINE": "1"})
    assert done.code == 0, done.err
    pairs = polars.read_parquet(f"{output}/data/round=*/*.parquet")
    assert len(pairs) == 2
    for role, name in (("generator", "sdxl"), ("captioner", "llava")):
        (model,) = pairs[role].unique().to_list()
        assert (model["id"], model["revision"]) == (f"owner/{name}", commits[role])
        assert model["licence"] == "openrail++"
    assert cli.call("verify", str(output)).code == 0
