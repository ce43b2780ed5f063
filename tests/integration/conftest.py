"""Whole runs share one local Ray."""

from run_fixtures import local_ray, make_config, seed_file

__all__ = ["local_ray", "make_config", "seed_file"]
