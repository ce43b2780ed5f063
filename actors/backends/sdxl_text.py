"""Turns texts into what a UNet is conditioned on, and remembers the latest of them.

Texts are encoded in chunks of one fixed size, filled up with empty ones, so that an embedding is
the same to the last bit alone, among others, and from memory: the memory cannot change a picture.
The price is at most seven empty texts a call: .7 TFLOP, where one picture takes 38 to 690.
Limits: remembered by text, on the device (.3 MB each at full size); not shared between replicas.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import torch

CHUNK: Final = 8
MAX_REMEMBERED: Final = 256  # 80 MB at full size; the loop repeats few texts but the negative one


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """One row per picture: embeddings [n, tokens, width] and pooled ones [n, width]."""

    embeds: torch.Tensor
    pooled: torch.Tensor

    def named(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """As arguments of a pipeline's call."""
        return {
            f"{prefix}prompt_embeds": self.embeds,
            f"{prefix}pooled_prompt_embeds": self.pooled,
        }


class PromptEncoder:
    """The text encoders of one pipeline, with a memory of the texts used last."""

    def __init__(self, pipe: Any, max_remembered: int = MAX_REMEMBERED) -> None:
        self._pipe = pipe
        self._max_remembered = max_remembered
        self._known: OrderedDict[str, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()

    def condition(
        self, prompts: list[str], negative_prompt: str, guidance_scale: float
    ) -> dict[str, torch.Tensor]:
        """The arguments by which a call of the pipeline is conditioned, negative ones only where
        it is guided: half the UNet's work is left out where they are.
        """
        conditions = self.encode(prompts)
        arguments = conditions.named()
        # A UNet with this projection takes the guidance as an input (latent consistency models).
        if guidance_scale > 1 and self._pipe.unet.config.time_cond_proj_dim is None:
            arguments |= self._negative(negative_prompt, conditions).named("negative_")
        return arguments

    def encode(self, texts: list[str]) -> Conditions:
        """One row per text."""
        rows = {text: self._known[text] for text in texts if text in self._known}
        missing = [text for text in dict.fromkeys(texts) if text not in rows]
        for start in range(0, len(missing), CHUNK):
            rows |= self._encode_chunk(missing[start : start + CHUNK])
        for text in texts:
            self._known[text] = rows[text]
            self._known.move_to_end(text)
        while len(self._known) > self._max_remembered:
            self._known.popitem(last=False)
        embeds, pooled = zip(*(rows[text] for text in texts), strict=True)
        return Conditions(embeds=torch.stack(embeds), pooled=torch.stack(pooled))

    @torch.no_grad()
    def _encode_chunk(self, texts: list[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        embeds, _, pooled, _ = self._pipe.encode_prompt(
            prompt=texts + [""] * (CHUNK - len(texts)),
            device=self._pipe.unet.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        # Copies: a slice would keep the whole chunk in memory for as long as one text is known.
        return {text: (embeds[i].clone(), pooled[i].clone()) for i, text in enumerate(texts)}

    def _negative(self, text: str, like: Conditions) -> Conditions:
        """As the pipelines have it: a model may want zeros instead of an encoded empty text."""
        if not text and self._pipe.config.force_zeros_for_empty_prompt:
            return Conditions(
                embeds=torch.zeros_like(like.embeds), pooled=torch.zeros_like(like.pooled)
            )
        return self.encode([text] * len(like.embeds))
