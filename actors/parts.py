"""Models made of several: one identity and one digest that every part's bytes count in.

Limits: the first part is the base, whose revision is the model's; the order of parts is the
caller's, and another order is another model.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from actors.models import ModelIdentity, digest_file, digest_folder, read_licence


def combine_identities(parts: Sequence[ModelIdentity]) -> ModelIdentity:
    """What the record says of a model made of several; of one alone it is that one's."""
    if len(parts) == 1:
        return parts[0]
    return ModelIdentity(
        id=" + ".join(part.id for part in parts),
        revision=parts[0].revision,
        digest=combine_digests([part.digest or part.id for part in parts]),
        licence=", ".join(dict.fromkeys(part.licence for part in parts)),
        parts=tuple(parts),
    )


def combine_digests(digests: Sequence[str]) -> str:
    """One digest of several, in order; that of one alone is its own."""
    if len(digests) == 1:
        return digests[0]
    return f"sha256:{hashlib.sha256(json.dumps(list(digests)).encode()).hexdigest()}"


def digest_fetched(folder: Path, commit: str | None) -> str:
    """The digest of what `fetch_model` returned, as the identity of that model has it."""
    return f"git:{commit}" if commit else digest_folder(folder)


def identify_file(file: Path) -> ModelIdentity:
    """What the record says of one safetensors file."""
    return ModelIdentity(
        id=file.stem,
        revision=None,
        digest=f"sha256:{digest_file(file)}",
        licence=read_licence(file.parent),
    )
