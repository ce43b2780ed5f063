"""Model folders that would run code if they were loaded carelessly: each is refused by the real
loaders, with what is wrong, and its payload (a file that it would create) has not run.
"""

import ast
import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.backends.simulated import draw_image
from actors.image_to_text import ImageToTextConfig, build_image_to_text
from actors.images import encode_image
from actors.models import check_folder
from actors.scenes.defaults import EMBEDDED_MODELS
from actors.text_to_image import TextToImageConfig, build_text_to_image

ROOT = Path(__file__).parents[2]
Poison = Callable[[Path, Path], None]


class _Payload:
    """Creates the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._canary), "w")


def _python(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()\n"


def _pickled(name: str) -> Poison:
    return lambda folder, canary: (
        (folder / name).parent.mkdir(exist_ok=True)
        or ((folder / name).write_bytes(pickle.dumps(_Payload(canary))) and None)
    )


def _code(name: str) -> Poison:
    return lambda folder, canary: (
        (folder / name).parent.mkdir(exist_ok=True)
        or ((folder / name).write_text(_python(canary)) and None)
    )


def _set(name: str, **values: Any) -> Poison:
    """Adds keys to a JSON file, and the code that they would load."""

    def poison(folder: Path, canary: Path) -> None:
        content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        (folder / name).write_text(json.dumps(content | values))
        # Beside the folder, as the folder's own is refused already.
        (folder.parent / "evil.py").write_text(_python(canary))

    return poison


def _template(text: str, name: str = "chat_template.jinja") -> Poison:
    def poison(folder: Path, canary: Path) -> None:
        body = text.replace("CANARY", str(canary))
        path = folder / name
        if name.endswith(".jinja"):
            path.write_text(body)
        else:
            content = json.loads(path.read_text()) if path.exists() else {}
            path.write_text(json.dumps(content | {"chat_template": body}))

    return poison


def _outside(name: str, *, is_folder: bool = False) -> Poison:
    """Moves a part of the model out and links to it, with a pickle beside it."""

    def poison(folder: Path, canary: Path) -> None:
        other = folder.parent / "other"
        other.mkdir()
        shutil.move(folder / name, other / Path(name).name)
        (other / Path(name).name / "x.bin" if is_folder else other / "x.bin").write_bytes(
            pickle.dumps(_Payload(canary))
        )
        (folder / name).symlink_to(other / Path(name).name)

    return poison


def _index(target: str) -> Poison:
    def poison(folder: Path, canary: Path) -> None:
        for place in (folder, folder.parent):
            (place / "evil.dat").write_bytes(pickle.dumps(_Payload(canary)))
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        index = {"metadata": {"total_size": 1}, "weight_map": {"lm_head.weight": target}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return poison


def _pickle_as_weights(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(_Payload(canary)))


CLIMB = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
OPEN = "{{ cycler.__init__.__globals__.__builtins__.open('CANARY', 'w') }}"
# Spelled so that only the sandbox can see it.
HIDDEN = (
    r"{{ (cycler['\x5f\x5finit\x5f\x5f'])['\x5f\x5fglobals\x5f\x5f']"
    r"['\x5f\x5fbuiltins\x5f\x5f'].open('CANARY', 'w') }}"
)

FOLDERS: dict[str, tuple[str, Poison, str]] = {
    "pickle .bin": ("llava", _pickled("pytorch_model.bin"), "holds pytorch_model.bin"),
    "pickle .bin of a part": ("sdxl", _pickled("unet/x.bin"), "holds unet/x.bin"),
    "pickle .pt": ("llava", _pickled("weights.pt"), "holds weights.pt"),
    "pickle .PKL": ("sdxl", _pickled("vae/state.PKL"), "holds vae/state.PKL"),
    "pickle .ckpt": ("sdxl", _pickled("model.ckpt"), "holds model.ckpt"),
    "pickle .npy": ("llava", _pickled("mean.npy"), "holds mean.npy"),
    "pickle called safetensors": ("llava", _pickle_as_weights, "is no safetensors file"),
    "python file": ("llava", _code("modeling_evil.py"), "holds modeling_evil.py"),
    "custom generate": ("llava", _code("custom_generate/generate.py"), "custom_generate/generate"),
    "compiled module": ("sdxl", _code("unet/evil.so"), "holds unet/evil.so"),
    "auto_map in config": (
        "llava",
        _set("config.json", auto_map={"AutoModelForImageTextToText": "../evil--evil.Model"}),
        "config.json' has the key 'auto_map'",
    ),
    "auto_map in the text config": (
        "llava",
        _set("config.json", text_config={"auto_map": {"AutoConfig": "evil.Config"}}),
        "has the key 'auto_map'",
    ),
    "auto_map of a tokenizer": (
        "llava",
        _set("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]}),
        "tokenizer_config.json' has the key 'auto_map'",
    ),
    "auto_map of a processor": (
        "llava",
        _set("processor_config.json", auto_map={"AutoProcessor": "evil.Processor"}),
        "processor_config.json' has the key 'auto_map'",
    ),
    "auto_map of generation": (
        "llava",
        _set("generation_config.json", auto_map={"GenerationConfig": "evil.Config"}),
        "generation_config.json' has the key 'auto_map'",
    ),
    "generation with code": (
        "llava",
        _set("generation_config.json", custom_generate="owner/evil"),
        "has the key 'custom_generate'",
    ),
    "auto_map of a unet": (
        "sdxl",
        _set("unet/config.json", auto_map={"AutoModel": "evil.UNet"}),
        "has the key 'auto_map'",
    ),
    "trust asked for": ("llava", _set("config.json", trust_remote_code=True), "trust_remote_code"),
    "attention from the hub, inside": (
        "llava",
        _set("config.json", _attn_implementation_internal="owner/evil"),
        "has the key '_attn_implementation_internal'",
    ),
    "attention from the hub": (
        "llava",
        _set("config.json", attn_implementation="owner/evil:kernel"),
        "has the key 'attn_implementation'",
    ),
    "experts from the hub": (
        "llava",
        _set("config.json", text_config={"_experts_implementation": "owner/evil"}),
        "has the key '_experts_implementation'",
    ),
    "adapter over another model": (
        "llava",
        _set("adapter_config.json", base_model_name_or_path="../evil", peft_type="LORA"),
        "makes this an adapter",
    ),
    "custom pipeline": (
        "sdxl",
        _set("model_index.json", custom_pipeline="../evil.py"),
        "has the key 'custom_pipeline'",
    ),
    "pipeline class of a file": (
        "sdxl",
        _set("model_index.json", _class_name=["evil", "Pipeline"]),
        "from the library 'evil'",
    ),
    "part of a module": (
        "sdxl",
        _set("model_index.json", unet=["os", "system"]),
        "takes 'unet' from the library 'os'",
    ),
    "part of a file": (
        "sdxl",
        _set("model_index.json", scheduler=["../evil", "Scheduler"]),
        "from the library '../evil'",
    ),
    "part of a list of modules": (
        "sdxl",
        _set("model_index.json", vae=[["os"], "system"]),
        "takes 'vae' from the library",
    ),
    "template that climbs": ("llava", _template(CLIMB), "chat template with '__class__'"),
    "template that opens": ("llava", _template(OPEN), "chat template with '__init__'"),
    "template by filter": (
        "llava",
        _template("{{ cycler|attr('x') }}"),
        "chat template with '|attr'",
    ),
    "template in the tokenizer": (
        "llava",
        _template(OPEN, "tokenizer_config.json"),
        "tokenizer_config.json' has a chat template",
    ),
    "template in a file of its own": (
        "llava",
        _template(OPEN, "chat_template.json"),
        "chat_template.json' has a chat template",
    ),
    "template in disguise": ("llava", _template(HIDDEN), "that can be used: SecurityError"),
    "link to a file elsewhere": ("llava", _outside("config.json"), "holds the link config.json"),
    "link to a folder elsewhere": (
        "sdxl",
        _outside("unet", is_folder=True),
        "holds the link unet",
    ),
    "index to a pickle": ("llava", _index("evil.dat"), "takes weights from 'evil.dat'"),
    "index that leaves": ("llava", _index("../evil.dat"), "takes weights from '../evil.dat'"),
    "index that leaves to safetensors": (
        "llava",
        _index("../evil.safetensors"),
        "takes weights from '../evil.safetensors'",
    ),
    "index without a map": (
        "llava",
        _set("model.safetensors.index.json", weight_map=[1]),
        "takes weights from 'weight_map'",
    ),
}


def _load(which: str, folder: Path) -> Any:
    if which == "sdxl":
        return build_text_to_image(TextToImageConfig(model=str(folder), device="cpu", num_steps=2))
    return build_image_to_text(ImageToTextConfig(model=str(folder), device="cpu"))


@pytest.mark.parametrize("name", FOLDERS)
def test_a_malicious_folder_is_refused_and_nothing_of_it_runs(tmp_path: Path, name: str) -> None:
    which, poison, message = FOLDERS[name]
    folder, canary = tmp_path / which, tmp_path / "canary"
    shutil.copytree(EMBEDDED_MODELS[which], folder)
    poison(folder, canary)
    with pytest.raises(ValueError) as caught:
        _load(which, folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert not canary.exists()


def test_the_driver_refuses_it_before_any_replica_starts(tmp_path: Path) -> None:
    for which, config in (("llava", ImageToTextConfig), ("sdxl", TextToImageConfig)):
        folder = tmp_path / which
        shutil.copytree(EMBEDDED_MODELS[which], folder)
        (folder / "x.py").write_text("")
        with pytest.raises(ValueError, match=r"holds x\.py"):
            config(model=str(folder)).identity()


def test_the_same_folders_unspoiled_are_loaded_and_work(tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(1)  # as Ray does for a replica; two on a busy machine took 90 s
    for which in ("sdxl", "llava"):
        shutil.copytree(EMBEDDED_MODELS[which], tmp_path / which)
    (drawn,) = _load("sdxl", tmp_path / "sdxl")([{"prompt": "a red star", "rng_seed_draw": 1}])
    assert "error" not in drawn
    picture = {"bytes": encode_image(draw_image("x", 1, 64, 64)).data, "path": None}
    (said,) = _load("llava", tmp_path / "llava")([{"image": picture, "rng_seed_describe": 1}])
    assert said["description"]


def test_the_payloads_are_live(tmp_path: Path) -> None:
    """Else their silence would say nothing."""
    from jinja2 import Environment

    for index, run in enumerate(
        [
            lambda canary: pickle.loads(pickle.dumps(_Payload(canary))),
            lambda canary: exec(_python(canary)),
            lambda canary: Environment().from_string(OPEN.replace("CANARY", str(canary))).render(),
            lambda canary: (
                Environment().from_string(HIDDEN.replace("CANARY", str(canary))).render()
            ),
        ]
    ):
        canary = tmp_path / str(index)
        run(canary)
        assert canary.exists()


def test_the_corpus_is_as_large_as_it_says() -> None:
    assert len(FOLDERS) >= 35


def test_a_folder_in_the_hub_s_cache_may_link_to_its_own_blobs_alone(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--name" / "snapshots" / ("a" * 40)
    blobs = tmp_path / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "b").write_bytes(struct.pack("<Q", 2) + b"{}")
    (snapshot / "model.safetensors").symlink_to("../../blobs/b")
    check_folder(snapshot)
    (tmp_path / "b").write_text("{}")
    (snapshot / "config.json").symlink_to(tmp_path / "b")
    with pytest.raises(ValueError, match=r"holds the link config\.json"):
        check_folder(snapshot)


def _loads(folder: str) -> list[tuple[str, ast.Call]]:
    """Every call of a `from_pretrained` under `folder`, with where it stands."""
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node)
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("from_pretrained", "from_single_file", "load_lora_weights")
    ]


def _options(call: ast.Call) -> dict[str | None, Any]:
    return {
        each.arg: each.value.value if isinstance(each.value, ast.Constant) else None
        for each in call.keywords
    }


def test_every_loader_of_a_users_model_is_called_with_its_switches_set() -> None:
    calls = _loads("actors/backends")
    assert len(calls) >= 3
    for place, call in calls:
        options = _options(call)
        assert None not in options, f"{place}: write the options out"
        assert options.get("local_files_only") is True, place
        assert options.get("trust_remote_code") is False, place
        function = ast.unparse(call.func)
        has_weights = "Processor" not in function and "Tokenizer" not in function
        assert options.get("use_safetensors") is (True if has_weights else None), place


def test_nothing_anywhere_trusts_remote_code_or_loads_pickles() -> None:
    for place, call in _loads("actors"):
        options = _options(call)
        assert options.get("trust_remote_code") in (None, False), place
        assert options.get("use_safetensors") in (None, True), place
    for path in (ROOT / "actors").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("pickle.load", "pickle.loads", "joblib.load"), path
                if called == "torch.load":
                    assert _options(node).get("weights_only") is True, path
