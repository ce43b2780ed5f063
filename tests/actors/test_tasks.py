"""What the three tasks have in common, on simulated engines; each also has a file of its own."""

import pickle
import subprocess
import sys
from functools import partial

import pytest

from actors.image_to_text import ImageToTextConfig, build_image_to_text
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
    factory = partial(build, config(backend="simulated"))  # type: ignore[arg-type]
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
