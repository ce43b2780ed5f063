"""What scores the pairs: a CLIP, and models that look at the picture alone.

Limits: keys, checks and identities only; nothing here imports torch. Whether a classifier knows the
label that is asked for shows when it is loaded.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from actors.backends.simulated import SimulatedConfig, simulated_identity
from actors.caption_hygiene import HygieneConfig
from actors.models import (
    ModelIdentity,
    ModelSource,
    check_digest,
    digest_file,
    fetch_model,
    identify_model,
    pin_model,
    resolve_model,
    resolve_weights,
)
from actors.parts import combine_digests, combine_identities, digest_fetched, identify_file
from actors.validation import DEVICES, DTYPES, check_choice

BACKENDS: Final = ("none", "clip", "simulated")


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """An image classifier of transformers, of which the probability of one label is kept."""

    model: str = ""  # a folder, or a hub id owner/name[@revision]; empty: nobody is asked
    label: str = ""  # as the model's config.json spells it

    def __post_init__(self) -> None:
        if self.model == "embedded":
            raise ValueError("field 'model' is 'embedded': no classifier is shipped; give a folder")
        if bool(self.model) != bool(self.label):
            raise ValueError(
                f"field 'label' is {self.label!r} and 'model' {self.model!r}: give both, or neither"
            )


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """Who scores the pairs of a run. What is configured must answer: a picture that a safety
    classifier fails on becomes an error row, never a pair that nobody has checked."""

    # none: no scores; clip: a CLIPModel of transformers; simulated: noise, no model
    backend: str = "none"
    model: str = "embedded"  # embedded, a folder, or a hub id owner/name[@revision]
    dtype: str = "float32"  # of the CLIP and the classifiers; in bfloat16 scores have two digits
    device: str = "auto"  # auto: the GPU if torch sees one, else the CPU
    # a safetensors file: linear layers `<number>.weight` and `<number>.bias`, applied in order to
    # the image's vector, of which the last gives one number (LAION's aesthetic predictors)
    aesthetic: str = ""
    safety: ClassifierConfig = field(default_factory=ClassifierConfig)  # fills punsafe
    watermark: ClassifierConfig = field(default_factory=ClassifierConfig)  # fills pwatermark
    hygiene: HygieneConfig = field(default_factory=HygieneConfig)  # fills caption_flags
    simulated: SimulatedConfig = field(default_factory=SimulatedConfig)  # for backend: simulated

    def __post_init__(self) -> None:
        check_choice("backend", self.backend, BACKENDS)
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("device", self.device, DEVICES)
        if self.backend != "clip" and self.heads():
            raise ValueError(
                f"field 'backend' is {self.backend!r}: {', '.join(self.heads())} would not be "
                "asked; take backend 'clip', or remove them"
            )

    @property
    def is_on(self) -> bool:
        """Whether pairs are scored at all."""
        return self.backend != "none"

    def heads(self) -> tuple[str, ...]:
        """The columns of further models that every pair must get."""
        asked = {
            "aesthetic": self.aesthetic,
            "punsafe": self.safety.model,
            "pwatermark": self.watermark.model,
        }
        return tuple(name for name, model in asked.items() if model)

    def classifiers(self) -> dict[str, ClassifierConfig]:
        """The classifiers that are asked, by their column."""
        both = {"punsafe": self.safety, "pwatermark": self.watermark}
        return {name: one for name, one in both.items() if one.model}

    def check_files(self) -> None:
        """Raises ValueError where a folder or file is missing or may not be loaded; in ms."""
        if self.backend == "clip":
            self._sources()
            if self.aesthetic:
                resolve_weights("aesthetic", self.aesthetic)

    def identity(self) -> ModelIdentity:
        """What the record says of the models; reads every byte of local folders."""
        if self.backend == "simulated":
            return simulated_identity("score")
        parts = [identify_model(source) for source in self._sources()]
        if self.aesthetic:
            parts.append(identify_file(resolve_weights("aesthetic", self.aesthetic)))
        return combine_identities(parts)

    def pinned(self, identity: ModelIdentity) -> Self:
        """This config with the commits of `identity`, so that a hub model cannot move meanwhile."""
        if not self.is_on:
            return self
        parts = iter(identity.parts or (identity,))
        base = next(parts)
        pins = {
            name: replace(one, model=pin_model(one.model, next(parts)))
            for name, one in self.classifiers().items()
        }
        return replace(
            self,
            model=pin_model(self.model, base),
            safety=pins.get("punsafe", self.safety),
            watermark=pins.get("pwatermark", self.watermark),
        )

    def params(self) -> dict[str, Any]:
        """What, besides the models, decides the scores."""
        labels = {name: one.label for name, one in self.classifiers().items()}
        own = {"backend": self.backend, "dtype": self.dtype, "labels": labels}
        return own | {"hygiene": self.hygiene.params()}

    def fetch(self, expected_digest: str | None) -> "ScorerFiles":
        """The files to load; downloads what is not cached.

        Raises:
            ValueError: they are not what the identity with `expected_digest` was made of.
        """
        fetched = [fetch_model(source) for source in self._sources()]
        digests = [digest_fetched(*one) for one in fetched] if expected_digest else []
        aesthetic = resolve_weights("aesthetic", self.aesthetic) if self.aesthetic else None
        if expected_digest is not None:
            digests += [f"sha256:{digest_file(aesthetic)}"] if aesthetic else []
            check_digest(fetched[0][0], combine_digests(digests), expected_digest)
        folders = dict(zip(self.classifiers(), [folder for folder, _ in fetched[1:]], strict=True))
        return ScorerFiles(clip=fetched[0][0], classifiers=folders, aesthetic=aesthetic)

    def _sources(self) -> list[ModelSource]:
        models = [self.model, *(one.model for one in self.classifiers().values())]
        return [resolve_model(model, "clip") for model in models]


@dataclass(frozen=True, kw_only=True)
class ScorerFiles:
    """Where the parts of a scorer lie once they are here; classifiers by their column."""

    clip: Path
    classifiers: dict[str, Path]
    aesthetic: Path | None
