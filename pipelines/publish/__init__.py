"""Writes the committed pairs of a run as a dataset to train on: shards, card, manifest."""

from pipelines.publish.config import PublishConfig
from pipelines.publish.publish import Published, describe_published, publish

__all__ = ["PublishConfig", "Published", "describe_published", "publish"]
