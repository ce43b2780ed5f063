"""What of a repository is fetched.

Limits: one variant of all weights, or one file of weights.
"""

from dataclasses import dataclass

VARIANTS = ("", "fp16")


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Options of `pairloom models fetch`."""

    # fp16: of a diffusers pipeline the half-precision weights where it has them, half the bytes
    variant: str = ""
    # one *.safetensors file of a repository that holds many, such as a LoRA; nothing else then
    # but the card and the licence
    weights: str = ""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(
                f"field 'variant' is {self.variant!r}: must be 'fp16', or empty for the plain ones"
            )
        if self.weights and (self.variant or not self.weights.endswith(".safetensors")):
            raise ValueError(
                f"field 'weights' is {self.weights!r}: must be one *.safetensors file, without a "
                "variant"
            )
