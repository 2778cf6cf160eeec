"""Items done on other machines: what travels to a worker there, and one loop over whatever cluster it is.

An errand is one item with all that a process elsewhere needs in order to do it as the caller would: the caller's
folders, its threads, the modules of words from outside the package. `spread` submits errands to a cluster, a few lines
for each kind (`slurm.py`, `ray_cluster.py`), and tries those once more whose process died. No torch.
"""

import logging
import math
import os
import pickle
import shutil
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from analysis import paths, storage
from analysis.errors import AnalysisError, StoreError, UsageError, count_problem, first_line, quoted
from analysis.study.job import Contents, Job
from analysis.study.pool import Answers, WorkerDied, portable, registering, worker_environment
from analysis.study.run import work
from analysis.study.store import RunFolder

log = logging.getLogger(__name__)

POLL = 1.0  # seconds between two looks at what has ended


@dataclass(frozen=True)
class Errand:
    """One item to be done in another process, which calls this. Answers None, or a pickled error with its traceback.

    call: (function, item), pickled. folder: where the caller works, so that relative paths mean the same. mark: a file
    of the caller's in its ANALYSIS_HOME, whose absence shows that the worker sees another disk. search: the caller's
    `sys.path`. modules: to be imported first. environment: to be set before torch loads.
    """

    call: bytes
    folder: str
    mark: str
    search: tuple[str, ...]
    modules: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]

    def __call__(self) -> bytes | None:
        try:
            self._settle()
            function, item = pickle.loads(self.call)
            function(item)
        except Exception as error:
            if type(error).__module__.startswith("submitit."):  # the time limit, told from a signal's handler
                raise
            return pickle.dumps(portable(error, f"on {socket.gethostname()}"))
        return None

    def checkpoint(self) -> Any:
        """What submitit queues again when a job has to stop: the same, which goes on from the run's checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _settle(self) -> None:
        os.environ.pop("ANALYSIS_PROGRESS_FILE", None)
        os.environ.update(dict(self.environment))
        sys.path.extend(place for place in self.search if place not in sys.path)
        if not os.path.isfile(self.mark):
            raise StoreError(
                f"{socket.gethostname()} does not see {self.mark}, which the caller has written: nothing was run; set"
                " ANALYSIS_HOME to a folder on a disk that all machines share"
            )
        with storage.explained(f"{socket.gethostname()}, the caller's working folder", "start on a disk all share"):
            os.chdir(self.folder)
        for module in self.modules:
            try:
                import_module(module)
            except ImportError as error:
                raise UsageError(
                    f"{socket.gethostname()} cannot import {module}, which registers words ({first_line(error)});"
                    " put it where every machine finds it"
                ) from error


class Cluster(Protocol):
    """What `spread` asks of a cluster."""

    def submit(self, errand: Errand) -> Any:
        """Queue an errand; a handle for it."""
        ...

    def ended(self, handles: Collection[Any]) -> Collection[Any]:
        """Those of the handles that have ended, possibly none, without waiting for long."""
        ...

    def outcome(self, handle: Any) -> bytes | None:
        """What an ended errand answered. Raises WorkerDied where it had no time to, AnalysisError where it could not
        be begun.
        """
        ...

    def cancel(self, handle: Any) -> None:
        """End an errand that nobody waits for."""
        ...


def spread(
    cluster: Cluster, function: Callable[[Any], object], items: Sequence[Any], *, desk: Path, threads: int, at_once: int
) -> Answers:
    """Call `function(item)` for every item, in order, at most `at_once` queued or running at a time.

    Yields as `pool.spread`: the item of a process that dies is done once more, after the others, and WorkerDied if that
    dies too. Closing the generator cancels what is under way. threads: that a worker starts with. desk: a folder that
    the workers must see (`desk`), removed where every item was done at the first try.
    """
    mark = desk / "caller"
    storage.write(mark, f"{socket.gethostname()} {os.getpid()}\n")
    blank = Errand(
        call=b"",
        folder=os.getcwd(),
        mark=str(mark),
        search=tuple(os.path.abspath(place) for place in sys.path),
        modules=tuple(registering()),
        environment=tuple(variables(threads).items()),
    )
    left, again, busy, failed = deque(range(len(items))), set[int](), dict[Any, int](), False
    try:
        while left or busy:
            while left and len(busy) < at_once:
                number = left.popleft()
                errand = replace(blank, call=pickle.dumps((function, items[number])))
                busy[cluster.submit(errand)] = number
            for handle in (ended := cluster.ended(list(busy))):
                number = busy.pop(handle)
                error: Exception | None = None
                try:
                    if (answer := cluster.outcome(handle)) is not None:
                        error = pickle.loads(answer)
                except WorkerDied as death:
                    if number not in again:
                        log.warning("item %d of %d is tried once more: %s", number + 1, len(items), death)
                        again.add(number)
                        left.append(number)
                        continue
                    error = death
                except AnalysisError as failure:
                    error = failure
                failed |= error is not None
                yield number, error
            if not ended:
                time.sleep(POLL)
        if not (failed or again):
            shutil.rmtree(desk, ignore_errors=True)
    finally:
        for handle in busy:
            with suppress(Exception):  # it may be over by now
                cluster.cancel(handle)


def variables(threads: int) -> dict[str, str]:
    """The environment of a worker elsewhere: that of every worker, and the caller's store."""
    return worker_environment(threads) | {"ANALYSIS_HOME": str(paths.home())}


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables of this process in the body, for whoever is started there and inherits them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def desk() -> Path:
    """A new folder in ANALYSIS_HOME for what is handed to workers and what they print. Raises StoreError."""
    above = paths.runs() / "workers"
    with storage.explained(above, "set ANALYSIS_HOME to a folder that can be written, and that all machines share"):
        above.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=above))


def check_settings(kind: str, settings: Any, package: str) -> None:
    """Raise UsageError for numbers of an executor's dataclass that are none, or less than the `least` of their field's
    metadata; and where the package that it needs is not installed.
    """
    if find_spec(package) is None:
        raise UsageError(
            f"executor {kind}: the package {package} is not installed; pip install 'pruning-analysis[{kind}]'"
        )
    wrong = []
    for field in fields(settings):
        value, default, least = getattr(settings, field.name), field.default, field.metadata.get("least")
        if least is not None and type(default) is int and (problem := count_problem(field.name, value, least)):
            wrong.append(problem)
        elif type(default) is float and not (type(value) in (int, float) and least <= value < math.inf):
            wrong.append(f"{field.name} must be a number of at least {least:g}, got {quoted(value)}")
    if wrong:
        raise UsageError(f"executor {kind}: {'; '.join(wrong)}")


def work_elsewhere(item: tuple[Job, RunFolder, int]) -> None:
    """`run.work` on a machine that need not be the caller's: refuses a job that is another one there.

    Raises StoreError where model, texts or words are not those that the caller named the run after.
    """
    job, folder, _ = item
    if (here := RunFolder(job.digest(_contents()))) != folder:
        raise StoreError(
            f"on {socket.gethostname()} this job is run {here.name}, for the caller it is {folder.name}: the model, a"
            " text or the version of the project differs; make them the same on every machine"
        )
    work(item)


@cache
def _contents() -> Contents:
    """Fingerprints read once in this process."""
    return Contents()
