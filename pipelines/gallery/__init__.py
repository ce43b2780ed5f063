"""A run as a static site: film strips of its chains, search, dead letters, and the run report."""

from pipelines.gallery.build import Built, build_gallery, describe_built
from pipelines.gallery.config import GalleryConfig
from pipelines.gallery.verb import run_verb

__all__ = ["Built", "GalleryConfig", "build_gallery", "describe_built", "run_verb"]
