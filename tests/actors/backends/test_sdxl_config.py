"""What of an SDXL config is recorded, what is refused, and which bytes the identity covers."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from actors.backends.sdxl_config import SdxlConfig, fetch_sdxl
from actors.models import ModelIdentity
from actors.text_to_image import TextToImageConfig

RECORDED = {
    "scheduler": "euler",
    "timestep_spacing": "trailing",
    "lora_scale": 0.5,
    "refiner_start": 0.7,
    "vae_dtype": "bfloat16",
    "quantization": "fp8",
}
NOT_RECORDED = {
    "compile": "full",
    "compile_cache": "/somewhere",
    "is_channels_last": True,
    "is_qkv_fused": True,
    "vae_batch": 4,
}
IN_THE_IDENTITY = {"lora": "x.safetensors", "refiner": "owner/refiner"}


def _config(**options: object) -> TextToImageConfig:
    return TextToImageConfig(sdxl=SdxlConfig(**options))


def test_every_option_is_recorded_or_moves_the_last_bits_only() -> None:
    names = {field.name for field in dataclasses.fields(SdxlConfig)}
    assert names == RECORDED.keys() | NOT_RECORDED.keys() | IN_THE_IDENTITY.keys()
    parts = dict(IN_THE_IDENTITY)
    plain = _config(**parts).sampling_params()
    for name, value in RECORDED.items():
        assert _config(**parts | {name: value}).sampling_params() != plain, name
    fast = _config(**parts | NOT_RECORDED).sampling_params()
    assert fast == plain
    assert "sdxl" not in TextToImageConfig(backend="simulated").sampling_params()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scheduler": "eular"}, "did you mean 'euler'"),
        ({"timestep_spacing": "late"}, "'timestep_spacing' is 'late'"),
        ({"scheduler": "lcm", "timestep_spacing": "trailing"}, "its own time steps"),
        ({"vae_dtype": "auto"}, "'vae_dtype' is 'auto'"),
        ({"compile": "yes"}, "'compile' is 'yes'"),
        ({"compile_cache": "/x"}, "nothing is compiled"),
        ({"quantization": "int4"}, "'quantization' is 'int4'"),
        ({"refiner_start": 1.0}, "'refiner_start' is 1.0"),
        ({"lora_scale": float("nan")}, "'lora_scale' is nan"),
        ({"vae_batch": 0}, "'vae_batch' is 0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SdxlConfig(**options)


def test_the_identity_covers_every_part(
    sdxl_folder: Path, refiner_folder: Path, lora_file: Path, tmp_path: Path
) -> None:
    lora = tmp_path / lora_file.name
    shutil.copy(lora_file, lora)
    (tmp_path / "README.md").write_text("---\nlicense: openrail++\n---\n")
    options = SdxlConfig(refiner=str(refiner_folder), lora=str(lora))
    config = TextToImageConfig(model=str(sdxl_folder), sdxl=options)
    identity = config.identity()
    assert identity.id == "sdxl + refiner + few-steps"
    assert identity.licence == "apache-2.0, unknown, openrail++"
    plain = TextToImageConfig(model=str(sdxl_folder)).identity()
    assert identity.parts[0] == plain
    assert identity.digest != plain.digest
    files = fetch_sdxl(config.model, options, identity.digest)
    assert (files.base, files.refiner, files.lora) == (sdxl_folder, refiner_folder, lora)

    data = bytearray(lora.read_bytes())
    data[-1] ^= 1
    lora.write_bytes(data)
    with pytest.raises(ValueError, match="but the run is recorded with sha256:"):
        fetch_sdxl(config.model, options, identity.digest)


def test_hub_models_are_pinned_part_by_part() -> None:
    base = ModelIdentity(id="o/base", revision="c1", digest="git:c1", licence="x")
    refiner = ModelIdentity(id="o/refiner", revision="c2", digest="git:c2", licence="x")
    both = dataclasses.replace(base, digest="sha256:0", parts=(base, refiner))
    config = TextToImageConfig(model="o/base", sdxl=SdxlConfig(refiner="o/refiner"))
    pinned = config.pinned(both)
    assert (pinned.model, pinned.sdxl.refiner) == ("o/base@c1", "o/refiner@c2")
    assert TextToImageConfig(model="o/base").pinned(base).model == "o/base@c1"


@pytest.mark.parametrize("case", ["pickle", "none", "two", "pickle beside"])
def test_a_lora_goes_through_the_checks_of_a_model(
    sdxl_folder: Path, lora_file: Path, tmp_path: Path, case: str
) -> None:
    shutil.copy(lora_file, tmp_path / "a.safetensors")
    path = tmp_path
    if case == "pickle":
        path = tmp_path / "a.bin"
        path.write_bytes(b"\x80\x04.")
    elif case == "none":
        (tmp_path / "a.safetensors").rename(tmp_path / "weights.txt")
    elif case == "two":
        shutil.copy(lora_file, tmp_path / "b.safetensors")
    else:
        (tmp_path / "evil.pt").write_bytes(b"\x80\x04.")
    config = TextToImageConfig(model=str(sdxl_folder), sdxl=SdxlConfig(lora=str(path)))
    with pytest.raises(ValueError, match=r"safetensors"):
        config.identity()
