"""Puts a profiler around the models of an attempt, where that is asked for, and tells what came.

Limits: a replica that had fewer than `skip_calls + record_calls` calls, or died, leaves no trace. A
profile of Python, of other threads and of waiting is not torch's: cluster/profiling.md.
"""

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from actors.backends.profiling import PROFILED_BACKENDS, build_profiled
from cluster.errors import StoreError
from cluster.storage import open_store
from pipelines.attempt import Attempt

logger = logging.getLogger(__name__)

Factory = Callable[[], Any]


@contextmanager
def traced(attempt: Attempt, factories: Mapping[str, Factory]) -> Generator[dict[str, Factory]]:
    """The factories of the pools, by name, with a profiler where `profile.torch` asks for one.

    Raises:
        ValueError: `profile.path` is no place for files.
    """
    config = attempt.config.profile
    if not config.torch:
        yield dict(factories)
        return
    uri = traces_uri(attempt)
    wrapped: dict[str, Factory] = {}
    for name, factory in factories.items():
        backend = getattr(attempt.config, name).backend
        wrapped[name] = factory
        if backend in PROFILED_BACKENDS:
            wrapped[name] = partial(build_profiled, factory, name, config, uri)
        else:
            logger.warning("profile.torch: %s", nothing_to_profile(name, backend))
    try:
        yield wrapped
    finally:
        if any(wrapped[name] is not factory for name, factory in factories.items()):
            _tell(uri, config.skip_calls + config.record_calls)


def traces_uri(attempt: Attempt) -> str:
    """Where the traces of this attempt go: a folder of its own, absolute, as replicas see it."""
    path = attempt.config.profile.path
    root = attempt.store.uri.rstrip("/") + "/profiles" if path is None else open_store(path).uri
    began = datetime.fromtimestamp(attempt.started_at, UTC)
    return f"{root.rstrip('/')}/{began:%Y%m%dT%H%M%SZ}"


def nothing_to_profile(name: str, backend: str) -> str:
    """Why a backend has no trace, for the log."""
    if backend == "vllm":
        return (
            f"the {name} is vllm, whose model runs in a process of its own: nothing to profile in "
            "the replica"
        )
    return f"the {name} is {backend}, which runs no torch: nothing to profile"


def _tell(uri: str, num_calls: int) -> None:
    try:
        keys = open_store(uri).list()
    except StoreError as error:
        logger.warning("profile.torch: cannot see which traces there are: %s", error)
        return
    if keys:
        logger.info("%d traces of torch in %s: %s", len(keys), uri, ", ".join(keys))
    else:
        logger.warning(
            "profile.torch: no trace came: a replica needs %d calls (profile.skip_calls and "
            "record_calls); if it had them, its log says what failed",
            num_calls,
        )
