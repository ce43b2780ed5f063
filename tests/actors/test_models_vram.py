"""The estimate of a GPU's memory: its formulas against tensors counted on the meta device."""

import json
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toy_models import build_llm, build_qwen_vl

from actors.backends.sdxl_config import SdxlConfig
from actors.image_to_text import ImageToTextConfig
from actors.models_headers import read_headers
from actors.text_to_image import TextToImageConfig
from actors.text_to_text import TextToTextConfig
from actors.vram import estimate_generator, estimate_language_model

sys.path.append(str(Path(__file__).parents[1] / "gpu"))
import shapes

META, HALF = torch.device("meta"), torch.bfloat16


class _Peak(TorchDispatchMode):
    """Bytes of all tensors that are alive at once, those of the weights left out."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.live = self.peak = 0
        own = [*module.parameters(), *module.buffers()]
        self._sizes = {each.untyped_storage()._cdata: 0 for each in own}

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, torch.Tensor):
                storage = each.untyped_storage()
                if storage._cdata not in self._sizes:
                    self._sizes[storage._cdata] = storage.nbytes()
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._drop, storage._cdata)
        return out

    def _drop(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)


@pytest.fixture
def _fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a fused kernel: on the meta device torch would write the matrix of scores."""
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda q, *_, **__: torch.empty_like(q)
    )


def _peak(module: torch.nn.Module, call: Callable[[], object]) -> int:
    with torch.no_grad(), _Peak(module) as counted:
        call()
    return counted.peak


def _save(module: Any, folder: Path, name: str) -> None:
    """Headers and config as a checkpoint has them, without its bytes."""
    folder.mkdir(parents=True)
    config = module if hasattr(module, "save_config") else module.config
    (config.save_config if config is module else config.save_pretrained)(folder)
    header, start = {}, 0
    for key, each in module.state_dict().items():
        stop = start + each.numel() * 2
        header[key] = {"dtype": "F16", "shape": list(each.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    with (folder / name).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + start)  # a hole: no disk is used


@pytest.fixture(scope="module")
def full_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full") / "sdxl"
    weights = "diffusion_pytorch_model.safetensors"
    with shapes.made_on(META, HALF):
        _save(shapes.build_unet(False), folder / "unet", weights)
        _save(shapes.build_vae(False), folder / "vae", weights)
    return folder


@pytest.mark.parametrize(
    ("batch_size", "px", "is_guided"), [(8, 1024, True), (16, 512, True), (16, 1024, False)]
)
@pytest.mark.usefixtures("_fused")
def test_a_units_peak_is_what_is_reckoned(
    full_sdxl: Path, batch_size: int, px: int, is_guided: bool
) -> None:
    rows, latent = batch_size * (1 + is_guided), px // 8
    with shapes.made_on(META, HALF):
        unet = shapes.build_unet(False)
        x, t = torch.empty(rows, 4, latent, latent), torch.empty(rows)
        text, pooled = torch.empty(rows, 77, 2048), torch.empty(rows, 1280)
        ids = torch.empty(rows, 6)
    added = {"text_embeds": pooled, "time_ids": ids}
    counted = _peak(unet, lambda: unet(x, t, text, added_cond_kwargs=added))
    config = TextToImageConfig(
        model=str(full_sdxl),
        width_px=px,
        height_px=px,
        guidance_scale=5.0 if is_guided else 0.0,
        sdxl=SdxlConfig(vae_dtype="float16"),
    )
    need = estimate_generator(config, batch_size)
    assert need is not None
    assert need.working_bytes == pytest.approx(counted, rel=0.05)


def test_a_decoders_peak_is_what_is_reckoned(full_sdxl: Path) -> None:
    with shapes.made_on(META, torch.float32):
        vae = shapes.build_vae(False)
        latents = torch.empty(4, 4, 128, 128)
    counted = _peak(vae, lambda: vae.decode(latents, return_dict=False))
    config = TextToImageConfig(
        model=str(full_sdxl), width_px=1024, height_px=1024, sdxl=SdxlConfig(vae_batch=4)
    )
    need = estimate_generator(config, 4)
    assert need is not None
    assert need.working_bytes == pytest.approx(counted, rel=0.05)


def test_weights_are_counted_in_the_dtype_of_the_run(full_sdxl: Path) -> None:
    num_unet = sum(each.num_values for each in read_headers(full_sdxl / "unet"))
    num_vae = sum(each.num_values for each in read_headers(full_sdxl / "vae"))
    assert num_unet == pytest.approx(2.567e9, rel=0.001)

    def weights(**options: Any) -> int:
        need = estimate_generator(TextToImageConfig(model=str(full_sdxl), **options), 1)
        assert need is not None
        return need.weights_bytes

    assert weights() == 2 * num_unet + 4 * num_vae
    assert weights(dtype="float32") == 4 * (num_unet + num_vae)
    fp8 = weights(sdxl=SdxlConfig(quantization="fp8", vae_dtype="bfloat16"))
    assert 0.5 < fp8 / weights() < 0.65


@pytest.mark.usefixtures("_fused")
def test_a_language_models_cache_and_peak_are_what_is_reckoned(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 3584, "intermediate_size": 18944, "vocab_size": 152064}
    sizes |= {"num_attention_heads": 28, "num_key_value_heads": 4, "num_hidden_layers": 8}
    rows, tokens = 16, 128 + 384
    with shapes.made_on(META, HALF):
        model = Qwen2ForCausalLM(Qwen2Config(**sizes)).eval()
        ids = torch.empty(rows, tokens, dtype=torch.long)
    counted = _peak(model, lambda: model(input_ids=ids, use_cache=True, logits_to_keep=1))
    _save(model, tmp_path / "llm", "model.safetensors")
    config = TextToTextConfig(model=str(tmp_path / "llm"), max_new_tokens=384)
    need = estimate_language_model(config, rows, None)
    assert need is not None
    assert need.cache_bytes == 2 * 8 * 4 * 128 * 2 * rows * tokens
    assert need.working_bytes + need.cache_bytes == pytest.approx(counted, rel=0.03)


def test_pictures_are_counted_as_their_processors_make_them(tmp_path: Path) -> None:
    from PIL import Image

    from actors.backends.hf_mllm import HfMllmEngine

    folder = build_qwen_vl(tmp_path / "qwen")
    config = ImageToTextConfig(model=str(folder), max_new_tokens=8)
    picture = Image.new("RGB", (112, 84))
    inputs = HfMllmEngine(config).preprocess([picture], "Hi.")
    num_tokens = int((inputs["input_ids"] == 5).sum())
    assert num_tokens == 4 * 3
    need = estimate_language_model(config, 1, (112, 84))
    blind = estimate_language_model(config, 1, None)
    assert need is not None
    assert blind is not None
    assert need.cache_bytes - blind.cache_bytes == 2 * 2 * 32 * 2 * num_tokens


def test_vllm_tells_the_least_and_what_is_not_here_is_not_known(tmp_path: Path) -> None:
    folder = str(build_llm(tmp_path / "llm"))
    vllm = TextToTextConfig(model=folder, backend="vllm", max_new_tokens=8)
    one, many = (estimate_language_model(vllm, n, None) for n in (1, 64))
    assert one == many
    assert estimate_language_model(TextToTextConfig(model="owner/name"), 1, None) is None
    assert estimate_language_model(ImageToTextConfig(backend="simulated"), 1, (64, 64)) is None
    assert estimate_generator(TextToImageConfig(model="owner/name"), 1) is None
    # A folder of a kind whose pictures are not reckoned with.
    assert estimate_language_model(ImageToTextConfig(model=folder), 1, (64, 64)) is None


def test_layers_of_other_names_and_8_bit_floats_are_not_guessed(tmp_path: Path) -> None:
    def write(name: str, **tensors: tuple[str, list[int]]) -> str:
        header = {
            key.replace("__", "."): {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}
            for key, (dtype, shape) in tensors.items()
        }
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "x"}')
        text = json.dumps(header).encode()
        (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
        return str(folder)

    layer = "model__layers__0"
    key = {f"{layer}__self_attn__k_proj__weight": ("BF16", [8, 16])}
    fused = write("fused", **{f"{layer}__mlp__gate_up_proj__weight": ("BF16", [64, 16])}, **key)
    assert estimate_language_model(TextToTextConfig(model=fused), 1, None) is None
    small = write("small", **{f"{layer}__mlp__up_proj__weight": ("F8_E4M3", [32, 16])}, **key)
    need = estimate_language_model(TextToTextConfig(model=small), 1, None)
    assert need is not None
    assert need.weights_bytes == 32 * 16 + 2 * 8 * 16
