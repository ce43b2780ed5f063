"""Where the embedded models are and how to call them; importable without torch.

Limits: the numbers fit these models only; a full-size one wants its own steps and size.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
EMBEDDED_MODELS: dict[str, Path] = {
    "sdxl": WEIGHTS / "sdxl",
    "llava": WEIGHTS / "llava",
    "clip": WEIGHTS / "clip",
}

IMAGE_PX = 64
NUM_STEPS = 12
GUIDANCE_SCALE = 2.0
MAX_NEW_TOKENS = 48

INSTRUCTIONS: dict[str, str] = {
    "medium": "Describe the image.",
    "short": "Describe the image briefly.",
    "long": "Describe the image in detail.",
}
DEFAULT_INSTRUCTION = INSTRUCTIONS["medium"]
AUTHOR_PROMPT = "Write a description of an image."
