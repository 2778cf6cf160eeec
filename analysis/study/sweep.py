"""Many runs, each done once: jobs in, one table per kind of record out.

    jobs = grid(model="lab", recipes=["wanda-50% LR", "wanda-50% BR"], samples=[32, 256], seeds=[0, 1, 2],
                calibration="lab:mixed", held_out={"stories": "lab:stories"}, held_out_samples=64, length=128)
    study = run_study(jobs)
    study.blocks      # the job's columns, then block, split, kind, error, relative_error

What is in the store is read back without loading torch; an interrupted study goes on where it stopped. Who does the
others is an executor's business (`study/executor.py`); what it has done is read from the store, and never done again
here.
"""

import logging
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

from analysis.errors import StoreError, UsageError
from analysis.progress import bar
from analysis.study.executor import Executor, Here, Local, chosen, local
from analysis.study.job import Contents, Job
from analysis.study.pool import threads
from analysis.study.remote import work_elsewhere
from analysis.study.results import Study, gather
from analysis.study.run import named, process_bench, work
from analysis.study.store import RunFolder, StoredRun

PATIENCE = 10.0  # seconds until a disk shared by many machines shows here what another one has written

log = logging.getLogger(__name__)


def run_study(
    jobs: Iterable[Job], *, progress: bool = True, workers: int | None = None, executor: Executor | None = None
) -> Study:
    """Run what the store lacks and read everything back as one table of each kind, in the order of the jobs.

    progress: one bar over the jobs to be run. workers: processes on this machine that share the jobs; 1 runs them in
    this process, None as many as suit it (`executor.local`). Each job has as many threads as its model is worth
    (`pool.threads`), or began with, however many workers there are, so that all give the same bits. executor: does the
    jobs instead, on other machines for example; where neither is given, the one that ANALYSIS_EXECUTOR names
    (`executor.chosen`). Jobs that time a model (`shrink`) come first and alone. Equal jobs are
    one.

    Raises UsageError where there is no job, StoreError for a run that was done where this process cannot read it, and
    the AnalysisError of a job that fails, with the job's name in front (of the first such job in order, once all the
    others are done); what is finished stays stored.
    """
    given: list[Any] = [jobs] if isinstance(jobs, Job) else list(jobs) if isinstance(jobs, Iterable) else [jobs]
    if strange := [job for job in given if not isinstance(job, Job)]:
        raise UsageError(f"study: jobs must be Jobs, such as `grid` makes, got {strange[0]!r}")
    unique = tuple(dict.fromkeys(given))
    if not unique:
        raise UsageError("study: no jobs to run; give at least one model, recipe, number of samples and seed")
    if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
        raise UsageError(
            "study: workers must be a whole number of at least 1, or None for as many as fit this machine, got"
            f" {workers!r}"
        )
    if workers is not None and executor is not None:
        raise UsageError("study: give workers or an executor, not both")
    contents = Contents()
    folders: dict[Job, RunFolder] = {}
    runs: dict[Job, StoredRun] = {}
    for job in unique:
        with named(job):
            folders[job] = RunFolder(job.digest(contents))
            if (stored := folders[job].read()) is not None:
                runs[job] = stored
    models = list(dict.fromkeys(job.model for job in unique))
    missing = sorted(
        (job for job in unique if job not in runs), key=lambda job: models.index(job.model)
    )  # each model is loaded once
    if missing and workers is None and executor is None:
        executor = chosen()
    description = f"study: {len(missing)} of {len(unique)} runs to do"
    try:
        with closing(_run_missing(missing, folders, workers, executor)) as done:
            for job, run in (
                bar(done, total=len(missing), desc=description, unit="run") if progress and missing else done
            ):
                runs[job] = run
    except KeyboardInterrupt:
        log.warning(
            "study interrupted: %d of %d runs are stored, the same call goes on from there", len(runs), len(unique)
        )
        raise
    finally:
        process_bench.cache_clear()
    return gather({job: (folders[job].name, runs[job]) for job in unique})


def _run_missing(
    jobs: Sequence[Job], folders: Mapping[Job, RunFolder], workers: int | None, executor: Executor | None
) -> Generator[tuple[Job, StoredRun], None, None]:
    """Every job as it ends; those that time a model before the others, with nothing beside them."""
    timed, others = ([job for job in jobs if job.shrink is alone] for alone in (True, False))
    if timed:
        yield from _run_by(Here() if executor is None else executor.alone, timed, folders)
        process_bench.cache_clear()  # its model is let go of before workers load theirs
    if others:
        yield from _run_by(executor or local(others, workers), others, folders)


def _run_by(
    executor: Executor, jobs: Sequence[Job], folders: Mapping[Job, RunFolder]
) -> Generator[tuple[Job, StoredRun], None, None]:
    """Every job as the executor ends it, read from the store."""
    failures: dict[int, Exception] = {}
    answered: set[int] = set()
    here, cpus = isinstance(executor, Here | Local), getattr(executor, "cpus", None)
    items = [(job, folders[job], threads(job.model, cpus)) for job in jobs]
    with closing(executor.map(work if here else work_elsewhere, items)) as answers:
        for number, error in answers:
            answered.add(number)
            if error is not None:
                failures[number] = error
                continue
            job = jobs[number]
            with named(job):
                run = _stored(folders[job])
            yield job, run
    if failures:
        first, *others = sorted(failures)
        if others:
            log.error(
                "%d more of %d jobs failed: %s", len(others), len(jobs), "; ".join(str(jobs[n]) for n in others[:3])
            )
        with named(jobs[first]):
            raise failures[first]
    if left := [job for number, job in enumerate(jobs) if number not in answered]:
        raise StoreError(f"study: the executor ended without an answer for {len(left)} jobs, the first is {left[0]}")


def _stored(folder: RunFolder) -> StoredRun:
    """The run that a worker says is finished; never done again here."""
    run, until = folder.read(), time.monotonic() + PATIENCE
    while run is None and time.monotonic() < until:
        time.sleep(min(1.0, PATIENCE))
        run = folder.read()
    if run is None:
        raise StoreError(
            f"its worker ended without an error, and {folder.path} holds no finished run; give every worker the same"
            " ANALYSIS_HOME, on a disk that all of them see"
        )
    return run
