"""pipelines/configs.py: what is missing is said before anything starts, whatever model it is of."""

import pytest

from pipelines.configs import load_config


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generator.model=/nowhere"], "/nowhere"),
        (["generator.sdxl.refiner=/nowhere"], "/nowhere"),
        (["generator.sdxl.lora=/nowhere.safetensors"], "'lora' is '/nowhere.safetensors'"),
        (["captioner.model=/nowhere"], "/nowhere"),
        (["seeds.path=null", "seeds.author.num_batches=1", "seeds.author.model.model=/nowhere"],
         "/nowhere"),
        (["scorer.backend=clip", "scorer.model=/nowhere"], "/nowhere"),
        (["scorer.backend=clip", "scorer.safety.model=/nowhere", "scorer.safety.label=x"],
         "/nowhere"),
        (["scorer.backend=clip", "scorer.aesthetic=/nowhere.safetensors"], "'aesthetic' is"),
        (["output=ftp://x/y"], "ftp://x/y"),
    ],
)  # fmt: skip
def test_what_is_missing_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_config("conf/synergy.yaml", words)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["stop.converged_rounds=3", "stop.is_looping=true"], "stop.converged_rounds"),
        (["stop.first_round=2"], "stop.first_round"),
        (["inject.path=x.txt"], "inject.path"),
        (["inject.from_round=2"], "inject.from_round"),
    ],
)
def test_what_would_have_no_effect_is_refused(words: list[str], name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' has no effect without"):
        load_config("conf/synergy.yaml", words)


def test_models_that_nobody_asks_are_not_looked_for() -> None:
    words = ["seeds.author.model.model=/nowhere", "scorer.model=/nowhere"]
    config = load_config("conf/synergy.yaml", words)
    assert (config.seeds.author.model.model, config.scorer.model) == ("/nowhere", "/nowhere")
    assert not config.scorer.is_on
