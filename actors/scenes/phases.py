"""The phases by name; each imports its own nets, so that `vae` does not load transformers.

Limits: runs one phase; which phase needs which is the order in `train.py`.
"""

from pathlib import Path

from actors.scenes.loop import RunSettings


def run(name: str, settings: RunSettings, budget_s: float) -> None:
    """Run one phase to the end of its budget."""
    if name in ("vae", "decoder"):
        from actors.scenes import vae

        (vae.train_vae if name == "vae" else vae.train_decoder)(settings, budget_s)
    elif name == "text":
        from actors.scenes.text_encoders import train_text

        train_text(settings, budget_s)
    elif name == "vision":
        from actors.scenes.vision import train_vision

        train_vision(settings, budget_s)
    elif name == "mllm":
        from actors.scenes.mllm import train_mllm

        train_mllm(settings, budget_s)
    elif name == "unet":
        from actors.scenes.unet import train_unet

        train_unet(settings, budget_s)
    else:
        raise ValueError(f"unknown phase {name!r}")


def export(settings: RunSettings, target: Path) -> None:
    """Write the model folders."""
    from actors.scenes.export import export_all

    export_all(settings, target)
