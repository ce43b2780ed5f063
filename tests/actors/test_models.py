import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.models import (
    ModelSource,
    check_folder,
    digest_folder,
    fetch_model,
    identify_model,
    read_licence,
    resolve_model,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The least that passes for a model."""
    root = tmp_path / "tiny-model"
    (root / "unet").mkdir(parents=True)
    (root / "unet" / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}weights")
    (root / "unet" / "config.json").write_text("{}")
    parts = {"_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "UNet"], "x": [None]}
    (root / "model_index.json").write_text(json.dumps(parts))
    (root / "README.md").write_text("---\nlicense: openrail++\ntags:\n- x\n---\n# Card\n")
    return root


def test_a_folder_is_resolved_and_identified(folder: Path) -> None:
    source = resolve_model(str(folder), "sdxl")
    assert (source.id, source.folder) == ("tiny-model", folder)
    assert fetch_model(source) == (folder, None)
    identity = identify_model(source)
    assert (identity.id, identity.revision, identity.licence) == ("tiny-model", None, "openrail++")
    assert identity.digest == digest_folder(folder)


@pytest.mark.parametrize("model", ["/no/such/folder", "./nowhere", "~/not/here", "a/b/c", "sdxl"])
def test_a_missing_folder_is_refused_at_once(model: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ValueError, match="field 'model' is"):
        resolve_model(model, "sdxl")
    assert time.perf_counter() - started < 0.05


def test_a_hub_id_is_taken_apart_without_the_network() -> None:
    source = resolve_model("stabilityai/stable-diffusion-xl-base-1.0@462165984030", "sdxl")
    assert source == ModelSource(
        id="stabilityai/stable-diffusion-xl-base-1.0", folder=None, revision="462165984030"
    )
    assert resolve_model("llava-hf/llava-1.5-7b-hf", "llava").revision is None


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "unet/weights.PT", "evil.pkl", "modeling_x.py", "unet/x.ckpt"]
)
def test_pickles_and_code_are_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    with pytest.raises(ValueError, match="pickles and code are never loaded"):
        check_folder(folder)


@pytest.mark.parametrize(
    "content",
    [
        {"auto_map": {"AutoModel": "evil--x"}},
        {"text_config": {"auto_map": {}}},
        {"vision": [{"_attn_implementation_internal": "evil/kernel"}]},
        {"custom_pipeline": "evil"},
    ],
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_configs_that_ask_for_code_are_refused(folder: Path, name: str, content: object) -> None:
    (folder / "unet" / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="never run"):
        check_folder(folder)


def test_a_pipeline_of_an_unknown_library_is_refused(folder: Path) -> None:
    (folder / "model_index.json").write_text(json.dumps({"unet": ["os", "system"]}))
    with pytest.raises(ValueError, match="from the library 'os'"):
        check_folder(folder)


def test_a_folder_without_weights_or_with_broken_json_is_refused(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        check_folder(folder)
    (folder / "unet" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no \*\.safetensors"):
        check_folder(folder)


def test_the_digest_sees_names_and_bytes_but_no_hidden_files(folder: Path) -> None:
    before = digest_folder(folder)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.json").write_text("{}")
    (folder / ".gitattributes").write_text("x")
    assert digest_folder(folder) == before
    weights = folder / "unet" / "model.safetensors"
    weights.write_bytes(b"Weights")
    changed = digest_folder(folder)
    weights.rename(folder / "unet" / "other.safetensors")
    assert len({before, changed, digest_folder(folder)}) == 3


def test_a_folder_of_another_digest_is_not_loaded(folder: Path) -> None:
    source = resolve_model(str(folder), "sdxl")
    expected = identify_model(source).digest
    assert fetch_model(source, expected_digest=expected) == (folder, None)
    (folder / "unet" / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(ValueError) as caught:
        fetch_model(source, expected_digest=expected)
    for part in (str(expected), digest_folder(folder), str(folder)):
        assert part in str(caught.value)


def test_a_pinned_hub_model_is_loaded_although_its_branch_has_moved(
    folder: Path, tmp_path: Path
) -> None:
    # A cache as the hub's client lays it out, and no network.
    cache = tmp_path / "cache" / "models--owner--name"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(folder, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from actors.models import fetch_model, identify_model, pin_model, resolve_model\n"
        "main = Path(sys.argv[1])\n"
        "main.write_text('a' * 40)\n"
        "identity = identify_model(resolve_model('owner/name', 'sdxl'))\n"
        "pinned = resolve_model(pin_model('owner/name', identity), 'sdxl')\n"
        "main.write_text('b' * 40)\n"
        "print(identity.revision, fetch_model(pinned, expected_digest=identity.digest)[1])\n"
        "fetch_model(resolve_model('owner/name', 'sdxl'), expected_digest=identity.digest)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(cache / "refs" / "main")],
        env=os.environ | {"HF_HUB_CACHE": str(cache.parent), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["a" * 40, "a" * 40], done.stderr
    assert f"has the digest git:{'b' * 40}, but the run" in done.stderr


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (None, "unknown"),
        ("# no front matter\nlicense: mit\n", "unknown"),
        ("---\nlicense: 'mit'\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: my-terms\n---\ntext\n", "my-terms"),
        ("---\ntags: [x]\n---\nlicense: mit\n", "unknown"),
    ],
)
def test_the_licence_is_the_front_matters(tmp_path: Path, card: str | None, licence: str) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert read_licence(tmp_path) == licence
