"""One local Ray for all tests of this folder that need a real one: 2 CPUs, 4 logical GPUs."""

from collections.abc import Iterator

import pytest

from cluster.session import SessionConfig, SessionInfo, session

LOCAL_RAY = SessionConfig(num_cpus=2, num_gpus=4, has_dashboard=False, object_store_bytes=256 << 20)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[SessionInfo]:
    with session(LOCAL_RAY) as info:
        yield info
