"""A local Ray, for the few parts of this folder that need a real one, and configs."""

from run_fixtures import local_ray, make_config, seed_file

__all__ = ["local_ray", "make_config", "seed_file"]
