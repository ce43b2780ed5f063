"""Records what a replica's torch does in a few of its calls, as a trace for chrome://tracing.

A profiled task is the task, with torch's profiler around some calls of its model. The trace is
written and stored beside the model, on the thread that finishes batches, and before that batch is
answered: a run cannot end in between. What goes wrong with a trace is logged and harms no row.

Limits: sees the torch of its own process: of an engine that works elsewhere (vLLM), or without
torch (`simulated`), there is nothing to see. Preparing and finishing a batch run on other threads
and are not in the trace. While it records, a call takes longer: no time to measure rates.
"""

import logging
import os
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.dispatch import BatchFunction, BatchSteps, Row
from cluster.storage import open_store

logger = logging.getLogger(__name__)

# Those whose model runs in the replica's own torch.
PROFILED_BACKENDS = ("sdxl", "hf_mllm", "clip")


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """What is recorded of where a run's time goes; the pairs are the same."""

    torch: bool = False  # store a trace of torch's profiler for each replica
    skip_calls: int = 2  # of each replica, at its start: the first ones compile and warm up
    record_calls: int = 3  # after those; a call of the embedded generator, 12 steps, is 1 MB
    path: str | None = None  # folder or URI for the traces; null: profiles/ in the output

    def __post_init__(self) -> None:
        for name, least, most in (("skip_calls", 0, 10_000), ("record_calls", 1, 100)):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"field {name!r} is {value}: must be from {least} to {most}")


@dataclass(frozen=True)
class _Worked:
    """What the model made of a batch, and the profiler if this was the last call it recorded."""

    worked: Any
    profiler: Any = None


class ProfiledTask:
    """A task in steps (cluster's BatchSteps) whose `work` is recorded in some calls."""

    def __init__(self, task: BatchFunction, name: str, config: ProfileConfig, uri: str) -> None:
        self._task = task
        self._steps = task if isinstance(task, BatchSteps) else None
        self._name = name
        self._config = config
        self._uri = uri
        self._num_calls = 0
        self._profiler: Any = None

    def prepare(self, rows: list[Row]) -> Any:
        return self._steps.prepare(rows) if self._steps else rows

    def work(self, prepared: Any) -> _Worked:
        """One call of the model; the profiler lives on this thread, which alone it sees."""
        self._num_calls += 1
        if self._num_calls == self._config.skip_calls + 1:
            self._profiler = self._guard("start", _start)
        try:
            worked = self._work(prepared)
        except BaseException:
            self._end()  # without a trace: one that ends in an error says nothing of the others
            raise
        if self._num_calls < self._config.skip_calls + self._config.record_calls:
            return _Worked(worked)
        return _Worked(worked, self._end())

    def finish(self, worked: _Worked) -> list[Row]:
        rows = self._steps.finish(worked.worked) if self._steps else worked.worked
        if worked.profiler is not None:
            self._guard("store", lambda: self._store(worked.profiler))
        return rows

    def _work(self, prepared: Any) -> Any:
        work = self._steps.work if self._steps else self._task
        if self._profiler is None:
            return work(prepared)
        from torch.profiler import record_function

        with record_function(f"{self._name} call {self._num_calls}"):
            return work(prepared)

    def _end(self) -> Any:
        """Stops what records, if anything does, and hands it over."""
        profiler, self._profiler = self._profiler, None
        return profiler and self._guard("stop", lambda: _stopped(profiler))

    def _store(self, profiler: Any) -> None:
        key = f"{self._name}-{socket.gethostname()}-{os.getpid()}.json.gz"
        with tempfile.TemporaryDirectory(prefix="trace-") as folder:
            path = Path(folder) / "trace.json.gz"
            profiler.export_chrome_trace(str(path))
            open_store(self._uri).put(key, path.read_bytes())
        logger.info("%s: a trace of torch is at %s/%s", self._name, self._uri, key)

    def _guard(self, verb: str, step: Callable[[], Any]) -> Any:
        """What a step of the profiler returns, or None, and a word, where it failed."""
        try:
            return step()
        except Exception as error:  # whatever it is: a run is worth more than a trace of it
            logger.warning("%s: no trace of torch, it did not %s: %r", self._name, verb, error)
            return None


def _start() -> Any:
    import torch
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    profiler = profile(activities=activities, record_shapes=True)
    profiler.start()
    return profiler


def _stopped(profiler: Any) -> Any:
    profiler.stop()
    return profiler


def build_profiled(
    factory: Callable[[], BatchFunction], name: str, config: ProfileConfig, uri: str
) -> ProfiledTask:
    """Builds a task with a profiler around its model; traces go to the folder or URI `uri`."""
    return ProfiledTask(factory(), name, config, uri)
