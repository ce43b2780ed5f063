"""Scores pictures and texts with a CLIP of transformers and with models that see the picture alone.

A picture is resized by the model's own image processor, in Pillow, on the thread that prepares
batches; it is encoded once, and so is every text that comes twice in a batch. Vectors leave in
float32 with length 1, so that a cosine is a dot product.

Limits: a text is read up to the model's limit (CLIP: 77 tokens) and no further: what a long
description says after that is in no score. Batches of other sizes move the last bits of float32.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoTokenizer,
    CLIPModel,
)

from actors.backends.devices import hide_progress_bars, pick_device, pick_dtype, watch_device
from actors.engines import Scored

if TYPE_CHECKING:
    from actors.scoring_config import ScorerConfig


class ClipEngine:
    """A ScoreEngine over one CLIP and the further models of its config, loaded by the constructor.

    Raises:
        ValueError: the models are others than the identity says, the folder holds no CLIP, a
            classifier does not know its label, or the aesthetic head does not fit the vectors.
    """

    def __init__(self, config: "ScorerConfig", expected_digest: str | None = None) -> None:
        hide_progress_bars()
        self._device = pick_device(config.device)
        self._dtype = pick_dtype(config.dtype, self._device)
        files = config.fetch(expected_digest)
        self._model = self._load(CLIPModel, files.clip)
        if self._model.config.model_type != "clip":
            raise ValueError(
                f"model folder {str(files.clip)!r} holds a {self._model.config.model_type}: the "
                "scorer needs a CLIPModel"
            )
        self._tokenizer: Any = AutoTokenizer.from_pretrained(
            str(files.clip), local_files_only=True, trust_remote_code=False
        )
        self._processors = {"clip": _load_processor(files.clip)}
        self._classifiers: dict[str, tuple[Any, int]] = {}
        for name, folder in files.classifiers.items():
            self._processors[name] = _load_processor(folder)
            model = self._load(AutoModelForImageClassification, folder)
            label = config.classifiers()[name].label
            self._classifiers[name] = model, _index_of(label, model.config.id2label, folder)
        width = self._model.config.projection_dim
        self._aesthetic = _load_layers(files.aesthetic, width) if files.aesthetic else None

    def preprocess(self, image: Image.Image) -> dict[str, torch.Tensor]:
        """The pixels that each model reads, [channels, height, width], on the CPU."""
        return {
            name: processor(images=image, return_tensors="pt")["pixel_values"][0]
            for name, processor in self._processors.items()
        }

    def score(
        self, pictures: list[dict[str, torch.Tensor]], texts: list[list[str]]
    ) -> list[Scored]:
        with watch_device(), torch.inference_mode():
            distinct = dict.fromkeys(text for row in texts for text in row)
            places = {text: place for place, text in enumerate(distinct)}
            written = self._encode_texts(list(places))
            pixels = self._stack(pictures, "clip")
            seen = _unit(self._model.get_image_features(pixel_values=pixels))
            heads = {name: self._classify(pictures, name) for name in self._classifiers}
            if self._aesthetic is not None:
                heads["aesthetic"] = _apply(self._aesthetic, seen)
        return [
            Scored(
                image=seen[row],
                texts=tuple(written[places[text]] for text in texts[row]),
                heads={name: float(values[row]) for name, values in heads.items()},
            )
            for row in range(len(pictures))
        ]

    def _encode_texts(self, texts: list[str]) -> np.ndarray:
        if not texts:
            return np.zeros((0, self._model.config.projection_dim), np.float32)
        tokens = self._tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return _unit(self._model.get_text_features(**tokens.to(self._device)))

    def _classify(self, pictures: list[dict[str, torch.Tensor]], name: str) -> np.ndarray:
        model, index = self._classifiers[name]
        logits = model(pixel_values=self._stack(pictures, name)).logits.float()
        return logits.softmax(dim=-1)[:, index].cpu().numpy()

    def _stack(self, pictures: list[dict[str, torch.Tensor]], name: str) -> torch.Tensor:
        pixels = torch.stack([picture[name] for picture in pictures])
        return pixels.to(self._device, self._dtype)

    def _load(self, kind: Any, folder: Path) -> Any:
        model = kind.from_pretrained(
            str(folder),
            dtype=self._dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
        return model.eval().to(self._device)


def _load_processor(folder: Path) -> Any:
    # Not torchvision's, which rounds otherwise: scores would depend on what is installed.
    return AutoImageProcessor.from_pretrained(
        str(folder), backend="pil", local_files_only=True, trust_remote_code=False
    )


def _unit(features: Any) -> np.ndarray:
    """Rows of length 1 in float32; transformers 5 wraps what it returned bare before."""
    rows = getattr(features, "pooler_output", features).float()
    return torch.nn.functional.normalize(rows, dim=-1).cpu().numpy()


def _index_of(label: str, id2label: dict[int, str], folder: Path) -> int:
    for index, name in id2label.items():
        if name == label:
            return int(index)
    raise ValueError(
        f"field 'label' is {label!r}: model folder {str(folder)!r} has {sorted(id2label.values())}"
    )


def _load_layers(path: Path, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(weight [out, in], bias [out]) of every linear layer, in the order of their numbers."""
    tensors = {name: tensor.float().numpy() for name, tensor in load_file(path).items()}
    names = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    names.sort(key=lambda name: [int(part) for part in name.split(".") if part.isdigit()])
    layers = [(tensors[f"{name}.weight"], tensors.get(f"{name}.bias")) for name in names]
    found = [width, *(weight.shape[0] for weight, _ in layers)]
    fits = all(
        weight.ndim == 2 and weight.shape[1] == size and bias is not None and bias.shape == (out,)
        for (weight, bias), size, out in zip(layers, found, found[1:], strict=False)
    )
    if not layers or not fits or found[-1] != 1:
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        raise ValueError(
            f"field 'aesthetic': {str(path)!r} has {shapes}: must be linear layers with biases, "
            f"from {width} numbers to 1"
        )
    return layers  # pyright: ignore[reportReturnType]


def _apply(layers: list[tuple[np.ndarray, np.ndarray]], vectors: np.ndarray) -> np.ndarray:
    for weight, bias in layers:
        vectors = vectors @ weight.T + bias
    return vectors[:, 0]
