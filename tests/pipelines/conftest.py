"""A local Ray, for the few parts of this folder that need a real one."""

from run_fixtures import local_ray

__all__ = ["local_ray"]
