"""What the three tasks have in common, on simulated engines; each also has a file of its own."""

import pickle
import subprocess
import sys
from dataclasses import fields
from functools import partial

import pytest

from actors.backends.simulated import simulated_identity
from actors.image_to_text import ImageToTextConfig, build_image_to_text
from actors.models import ModelIdentity
from actors.text_to_image import TextToImageConfig, build_text_to_image
from actors.text_to_text import TextToTextConfig, build_text_to_text

CONFIGS = [TextToImageConfig, ImageToTextConfig, TextToTextConfig]
BUILDERS = [
    (build_text_to_image, TextToImageConfig),
    (build_image_to_text, ImageToTextConfig),
    (build_text_to_text, TextToTextConfig),
]


def test_tasks_and_simulated_engines_need_no_torch_and_no_ray() -> None:
    code = (
        "import sys\n"
        "from actors.text_to_image import *\n"
        "from actors.image_to_text import *\n"
        "from actors.text_to_text import *\n"
        "for build, config in ((build_text_to_image, TextToImageConfig),\n"
        "                      (build_image_to_text, ImageToTextConfig),\n"
        "                      (build_text_to_text, TextToTextConfig)):\n"
        "    build(config(backend='simulated'))\n"
        "heavy = {'torch', 'ray', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("build", "config"), BUILDERS)
def test_factories_pickle(build: object, config: type) -> None:
    factory = partial(build, config(backend="simulated"))
    assert pickle.loads(pickle.dumps(factory)).args == factory.args


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("backend", "simulatd", "did you mean 'simulated'"),
        ("dtype", "fp32", "must be one of auto, float32"),
        ("device", "gpu", "must be one of auto, cpu, cuda"),
    ],
)
def test_shared_fields_are_checked(config: type, field: str, value: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"field '{field}' is '{value}'.*{message}"):
        config(**{field: value})


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("model", ["owner/name", "owner/name@main"])
def test_a_pinned_config_names_the_commit_of_a_hub_model(config: type, model: str) -> None:
    identity = ModelIdentity(id="owner/name", revision="c1", digest="git:c1", licence="mit")
    made = config(model=model, device="cpu")
    assert made.pinned(identity) == config(model="owner/name@c1", device="cpu")
    assert made.pinned(identity).pinned(identity) == made.pinned(identity)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    "identity",
    [
        simulated_identity("any"),
        ModelIdentity(id="folder", revision=None, digest="sha256:0", licence="mit"),
    ],
)
def test_a_model_that_is_not_from_the_hub_is_pinned_as_it_is(
    config: type, identity: ModelIdentity
) -> None:
    assert config(model="./folder").pinned(identity) == config(model="./folder")


def test_the_two_tasks_of_a_language_model_differ_in_their_defaults_alone() -> None:
    shared = {"backend", "model", "max_new_tokens", "temperature", "top_p", "dtype", "device"}
    shared |= {"hf_mllm", "vllm", "simulated", "stop_strings"}
    assert {field.name for field in fields(TextToTextConfig)} == shared
    assert {field.name for field in fields(ImageToTextConfig)} - shared == {
        "instruction_id",
        "instruction",
        "max_chars",
        "has_text_rules",
    }
    assert (TextToTextConfig().temperature, ImageToTextConfig().temperature) == (1.0, 0.0)


@pytest.mark.parametrize("config", [ImageToTextConfig, TextToTextConfig])
@pytest.mark.parametrize(
    ("field", "value"),
    [("max_new_tokens", 0), ("temperature", -0.1), ("temperature", float("nan")), ("top_p", 0.0)],
)
def test_sampling_fields_are_checked(config: type, field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"field '{field}' is {value}"):
        config(**{field: value})


@pytest.mark.parametrize(
    ("config", "role"),
    [(TextToImageConfig, "draw"), (ImageToTextConfig, "describe"), (TextToTextConfig, "write")],
)
def test_a_stand_in_says_that_it_is_one(config: type, role: str) -> None:
    made = config(backend="simulated")
    assert made.identity().id == f"simulated/{role}"
    assert made.sampling_params()["backend"] == "simulated"
