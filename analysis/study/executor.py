"""Who does the runs of a study: this process, several on this machine, a cluster, or whatever else can call a function.

An executor has `map(function, items)`, a generator of (number of the item, None or what the function raised) as items
end; what the function returns is dropped, since runs go to the store, which every worker and the caller must see. An
error keeps no other item from being begun. `chosen` makes the one that ANALYSIS_EXECUTOR names. Another one needs these
two names, and `cpus` where its workers have other cores than this machine:

    class Cluster:
        alone = property(lambda self: self)      # where nothing runs beside an item that is timed

        def map(self, function, items):
            handles = {submit(function, item): number for number, item in enumerate(items)}
            for handle in as_completed(handles):
                yield handles[handle], handle.exception()

    run_study(jobs, executor=Cluster())
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from analysis.errors import UsageError, quoted, suggest
from analysis.study.job import Job
from analysis.study.pool import Answers, affordable, spread, threads
from analysis.study.ray_cluster import Ray
from analysis.study.slurm import Slurm

KINDS: dict[str, type[Slurm] | type[Ray]] = {"slurm": Slurm, "ray": Ray}
FORM = re.compile(r"(?P<kind>[\w-]+)(\[(?P<settings>[^\[\]]*)\])?")
VARIABLE = "ANALYSIS_EXECUTOR"


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


def chosen(text: str | None = None) -> Executor | None:
    """The executor that a text names, or ANALYSIS_EXECUTOR; None for `local`, which depends on the jobs.

    text: `local`, `slurm` or `ray`, the latter two with settings where wanted, as in
    `slurm[partition=gpu,hours=8,memory=64,gpus=1]`: the fields of `Slurm` and `Ray`.

    Raises UsageError for what is none, and where its package is missing.
    """
    text = os.environ.get(VARIABLE, "") if text is None else text
    read = FORM.fullmatch(text.strip() or "local")
    if read is None:
        raise UsageError(f"executor {quoted(text)}: write local, slurm or ray, as in slurm[partition=gpu,hours=8]")
    kind, settings = read["kind"], read["settings"]
    if kind == "local":
        if settings is not None:
            raise UsageError(
                f"executor {quoted(text)}: local takes no settings; ANALYSIS_WORKERS says how many workers"
            )
        return None
    if kind not in KINDS:
        raise UsageError(f"executor {quoted(kind)}: there is none; {suggest(kind, ['local', *KINDS])}")
    return KINDS[kind](**_settings(kind, settings or ""))


def _settings(kind: str, text: str) -> dict[str, Any]:
    """The settings of an executor, of the types that its fields have."""
    known: dict[str, Any] = {
        field.name: type(field.default) for field in fields(KINDS[kind]) if type(field.default) is not bool
    }
    given: dict[str, Any] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not value:
            raise UsageError(f"executor {kind}: {quoted(part)} is no setting; write NAME=VALUE")
        if name not in known:
            raise UsageError(f"executor {kind}: there is no setting {quoted(name)}; {suggest(name, known)}")
        if name in given:
            raise UsageError(f"executor {kind}: {name} is set twice")
        try:
            given[name] = known[name](value)
        except ValueError:
            kinds = {int: "a whole number", float: "a number"}
            raise UsageError(f"executor {kind}: {name} must be {kinds[known[name]]}, got {quoted(value)}") from None
    return given


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
