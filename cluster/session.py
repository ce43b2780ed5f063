"""Attaches to a Ray cluster or starts one here, sets Ray's knobs once, and puts everything back.

The one module that touches process state: environment variables, `ray.init`, Ray Data's context,
Ray's loggers. Private knobs of Ray (pinned to one minor version) are all here, each with its
reason. A cluster is joined when the config, `RAY_ADDRESS` or a Ray job names one; what is joined is
never shut down, what is started here always is.

Limits: some knobs are read once, when Ray is imported or the first dataset runs, and have no effect
after that, which is why this package imports Ray inside functions only. A started cluster is this
machine alone, guarded as guard.py says; stray `ray start` clusters on the machine are joined only
by `address: auto`.
"""

import contextlib
import dataclasses
import importlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.guard import (
    LOCAL_ENVIRONMENT,
    auth_mode,
    guard_folder,
    guard_token,
    private_folder,
)
from cluster.packing import Demand, Node, check_fits

logger = logging.getLogger(__name__)

# Set only where the user has not; read by Ray at import (DATA) or by the processes it starts.
ENVIRONMENT: Mapping[str, str] = {
    # Workers start at niceness 15 by default: on a small busy machine they are starved of CPU.
    "RAY_worker_niceness": "0",
    # One idle worker per CPU before any work is known: a second of CPU each, mostly for nothing.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    # An asynchronous stage holds this many units (rows) at once in one task, instead of 4 (16):
    # a stage only waits for pools, so fewer would starve them. Read when the first dataset runs.
    "RAY_DATA_DEFAULT_ASYNC_BATCH_UDF_MAX_CONCURRENCY": "64",
    "RAY_DATA_DEFAULT_ASYNC_ROW_UDF_MAX_CONCURRENCY": "64",
    # Nothing is sent anywhere.
    "RAY_USAGE_STATS_ENABLED": "0",
    # 2.60 warns in every GPU-less actor that it will stop hiding GPUs from it; this is that future.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

# Ray Data's context for a run; the rest keeps its defaults.
DATA_SETTINGS: Mapping[str, Any] = {
    "enable_progress_bars": False,  # telemetry.Progress draws ours
    # A stage that waits for spot capacity makes no progress for hours; calls have their own timeout
    # in the pool, and a job has its deadline.
    "execution_no_progress_timeout_s": -1,
    # The default, 0, ends a run when one stage actor is lost while it starts (preempted node, OOM).
    "max_consecutive_actor_init_deaths": 5,
    # A PoolError of a stage reaches the driver as such, not as a UserCodeException.
    "raise_original_map_exception": True,
    # By default a stage's output over 1.5 x 128 MiB is cut into several blocks, and a block must
    # stay one whole unit. None: "the block size is infinite", one block comes out per block in.
    "target_max_block_size": None,
}


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """Where Ray is, or what a Ray started on this machine gets."""

    address: str | None = None
    """`host:port` or `auto`; default: RAY_ADDRESS or the surrounding Ray job, else a local Ray."""
    num_cpus: int | None = None
    """Of a local Ray; default: what the machine has. Ignored when attaching."""
    num_gpus: int | None = None
    """Of a local Ray; default: those found; more than that are logical. Ignored when attaching."""
    object_store_bytes: int | None = None
    """Of a local Ray; default: 30 % of memory."""
    has_dashboard: bool = True
    """Of a local Ray, on 127.0.0.1: shows the stages. Costs 210 MB and about a second of start."""
    can_autoscale: bool = False
    """Nodes that are missing now will be brought: no check at the start."""
    has_worker_logs: bool = False
    """Also prints what replicas and stages print (model libraries are chatty)."""

    def __post_init__(self) -> None:
        for name, least in (("num_cpus", 1), ("num_gpus", 0), ("object_store_bytes", 80 << 20)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(
                    f"field {name!r} of the session is {value}: must be at least {least}; leave it "
                    "out to take what the machine has"
                )


@dataclass(frozen=True, kw_only=True)
class SessionInfo:
    """The Ray at hand."""

    is_started_here: bool
    num_cpus: float
    num_gpus: float
    nodes: tuple[Node, ...] = ()
    dashboard_url: str = ""
    logs_path: str = ""


@contextlib.contextmanager
def session(config: SessionConfig, *, demands: Sequence[Demand] = ()) -> Generator[SessionInfo]:
    """Ray for the length of a `with` block.

    Raises:
        ValueError: the cluster cannot be reached, or `demands` do not fit on its nodes; for a local
            Ray this is known, and raised, before anything is started.
    """
    address = _address_of(config)
    with prepared_environment(is_local=address is None):
        ray: Any = importlib.import_module("ray")
        if ray.is_initialized():
            info = _describe(ray, is_started_here=False)
            check_fits(demands, info.nodes, can_autoscale=config.can_autoscale)
            with _data_settings():
                yield info
            return
        if address is None:
            planned = plan_session(config).nodes
            check_fits(demands, planned, can_autoscale=config.can_autoscale)
        try:
            with _keep_sigterm(ray):
                _connect(ray, config, address)
            info = _describe(ray, is_started_here=address is None)
            check_fits(demands, info.nodes, can_autoscale=config.can_autoscale)
            with _data_settings():
                yield info
        finally:
            ray.shutdown()  # leaves a joined cluster, ends a started one


def unwrapped(error: BaseException) -> BaseException:
    """What a task or stage really raised: Ray's wrapper has the worker's traceback as message."""
    cause = getattr(error, "cause", None)
    if not isinstance(cause, BaseException):
        return error
    if cause.args and isinstance(cause.args[0], str):
        # Ray Data appends a paragraph on its retries, which are off, to the message itself.
        cause.args = (cause.args[0].partition("\nFailed to apply UDF")[0], *cause.args[1:])
    return cause


@contextlib.contextmanager
def _keep_sigterm(ray: Any) -> Generator[None]:
    """Ray's start takes SIGTERM twice: in Python, to exit with 15 and without a word, and in C++,
    to dump the stack and abort 3 s later.

    Its processes need neither: they die with the process that started them.
    """
    utils: Any = ray._private.utils
    take = utils.set_sigterm_handler
    before = signal.getsignal(signal.SIGTERM)
    utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = take
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def prepared_environment(*, is_local: bool) -> Generator[None]:
    """`ENVIRONMENT`, and what guards a cluster started here; all is put back afterwards.

    Raises:
        ValueError: RAY_AUTH_MODE is a word that would leave that cluster open to everybody.
    """
    local = {**LOCAL_ENVIRONMENT, "RAY_TMPDIR": str(private_folder())}
    wanted = {**ENVIRONMENT, **(local if is_local else {})}
    wanted = {key: value for key, value in wanted.items() if key not in os.environ}
    if is_local:
        wanted["RAY_AUTH_MODE"] = auth_mode()
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    if "ray" in sys.modules and before.get("RAY_AUTH_MODE") != wanted.get("RAY_AUTH_MODE"):
        # Ray read its configuration at import; without this the driver would speak to its own
        # cluster without a token. Ray's own switch (authentication_token_setup) does the same.
        importlib.import_module("ray._raylet").Config.initialize("")
    _reread_place()
    if "ray.data._internal.planner.plan_udf_map_op" in sys.modules:
        logger.debug("a dataset ran before the session: its knobs of concurrency stay")
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value
        _reread_place()


def _reread_place() -> None:
    """Ray read at import whether it may leave the loopback."""
    constants: Any = sys.modules.get("ray._private.ray_constants")
    if constants is not None:
        constants.ENABLE_RAY_CLUSTER = constants.env_bool(
            constants.ENABLE_RAY_CLUSTERS_ENV_VAR, not constants.IS_WINDOWS_OR_OSX
        )


def _address_of(config: SessionConfig) -> str | None:
    if config.address:
        return config.address
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return os.environ.get("RAY_ADDRESS") or "auto"
    return os.environ.get("RAY_ADDRESS") or None


def _connect(ray: Any, config: SessionConfig, address: str | None) -> None:
    common = {"log_to_driver": config.has_worker_logs, "logging_level": logging.ERROR}
    if address is None:
        guard_token()
        guard_folder()
        ray.init(
            address="local",
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus,
            object_store_memory=config.object_store_bytes,
            include_dashboard=config.has_dashboard,
            dashboard_host="127.0.0.1",
            **common,
        )
        return
    try:
        _probe(address)
        ray.init(address=address, **common)
    except (OSError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        cause = " ".join(str(error).split())[:300]
        raise ValueError(
            f"no Ray cluster answers at address {address!r} ({cause}): correct cluster.address, "
            "RAY_ADDRESS or RAY_AUTH_TOKEN_PATH, or unset them to start Ray on this machine"
        ) from error


def _probe(address: str) -> None:
    """Fails within seconds where nobody listens: Ray itself tries for more than two minutes."""
    scheme, _, place = address.rpartition("://")
    if scheme.startswith("http"):
        raise ConnectionError("an http address is the dashboard's, for `ray job submit` only")
    if scheme:
        raise ValueError(
            f"address {address!r} is one of Ray Client, which cannot run this: stages, pools and "
            "the driver exchange object references. Give the host:port of the cluster's head, port "
            "6379 by default, on a machine of the cluster, or use `ray job submit`"
        )
    host, _, port = place.rpartition(":")
    if not port.isdecimal():
        return
    if int(port) > 65535:
        raise ValueError(f"address {address!r}: port {port} is above 65535; give host:port")
    socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()


def plan_session(config: SessionConfig) -> SessionInfo:
    """What a local Ray would have, found out without starting it."""
    num_cpus = config.num_cpus or os.cpu_count() or 1
    num_gpus = _count_gpus() if config.num_gpus is None else config.num_gpus
    return SessionInfo(
        is_started_here=True,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        nodes=(Node(num_cpus=num_cpus, num_gpus=num_gpus),),
    )


def nodes_at_hand() -> tuple[Node, ...]:
    """The living nodes of the Ray that was started or joined."""
    ray: Any = importlib.import_module("ray")
    return tuple(
        Node(
            num_cpus=node["Resources"].get("CPU", 0.0),
            num_gpus=node["Resources"].get("GPU", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    )


def _count_gpus() -> int:
    """The GPUs Ray will find here: its own detection, cut to the visible ones as Ray cuts it."""
    accelerators: Any = importlib.import_module("ray._private.accelerators")
    manager = accelerators.get_accelerator_manager_for_resource("GPU")
    num_present = manager.get_current_node_num_accelerators()
    visible = manager.get_current_process_visible_accelerator_ids()
    return num_present if visible is None else min(num_present, len(visible))


def _describe(ray: Any, *, is_started_here: bool) -> SessionInfo:
    resources: dict[str, float] = ray.cluster_resources()
    worker: Any = importlib.import_module("ray._private.worker")
    url = worker.get_dashboard_url()
    here = worker._global_node  # None inside a worker process
    return SessionInfo(
        is_started_here=is_started_here,
        num_cpus=resources.get("CPU", 0.0),
        num_gpus=resources.get("GPU", 0.0),
        nodes=nodes_at_hand(),
        dashboard_url=f"http://{url}" if url else "",
        logs_path=here.get_logs_dir_path() if here is not None else "",
    )


@contextlib.contextmanager
def _data_settings() -> Generator[None]:
    data: Any = importlib.import_module("ray.data")
    # Warns once per process that its bars are off; log_once lets us be first.
    importlib.import_module("ray.util.debug").log_once("ray_data_progress_manager_disabled")
    context = data.DataContext.get_current().copy()
    for name, value in DATA_SETTINGS.items():
        assert hasattr(context, name), f"this Ray has no DataContext.{name}"
        setattr(context, name, value)
    # It told every run of 30 s that its stages asked for no memory; a unit's size is in the plan.
    detectors = dataclasses.replace(context.issue_detectors_config, detectors=[])
    context.issue_detectors_config = detectors
    with data.DataContext.current(context), _warnings_only(logging.getLogger("ray.data")):
        yield


@contextlib.contextmanager
def _warnings_only(chatty: logging.Logger) -> Generator[None]:
    """Cuts a logger's console output to warnings; Ray's own log files still get everything.

    Errors too: Ray Data prints three stack traces of an exception that it then raises anyway.
    """

    def is_warning(record: logging.LogRecord) -> bool:
        return record.levelno == logging.WARNING

    console: Any = importlib.import_module("ray._private.log").PlainRayHandler
    handlers = [h for h in chatty.handlers if isinstance(h, console)]  # and no handler of others
    for handler in handlers:
        handler.addFilter(is_warning)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_warning)
