"""Whatever a repository lists: what may be chosen of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.models_vetting import REFUSED_SUFFIXES
from pipelines.models.choose import (
    SourceFile,
    check_listing,
    choose_small,
    choose_weights,
    count_left_out,
    drop_indexes,
    find_entry,
    find_folders,
)
from pipelines.models.config import FetchConfig

FOLDERS = ["", "unet/", "vae/", "onnx/", "original/", ".cache/", "unet/deep/"]
STEMS = ["model", "model.fp16", "model-00001-of-00002", "diffusion_pytorch_model", "config"]
STEMS += ["model.safetensors.index", "pytorch_model.bin.index", "tokenizer", ".hidden", "x"]
SUFFIXES = [".safetensors", ".json", ".txt", ".py", ".bin", ".pkl", ".onnx", ".md", ".jinja", ""]
INDEX = b'{"unet": ["diffusers", "U"], "vae": ["diffusers", "V"], "y": [null, null], "z": []}'
# So that there is something to choose, whatever lies beside it.
WEIGHTS = ["model.safetensors", "unet/model.safetensors", "vae/model.fp16.safetensors"]
WEIGHTS += ["vae/diffusion_pytorch_model.safetensors"]

names = st.builds(
    lambda folder, stem, suffix: f"{folder}{stem}{suffix}",
    st.sampled_from(FOLDERS),
    st.sampled_from(STEMS),
    st.sampled_from(SUFFIXES),
)


@given(
    listed=st.sets(names),
    entry=st.sampled_from(["model_index.json", "config.json"]),
    variant=st.sampled_from(["", "fp16"]),
)
def test_nothing_that_runs_or_lies_elsewhere_is_ever_chosen(
    listed: set[str], entry: str, variant: str
) -> None:
    listed = listed | {entry, *WEIGHTS}
    files = [SourceFile(path=name, size_bytes=1) for name in sorted(listed)]
    config = FetchConfig(variant=variant if "model_index.json" in listed else "")
    check_listing(files)
    folders = find_folders(find_entry("o/n", files), INDEX)
    weights = choose_weights("o/n", files, folders, config)
    small = drop_indexes(choose_small(files, folders, config), weights, config)
    assert weights
    for file in (*small, *weights):
        assert not any(file.path.endswith(suffix) for suffix in REFUSED_SUFFIXES)
        assert file.folder in ("", "unet", "vae")
        assert not file.name.startswith(".")
        assert "bin.index" not in file.name
    by_folder = [(file.folder, "fp16" in file.name) for file in weights]
    assert len(set(by_folder)) == len({folder for folder, _ in by_folder}), "two variants of one"
    chosen = {file.path for file in (*small, *weights)}
    hidden = {file.path for file in files if file.name.startswith(".")}
    left_out = count_left_out(files, chosen)
    assert len(chosen) + sum(left_out.values()) == len(files) - len(hidden - chosen)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"variant": "bf16"}, "must be 'fp16'"),
        ({"weights": "lora.pt"}, r"one \*\.safetensors file"),
        ({"weights": "lora.safetensors", "variant": "fp16"}, "without a variant"),
    ],
)
def test_a_config_that_cannot_be_is_refused(values: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FetchConfig(**values)
