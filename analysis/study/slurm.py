"""Runs as jobs of a SLURM cluster, by submitit (the extra `slurm`)."""

import math
import os
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from analysis.errors import AnalysisError, UsageError, first_line
from analysis.study import remote
from analysis.study.pool import Answers, WorkerDied


@dataclass(frozen=True)
class Slurm:
    """Every item a job of its own, at most `jobs` of them queued or running.

    hours: time limit. A job that reaches it, or is preempted, is queued again and goes on after its last finished unit;
    one that reaches it twice is an error. memory: of a job, in GB. cpus: of a job, and the most threads it computes
    with. gpus: of a job. Options that are none here are given to sbatch by its own variables, such as SBATCH_QOS or
    SBATCH_CONSTRAINT. where: "slurm", or "local" for processes of this machine, to try out what a cluster would do.

    Raises UsageError where submitit or SLURM is missing, or for a wrong number.
    """

    partition: str = ""
    account: str = ""
    hours: float = field(default=4.0, metadata={"least": 0.02})
    memory: float = field(default=16.0, metadata={"least": 0.1})
    cpus: int = field(default=1, metadata={"least": 1})
    gpus: int = field(default=0, metadata={"least": 0})
    jobs: int = field(default=16, metadata={"least": 1})
    where: str = "slurm"
    exclusive: bool = False

    def __post_init__(self) -> None:
        remote.check_settings("slurm", self, "submitit")
        if self.where not in ("slurm", "local"):
            raise UsageError(f"executor slurm: where must be slurm or local, got {self.where!r}")
        if self.where == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
            raise UsageError(
                "executor slurm: this machine has no sbatch and srun; start on a node of the cluster, or try"
                " slurm[where=local]"
            )

    @property
    def alone(self) -> "Slurm":
        """One job at a time, on a node of its own."""
        return replace(self, jobs=1, exclusive=True)

    def map(self, function: Callable[[Any], object], items: Sequence[Any]) -> Answers:
        """As `Executor.map`."""
        desk = remote.desk()
        queue = _Queue(self._submitter(desk), self)
        yield from remote.spread(queue, function, items, desk=desk, threads=self.cpus, at_once=self.jobs)

    def _submitter(self, desk: Path) -> Any:
        import submitit

        executor = submitit.AutoExecutor(folder=desk, cluster=self.where, slurm_max_num_timeout=1)
        executor.update_parameters(
            name="analysis",
            timeout_min=math.ceil(60 * self.hours),
            mem_gb=self.memory,
            cpus_per_task=self.cpus,
            gpus_per_node=self.gpus or None,
            slurm_partition=self.partition or None,
            slurm_account=self.account or None,
            slurm_exclusive=self.exclusive or None,
        )
        return executor


@dataclass(frozen=True)
class _Queue:
    """A `remote.Cluster`."""

    submitter: Any
    settings: Slurm

    def submit(self, errand: remote.Errand) -> Any:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        search = os.pathsep.join(os.path.abspath(place) for place in sys.path)
        try:
            with remote.environment(dict(errand.environment) | {"PYTHONPATH": search}):  # which the job inherits
                return self.submitter.submit(errand)
        except (FailedJobError, FailedSubmissionError) as error:
            raise UsageError(f"executor slurm: sbatch refuses the job: {first_line(error)}") from error

    def ended(self, handles: Collection[Any]) -> list[Any]:
        return [handle for handle in handles if handle.done()]

    def outcome(self, handle: Any) -> bytes | None:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        printed = f"what it printed: {handle.paths.stderr}"
        try:
            return handle.result()
        except FailedJobError as error:
            if "timed-out too many times" in str(error):
                raise AnalysisError(
                    f"its job {handle.job_id} reached its time limit of {self.settings.hours:g} hours twice; the units"
                    f" it has finished are kept: run again with more, slurm[hours={4 * self.settings.hours:g}];"
                    f" {printed}"
                ) from error
            last = str(error).partition("-" * 22 + "\n")[2].partition("\n" + "-" * 22)[0].strip().splitlines()
            raise AnalysisError(
                f"its job {handle.job_id} could not begin: {last[-1] if last else first_line(error)}; {printed}"
            ) from error
        except UncompletedJobError as error:
            raise WorkerDied(
                f"its job {handle.job_id} ended without an answer (state {handle.state}), as when memory runs out or a"
                f" node fails; finished runs are stored and this one goes on where it stopped: run again, with"
                f" slurm[memory={2 * self.settings.memory:g}] for instance; {printed}"
            ) from error

    def cancel(self, handle: Any) -> None:
        handle.cancel(check=False)
