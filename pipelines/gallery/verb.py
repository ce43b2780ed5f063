"""What the words of `pairloom gallery` say: a place, and keys of its config.

Limits: a DEST with a `=` in it is taken for a key; write it as a URI, file:///a=b.
"""

from cluster import config as config_files
from pipelines.gallery.build import Built, build_gallery
from pipelines.gallery.config import GalleryConfig


def run_verb(output: str, words: list[str], *, is_following: bool) -> Built:
    """Builds the gallery that the words ask for.

    Raises:
        ValueError: two places, or a key that is not known; as `build_gallery`.
    """
    places = [word for word in words if _is_place(word)]
    if len(places) > 1:
        raise ValueError(f"{places} are several places: give one DEST for the gallery")
    keys = [word for word in words if not _is_place(word)]
    config = config_files.from_dict(GalleryConfig, {}, "of the gallery", keys)
    dest = places[0] if places else None
    return build_gallery(output, dest, config, is_following=is_following)


def _is_place(word: str) -> bool:
    return "=" not in word or "://" in word
