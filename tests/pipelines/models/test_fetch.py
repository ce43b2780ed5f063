"""`pairloom models fetch` and `verify` against a stand-in of the hub's HTTP."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import Hub, HubRepo, serve_hub
from s3_servers import S3Server

from actors.models import digest_folder, identify_model, resolve_model
from actors.models_manifest import MANIFEST, read_manifest
from cluster.errors import StoreError
from cluster.storage import open_store
from pipelines.models.config import FetchConfig
from pipelines.models.fetch import Fetched, fetch
from pipelines.models.verify import exit_code, verify

WEIGHTS = "model.safetensors"
CARD = b"---\nlicense: openrail++\n---\n# card\n"


def _safetensors(number: int = 0, size: int = 40_000) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes([number % 251]) * size


def _model(**more: bytes) -> HubRepo:
    files = {
        "config.json": b'{"model_type": "llava"}',
        "tokenizer.json": b"{}",
        "README.md": CARD,
        "LICENSE.md": b"terms",
        ".gitattributes": b"*.safetensors filter=lfs",
        WEIGHTS: _safetensors(),
    }
    return HubRepo(files | {name.replace("__", "/"): data for name, data in more.items()})


def _pipeline() -> HubRepo:
    """As SDXL base lies on the hub: two variants, all-in-one copies, other frameworks."""
    index = {"_class_name": "X", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"]}
    index["image_encoder"] = [None, None]
    unet, vae = "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"
    return HubRepo(
        {
            "model_index.json": json.dumps(index).encode(),
            "README.md": CARD,
            "sd_xl_base_1.0.safetensors": _safetensors(1),
            "unet/config.json": b"{}",
            f"{unet}.safetensors": _safetensors(2),
            f"{unet}.fp16.safetensors": _safetensors(3),
            f"{unet}.non_ema.safetensors": _safetensors(4),
            "unet/model.onnx": b"x",
            "vae/config.json": b"{}",
            f"{vae}.safetensors": _safetensors(5),
            f"{vae}.bin": b"pickle",
            "vae_1_0/diffusion_pytorch_model.safetensors": _safetensors(6),
            "vae_decoder/config.json": b"{}",
        }
    )


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub() as served:
        yield served


def _fetch(hub: Hub, dest: Path | str, model: str = "owner/name", **options: str) -> Fetched:
    return fetch(model, str(dest), FetchConfig(**options), endpoint=hub.endpoint)


def _names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_model_is_mirrored_with_what_it_is(hub: Hub, tmp_path: Path) -> None:
    repo = hub.repos["owner/name"] = _model(**{"pytorch_model.bin": b"p", "modeling.py": b"x"})
    fetched = _fetch(hub, tmp_path / "m")
    assert (fetched.commit, fetched.licence, fetched.is_new) == (repo.commit, "openrail++", True)
    assert fetched.left_out == {".bin": 1, ".py": 1}
    kept = {"config.json", "tokenizer.json", "README.md", "LICENSE.md", WEIGHTS}
    assert _names(tmp_path / "m") == kept | {MANIFEST}
    for name in kept:
        assert (tmp_path / "m" / name).read_bytes() == repo.files[name]
    assert fetched.digest == digest_folder(tmp_path / "m")
    assert exit_code(verify(str(tmp_path / "m"))) == 0
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_records_repository_commit_and_licence(hub: Hub, tmp_path: Path) -> None:
    repo = hub.repos["owner/name"] = _model()
    fetched = _fetch(hub, tmp_path / "m")
    identity = identify_model(resolve_model(str(tmp_path / "m"), "llava"))
    assert (identity.id, identity.revision) == ("owner/name", repo.commit)
    assert (identity.digest, identity.licence) == (fetched.digest, "openrail++")
    (tmp_path / "m" / "tokenizer.json").write_text("[]")
    with pytest.raises(ValueError, match="models verify"):
        identify_model(resolve_model(str(tmp_path / "m"), "llava"))


def test_two_fetches_of_a_commit_are_equal_to_the_byte(hub: Hub, tmp_path: Path) -> None:
    repo = hub.repos["owner/name"] = _model()
    _fetch(hub, tmp_path / "a")
    _fetch(hub, tmp_path / "b", f"owner/name@{repo.commit}")
    assert (tmp_path / "a" / MANIFEST).read_bytes() == (tmp_path / "b" / MANIFEST).read_bytes()


def test_of_a_pipeline_only_its_components_in_one_variant(hub: Hub, tmp_path: Path) -> None:
    hub.repos["owner/name"] = _pipeline()
    _fetch(hub, tmp_path / "plain")
    unet, vae = "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model.safetensors"
    small = {"model_index.json", "README.md", "unet/config.json", "vae/config.json", MANIFEST}
    assert _names(tmp_path / "plain") == small | {f"{unet}.safetensors", vae}
    _fetch(hub, tmp_path / "half", variant="fp16")
    assert _names(tmp_path / "half") == small | {f"{unet}.fp16.safetensors", vae}
    with pytest.raises(ValueError, match="needs a place of its own"):
        _fetch(hub, tmp_path / "half")


def test_of_many_weights_one_is_fetched_by_name(hub: Hub, tmp_path: Path) -> None:
    files = {f"lora_{n}step.safetensors": _safetensors(n) for n in (2, 4, 8)}
    hub.repos["owner/name"] = HubRepo(files | {"README.md": CARD})
    with pytest.raises(ValueError, match=r"weights=lora_2step\.safetensors"):
        _fetch(hub, tmp_path / "lora")
    _fetch(hub, tmp_path / "lora", weights="lora_4step.safetensors")
    assert _names(tmp_path / "lora") == {"lora_4step.safetensors", "README.md", MANIFEST}
    with pytest.raises(ValueError, match=r"has no lora\.safetensors"):
        _fetch(hub, tmp_path / "other", weights="lora.safetensors")


def test_one_file_of_weights_is_not_taken_for_its_model(hub: Hub, tmp_path: Path) -> None:
    hub.repos["owner/name"] = _model()
    _fetch(hub, tmp_path / "m", weights=WEIGHTS)
    with pytest.raises(ValueError, match="variant or file needs a place of its own"):
        _fetch(hub, tmp_path / "m")
    assert not _fetch(hub, tmp_path / "m", weights=WEIGHTS).is_new
    assert not fetch(str(tmp_path / "m"), str(tmp_path / "m")).is_new


def test_shards_come_with_their_index_and_not_with_that_of_pickles(
    hub: Hub, tmp_path: Path
) -> None:
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    repo = _model(
        **{
            "model.safetensors.index.json": json.dumps(
                {"weight_map": dict(zip("ab", shards, strict=True))}
            ).encode(),
            "pytorch_model.bin.index.json": b'{"weight_map": {"a": "pytorch_model.bin"}}',
            "original__consolidated.safetensors": _safetensors(),
        }
    )
    del repo.files[WEIGHTS]
    hub.repos["owner/name"] = repo
    repo.files |= {name: _safetensors(i) for i, name in enumerate(shards)}
    _fetch(hub, tmp_path / "m")
    weights = {name for name in _names(tmp_path / "m") if "model" in name} - {MANIFEST}
    assert weights == {*shards, "model.safetensors.index.json"}
    del repo.files[shards[1]]
    with pytest.raises(ValueError, match=f"takes weights from '{shards[1]}'"):
        _fetch(hub, tmp_path / "incomplete")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.update({"config.json": b'{"auto_map": {"A": "m.A"}}', "m.py": b""}), "auto_m"),
        (lambda f: f.update({"config.json": b'{"custom_pipeline": "evil"}'}), "custom_pipeline"),
        (lambda f: f.update({"config.json": b"{"}), "no JSON"),
        (lambda f: f.update({"config.json": b"[]"}), "no JSON object"),
        (lambda f: f.update({"../x.json": b"{}"}), "outside of the model's folder"),
        (lambda f: f.update({"a/../../x.safetensors": b""}), "outside of the model's folder"),
        (lambda f: f.update({"/etc/x.json": b"{}"}), "outside of the model's folder"),
        (lambda f: f.update({"..\\x.json": b"{}"}), "outside of the model's folder"),
        (lambda f: f.pop("config.json"), "no model_index.json and no config.json"),
        (lambda f: f.update({"pytorch_model.bin": f.pop(WEIGHTS)}), "pickles run code"),
        (lambda f: f.pop(WEIGHTS), "has no weights in safetensors"),
        (lambda f: f.update({"model.fp16.safetensors": f.pop(WEIGHTS)}), "as fp16 only"),
        (lambda f: f.update({WEIGHTS: b"\x80\x04pickle" * 20}), "is no safetensors file"),
        (lambda f: f.update({"adapter_config.json": b"{}"}), "an adapter"),
        (
            lambda f: f.update({"chat_template.jinja": b"{{ x.__class__.__mro__ }}"}),
            "chat template with '__class__'",
        ),
        (
            lambda f: f.update({"model_index.json": b'{"unet": ["os", "system"]}'}),
            "from the library 'os'",
        ),
    ],
)
def test_what_fails_the_vetting_is_refused_with_the_reason(
    hub: Hub, tmp_path: Path, change: Callable[[dict[str, bytes]], object], said: str
) -> None:
    repo = hub.repos["owner/name"] = _model()
    if "library" in said:
        repo.files["unet/model.safetensors"] = _safetensors()
    change(repo.files)
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        _fetch(hub, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"m.partial"}
    if "safetensors file" not in said:  # that is seen only once it is here
        assert not hub.downloads(WEIGHTS), "weights were fetched before configs were vetted"


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_bytes_that_are_not_the_listed_ones_are_refused_and_removed(
    hub: Hub, tmp_path: Path, name: str
) -> None:
    repo = hub.repos["owner/name"] = _model()
    repo.sends[name] = repo.files[name][:-1] + b"!"
    with pytest.raises(StoreError, match=f"{name} came as .* bytes with sha256"):
        _fetch(hub, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    repo.sends.clear()
    assert _fetch(hub, tmp_path / "m").is_new


def test_a_file_that_is_shorter_than_listed_is_refused(hub: Hub, tmp_path: Path) -> None:
    repo = hub.repos["owner/name"] = _model()
    repo.sends[WEIGHTS] = repo.files[WEIGHTS][:20_000]
    with pytest.raises(StoreError, match="should be of size"):
        _fetch(hub, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_connection_that_breaks_is_gone_on_with(hub: Hub, tmp_path: Path) -> None:
    repo = hub.repos["owner/name"] = _model(**{WEIGHTS: _safetensors(1, 12_000_000)})
    repo.breaks_after[WEIGHTS] = [11_000_000]
    _fetch(hub, tmp_path / "m")
    # The client writes in parts of 10 MiB.
    assert set(hub.downloads(WEIGHTS)) == {"", f"bytes={10 << 20}-"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gated": True, "token": "t"}, r"is gated: accept its terms at .*/owner/name and give"),
        ({"token": "t"}, r"is closed to you \(401\)"),
    ],
)
def test_a_closed_repository_says_what_to_do(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, said: str
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    hub.repos["owner/name"] = _model()
    for name, value in change.items():
        setattr(hub.repos["owner/name"], name, value)
    with pytest.raises(ValueError, match=said):
        _fetch(hub, tmp_path / "m")
    monkeypatch.setenv("HF_TOKEN", "t")
    assert _fetch(hub, tmp_path / "m").is_new
    # The token goes to the hub and not to where the hub sends the client.
    sent = {path.split("/")[1]: token for path, token in hub.tokens if token}
    assert set(sent) == {"api", "owner"}


def test_no_such_repository_revision_or_hub(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not on the hub"):
        _fetch(hub, tmp_path / "m")
    hub.repos["owner/name"] = _model()
    with pytest.raises(ValueError, match="has no revision 'v9'"):
        _fetch(hub, tmp_path / "m", "owner/name@v9")
    with pytest.raises(ValueError, match="is no id of a model"):
        _fetch(hub, tmp_path / "m", "a//b")
    with pytest.raises(StoreError, match="cannot be reached"):
        fetch("owner/name", str(tmp_path / "m"), endpoint="http://127.0.0.1:9")


def test_a_place_of_something_else_is_refused_before_a_download(hub: Hub, tmp_path: Path) -> None:
    hub.repos["owner/name"] = _model()
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="no mirror of pairloom"):
        _fetch(hub, tmp_path / "m")
    _fetch(hub, tmp_path / "n")
    hub.repos["owner/name"].files["config.json"] = b'{"a": 1}'
    with pytest.raises(ValueError, match="needs a place of its own"):
        _fetch(hub, tmp_path / "n")


def test_an_empty_folder_is_filled(hub: Hub, tmp_path: Path) -> None:
    hub.repos["owner/name"] = _model()
    (tmp_path / "m").mkdir()
    assert _fetch(hub, tmp_path / "m").is_new


def test_a_mirror_has_the_variant_that_it_has(hub: Hub, tmp_path: Path) -> None:
    hub.repos["owner/name"] = _pipeline()
    _fetch(hub, tmp_path / "half", variant="fp16")
    copy = fetch(str(tmp_path / "half"), str(tmp_path / "copy"))
    assert copy.digest == digest_folder(tmp_path / "half")
    _fetch(hub, tmp_path / "plain")
    with pytest.raises(ValueError, match="is a mirror of the plain weights"):
        fetch(str(tmp_path / "plain"), str(tmp_path / "c"), FetchConfig(variant="fp16"))


def test_a_second_fetch_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.repos["owner/name"] = _model()
    first = _fetch(hub, tmp_path / "m")
    hub.requests.clear()
    again = _fetch(hub, tmp_path / "m")
    assert (again.is_new, again.digest) == (False, first.digest)
    assert [path for _, path, _ in hub.requests] == ["/api/models/owner/name"]


def test_what_a_cut_off_fetch_of_another_commit_left_is_no_part(hub: Hub, tmp_path: Path) -> None:
    repo = hub.repos["owner/name"] = _model(**{"old.json": b"{}"})
    repo.sends[WEIGHTS] = b"x" * len(repo.files[WEIGHTS])
    with pytest.raises(StoreError):
        _fetch(hub, tmp_path / "m")
    assert (tmp_path / "m.partial" / "old.json").is_file()
    repo.sends.clear()
    del repo.files["old.json"]
    repo.files["config.json"] = b'{"model_type": "other"}'
    _fetch(hub, tmp_path / "m")
    assert "old.json" not in _names(tmp_path / "m")
    assert exit_code(verify(str(tmp_path / "m"))) == 0


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda m: (m / WEIGHTS).write_bytes(b"x"), f"{WEIGHTS} has 1 bytes"),
        (lambda m: (m / "config.json").unlink(), "config.json is missing"),
        (lambda m: (m / "more.json").write_text("{}"), "more.json is not in the manifest"),
        (lambda m: (m / "evil.py").write_text(""), "pickles and code"),
    ],
)
def test_verify_finds_damage(
    hub: Hub, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    hub.repos["owner/name"] = _model()
    _fetch(hub, tmp_path / "m")
    damage(tmp_path / "m")
    check = verify(str(tmp_path / "m"))
    assert exit_code(check) == 1
    assert any(said in problem for problem in check.problems), check.problems


@pytest.mark.parametrize(
    "change",
    [
        lambda m: {**m, "format": 9},
        lambda m: {**m, "licence": "x", "digest": "sha256:0"},
        lambda m: {**m, "files": [{"path": "../x"}]},
        lambda m: {**m, "files": [*m["files"], m["files"][0]]},
        lambda m: [],
    ],
)
def test_a_manifest_that_is_none_is_refused(
    hub: Hub, tmp_path: Path, change: Callable[[dict], object]
) -> None:
    hub.repos["owner/name"] = _model()
    _fetch(hub, tmp_path / "m")
    path = tmp_path / "m" / MANIFEST
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match="fetch the model again"):
        verify(str(tmp_path / "m"))


def test_a_mirror_in_a_bucket_and_from_it_to_a_node(
    hub: Hub, tmp_path: Path, moto_s3: S3Server
) -> None:
    repo = hub.repos["owner/name"] = _model()
    uri = f"{moto_s3.uri}/models/name"
    repo.sends[WEIGHTS] = b"x" * len(repo.files[WEIGHTS])
    with pytest.raises(StoreError, match="came as"):
        _fetch(hub, uri)
    repo.sends.clear()
    fetched = _fetch(hub, uri)
    assert exit_code(verify(uri)) == 0
    store = open_store(uri)
    assert store.read(WEIGHTS) == repo.files[WEIGHTS]
    assert not [key for key in store.list() if key.startswith("_fetched")]
    store.put(f"_fetched/{WEIGHTS}.json", b"{}")  # killed between its manifest and its last delete
    assert exit_code(verify(uri)) == 0
    again = fetch(uri, str(tmp_path / "node"))
    assert (again.digest, again.commit) == (fetched.digest, repo.commit)
    assert read_manifest(tmp_path / "node") is not None
    assert exit_code(verify(str(tmp_path / "node"))) == 0
    store.put(WEIGHTS, _safetensors(9))
    assert exit_code(verify(uri)) == 1
    with pytest.raises(StoreError, match=f"{WEIGHTS} came as"):
        fetch(uri, str(tmp_path / "second"))


def test_a_bucket_that_was_cut_off_goes_on_after_its_files(hub: Hub, moto_s3: S3Server) -> None:
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    weights = json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()
    repo = hub.repos["owner/name"] = _model(**{"model.safetensors.index.json": weights})
    del repo.files[WEIGHTS]
    repo.files |= {name: _safetensors(i) for i, name in enumerate(shards)}
    repo.sends[shards[1]] = b"x" * len(repo.files[shards[1]])
    uri = f"{moto_s3.uri}/models/sharded"
    with pytest.raises(StoreError):
        _fetch(hub, uri)
    assert exit_code(verify(uri)) == 3
    repo.sends.clear()
    hub.requests.clear()
    _fetch(hub, uri)
    assert not hub.downloads(shards[0])
    assert exit_code(verify(uri)) == 0


def _pairloom(hub: Hub, *words: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines", "models", *words],
        env=os.environ | {"HF_ENDPOINT": hub.endpoint} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_fetch_that_is_killed_goes_on_within_the_file(hub: Hub, tmp_path: Path) -> None:
    repo = hub.repos["owner/name"] = _model(**{WEIGHTS: _safetensors(1, 40_000_000)})
    repo.hangs_after[WEIGHTS] = 25_000_000
    dest = tmp_path / "m"
    part = tmp_path / "m.partial" / f".{WEIGHTS}.part"
    first = _pairloom(hub, "fetch", "owner/name", str(dest))
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 10_000_000):
        assert time.monotonic() < deadline, first.communicate(timeout=1)
        time.sleep(0.05)
    first.kill()
    first.communicate()
    assert exit_code(verify(str(dest))) == 3
    held = part.stat().st_size
    repo.hangs_after.clear()
    second = _pairloom(hub, "fetch", f"owner/name@{repo.commit}", str(dest), "--json")
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["commit"] == repo.commit
    assert f"bytes={held}-" in hub.downloads(WEIGHTS)
    assert exit_code(verify(str(dest))) == 0


def test_the_command_line_says_what_is_wrong_in_one_paragraph(hub: Hub, tmp_path: Path) -> None:
    hub.repos["owner/name"] = _model()
    done = _pairloom(hub, "fetch", "owner/name", str(tmp_path / "m"), HF_HUB_OFFLINE="1")
    _, err = done.communicate(timeout=60)
    assert done.returncode == 2
    assert err.startswith("error: HF_HUB_OFFLINE is set")
    assert not (tmp_path / "m.partial").exists()
