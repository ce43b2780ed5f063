"""The names of weights that vLLM knows, on a folder that transformers has just saved."""

import hashlib
import json
from pathlib import Path

from safetensors import safe_open

from actors.backends.vllm_folder import copy_with_older_names, needs_older_names, readable_folder
from actors.models import check_folder
from actors.scenes.defaults import EMBEDDED_MODELS

NEWER, OLDER = "vision_tower.embeddings.", "vision_tower.vision_model.embeddings."


def _tensors(folder: Path) -> dict[str, bytes]:
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118 - no dict


def test_a_folder_of_this_transformers_is_copied_with_nothing_but_older_names(
    llava_folder: Path, tmp_path: Path
) -> None:
    assert needs_older_names(llava_folder)
    before = _tensors(llava_folder)
    with readable_folder(llava_folder, tmp_path) as copy:
        check_folder(copy)
        after = _tensors(copy)
        same = [path for path in llava_folder.iterdir() if path.suffix != ".safetensors"]
        assert len(same) > 4
        assert all((copy / path.name).read_bytes() == path.read_bytes() for path in same)
        assert not needs_older_names(copy)
    assert not [*copy.glob("*.safetensors")]
    assert any(NEWER in name for name in before)
    assert any(OLDER in name for name in after)
    digests = [
        sorted(hashlib.sha256(data).hexdigest() for data in each.values())
        for each in (before, after)
    ]
    assert digests[0] == digests[1]
    for name, data in after.items():
        assert before[name.replace("vision_tower.vision_model.", "vision_tower.")] == data


def test_a_folder_with_older_names_is_read_where_it_is(tmp_path: Path) -> None:
    with readable_folder(EMBEDDED_MODELS["llava"], tmp_path) as folder:
        assert folder == EMBEDDED_MODELS["llava"]
    assert not [*tmp_path.iterdir()]
    assert (folder / "model.safetensors").is_file()


def test_the_index_of_a_sharded_folder_names_them_alike(llava_folder: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    (sharded / "config.json").write_bytes((llava_folder / "config.json").read_bytes())
    shard = "model-00001-of-00001.safetensors"
    (sharded / shard).write_bytes((llava_folder / "model.safetensors").read_bytes())
    places = dict.fromkeys(_tensors(llava_folder), shard)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    copy_with_older_names(sharded, tmp_path / "copy")
    told = json.loads((tmp_path / "copy" / "model.safetensors.index.json").read_text())
    with safe_open(tmp_path / "copy" / shard, "np") as file:
        assert set(told["weight_map"]) == set(file.keys())
    assert told["metadata"] == index["metadata"]


def test_other_towers_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "qwen"
    folder.mkdir()
    config = {"vision_config": {"model_type": "qwen2_vl"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"")
    assert not needs_older_names(folder)
    assert not needs_older_names(tmp_path)  # no config at all: vLLM will say so
