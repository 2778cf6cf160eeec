"""Who does the runs of a study: this process, several on this machine, or whatever else can call a function.

An executor has `map(function, items)`, a generator of (number of the item, None or what the function raised) as items
end; what the function returns is dropped, since runs go to the store, which every worker and the caller must see. An
error keeps no other item from being begun. Another one, for a cluster, needs these two names:

    class Cluster:
        alone = property(lambda self: self)      # where nothing runs beside an item that is timed

        def map(self, function, items):
            handles = {submit(function, item): number for number, item in enumerate(items)}
            for handle in as_completed(handles):
                yield handles[handle], handle.exception()

    run_study(jobs, executor=Cluster())
"""

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from analysis.errors import UsageError
from analysis.study.job import Job
from analysis.study.pool import affordable, spread, threads

Answers = Generator[tuple[int, Exception | None], None, None]


class Executor(Protocol):
    """See the module."""

    @property
    def alone(self) -> "Executor":
        """The executor for items that must have their machine to themselves."""
        ...

    def map(self, function: Callable[[Any], object], items: Sequence[Any]) -> Answers: ...


@dataclass(frozen=True)
class Here:
    """One item after another, in this process."""

    @property
    def alone(self) -> Executor:
        return self

    def map(self, function: Callable[[Any], object], items: Sequence[Any]) -> Answers:
        for number, item in enumerate(items):
            try:
                function(item)
            except Exception as error:
                yield number, error
            else:
                yield number, None


@dataclass(frozen=True)
class Local:
    """Processes on this machine; this process where there would be one alone.

    gpus: values of CUDA_VISIBLE_DEVICES, dealt out to the workers in turn, so that each sees one GPU. threads: that a
    worker starts with; torch's are those of each job (`pool.threads`).
    """

    workers: int
    gpus: tuple[str, ...] = ()
    threads: int = 1

    @property
    def alone(self) -> Executor:
        return Here()

    def map(self, function: Callable[[Any], object], items: Sequence[Any]) -> Answers:
        workers = min(self.workers, len(items))
        if workers <= 1:
            yield from Here().map(function, items)
            return
        pins = [{"CUDA_VISIBLE_DEVICES": self.gpus[n % len(self.gpus)]} if self.gpus else {} for n in range(workers)]
        yield from spread(function, items, workers=workers, threads=self.threads, environments=pins)


def local(jobs: Sequence[Job], workers: int | None = None) -> Local:
    """As many processes as suit some jobs on this machine, or `workers` of them, or ANALYSIS_WORKERS.

    One for each GPU where there are several and no job names another device; else one on an accelerator, and on the CPU
    as many as there are jobs, cores for their threads, and memory for (`pool.affordable`). Raises UsageError for an
    ANALYSIS_WORKERS that is no number.
    """
    devices, models = {job.device for job in jobs}, {job.model for job in jobs}
    workers = workers or _workers_wanted()
    if workers == 1 or len(jobs) < 2:
        return Local(1)
    most = max(map(threads, models))
    gpus = visible_gpus() if devices <= {"auto", "cuda"} else []
    if len(gpus) > 1:
        return Local(workers or len(gpus), tuple(gpus), most)
    return Local(workers or affordable(models, devices, most), threads=most)


def _workers_wanted() -> int | None:
    wanted = os.environ.get("ANALYSIS_WORKERS", "")
    if wanted and not (wanted.isdecimal() and int(wanted[:6]) > 0):
        raise UsageError(f"ANALYSIS_WORKERS must be a whole number of at least 1, got {wanted[:40]!r}")
    return int(wanted[:6]) if wanted else None


def visible_gpus() -> list[str]:
    """The CUDA devices this process may use, each as the value of CUDA_VISIBLE_DEVICES that shows it alone."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (listed or [str(number) for number in range(count)])[:count]
