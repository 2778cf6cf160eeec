"""Runs as tasks of a Ray cluster (the extra `ray`)."""

import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from analysis import storage
from analysis.errors import AnalysisError, UsageError, first_line
from analysis.study import remote
from analysis.study.pool import Answers, WorkerDied, cores

LOGS = "/tmp/ray/session_latest/logs"


@dataclass(frozen=True)
class Ray:
    """Every item a task of its own, as many at a time as the cluster has room for, at most `jobs`.

    address: of a running cluster, "auto" for the one this machine belongs to; else RAY_ADDRESS; else one of this
    machine alone is started, and ended. cpus: of a task, and the most threads it computes with. gpus: of a task, also a
    share of one. store: most MB of this machine's memory for Ray's object store, where it is started here; nothing but
    the description of a run passes through it.

    Raises UsageError where ray is missing, or for a wrong number.
    """

    address: str = ""
    cpus: int = field(default=1, metadata={"least": 1})
    gpus: float = field(default=0.0, metadata={"least": 0})
    jobs: int = field(default=64, metadata={"least": 1})
    store: int = field(default=100, metadata={"least": 80})

    def __post_init__(self) -> None:
        remote.check_settings("ray", self, "ray")
        if not self._running() and self.cpus > cores():
            raise UsageError(f"executor ray: a task cannot have {self.cpus} of this machine's {cores()} cores")

    @property
    def alone(self) -> "Ray":
        """One task at a time."""
        return replace(self, jobs=1)

    def map(self, function: Callable[[Any], object], items: Sequence[Any]) -> Answers:
        """As `Executor.map`."""
        desk = remote.desk()
        with self._connected(desk):
            tasks = _Tasks(self.cpus, self.gpus)
            yield from remote.spread(tasks, function, items, desk=desk, threads=self.cpus, at_once=self.jobs)

    def _running(self) -> str:
        return self.address or os.environ.get("RAY_ADDRESS", "")

    @contextmanager
    def _connected(self, desk: Path) -> Iterator[None]:
        import ray

        if ray.is_initialized():
            yield
            return
        address = self._running()
        own = dict(num_cpus=cores(), object_store_memory=self.store * 10**6, include_dashboard=False)
        try:
            with nullcontext() if address else remote.environment(_quick(desk)):
                ray.init(address=address or "local", logging_level=logging.ERROR, **({} if address else own))
        except Exception as error:  # Ray raises plain ones where a machine is too busy to start it in time
            ray.shutdown()
            shutil.rmtree(desk, ignore_errors=True)
            where = f"the cluster at {address}" if address else "a cluster on this machine"
            busy = "" if address else f"; {LOGS} may say more; try again when the machine is less busy"
            raise AnalysisError(f"executor ray: {where} cannot be had: {first_line(error)}{busy}") from error
        try:
            yield
        finally:
            ray.shutdown()


def _quick(desk: Path) -> dict[str, str]:
    """The environment of Ray's own processes, which have fifteen seconds to start: without `rfc3987_syntax`, that comes
    with Jupyter, is imported by Ray's jsonschema wherever it is found, and then builds a grammar for seconds.
    """
    above = desk / "above"
    above.mkdir()
    storage.write(above / "rfc3987_syntax.py", "raise ImportError\n")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(above), os.environ.get("PYTHONPATH", "")]))}


class _Tasks:
    """A `remote.Cluster`. Who dies is tried once more by `remote.spread`, not by Ray, whose own count has no end where
    memory runs out.
    """

    def __init__(self, cpus: int, gpus: float) -> None:
        import ray

        self.ray = ray
        self.remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_do)

    def submit(self, errand: remote.Errand) -> Any:
        return self.remote.remote(errand)

    def ended(self, handles: Collection[Any]) -> list[Any]:
        return self.ray.wait(list(handles), num_returns=len(handles), timeout=0)[0]

    def outcome(self, handle: Any) -> bytes | None:
        try:
            return self.ray.get(handle)
        except self.ray.exceptions.RayTaskError as error:
            lines = str(error).strip().splitlines()
            raise AnalysisError(f"its task could not begin: {lines[-1] if lines else type(error).__name__}") from error
        except self.ray.exceptions.RayError as error:
            raise WorkerDied(
                f"its worker process died ({type(error).__name__}: {first_line(error)}); finished runs are stored and"
                " this one goes on where it stopped: run again, with fewer at once, ray[jobs=2], if memory ran out"
            ) from error

    def cancel(self, handle: Any) -> None:
        self.ray.cancel(handle, force=True)


def _do(errand: remote.Errand) -> bytes | None:
    return errand()
