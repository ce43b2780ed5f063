"""What is cited for which model."""

import pytest

from pipelines.publish.citations import cite


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("stabilityai/stable-diffusion-xl-base-1.0", "podell2023sdxl"),
        ("stabilityai/sdxl-turbo", "sauer2023adversarial"),
        ("ByteDance/SDXL-Lightning", "lin2024sdxllightning"),
        ("llava-hf/llava-1.5-7b-hf", "liu2024improved"),
        ("llava-hf/llava-v1.6-mistral-7b-hf", "liu2024llavanext"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "bai2025qwen25vl"),
        ("openai/clip-vit-large-patch14", "radford2021clip"),
    ],
)
def test_a_model_is_cited_by_its_own_work(model: str, key: str) -> None:
    work = cite({"id": model})
    assert work is not None
    assert work.startswith(("@misc", "@inproceedings"))
    assert f"{{{key}," in work


def test_a_model_that_nobody_here_knows_is_not_cited() -> None:
    assert cite({"id": "someone/something"}) is None
