"""One worker process that does one thing after another and keeps its model between them. No torch here."""

import atexit
import threading
from collections.abc import Callable
from functools import cache
from subprocess import Popen

from analysis.errors import AnalysisError
from analysis.study.pool import WorkerDied, ask, hire


class Stopped(AnalysisError):
    """What was asked was stopped before it was done."""


class Worker:
    """A process that begins with the first thing asked, and again after it was stopped."""

    def __init__(self, threads: int = 1):
        self.threads = threads
        self._process: Popen | None = None
        self._one = threading.Lock()
        self._stopped = False

    def ask(self, function: Callable, item: object) -> None:
        """Have the worker call `function(item)`, and wait; what it leaves lies on disk. Raises what the function
        raised, Stopped where somebody stopped it, AnalysisError where the process died by itself.
        """
        with self._one:
            self._stopped = False
            if self._process is None:
                self._process = hire(self.threads, {})
            error = ask(self._process, function, item)
            if isinstance(error, WorkerDied):
                self._let_go()
        if self._stopped:
            raise Stopped("stopped; what was finished is kept, and the same run goes on from there")
        if error is not None:
            raise error

    @property
    def busy(self) -> bool:
        """Whether it is doing something."""
        return self._one.locked()

    def stop(self) -> None:
        """End the process in the middle of what it does; the next thing asked begins a new one."""
        self._stopped = True
        if (process := self._process) is not None:
            process.kill()
        with self._one:  # whoever asked has seen the end
            self._let_go()

    def _let_go(self) -> None:
        if self._process is not None:
            self._process.__exit__(None, None, None)
            self._process = None


@cache
def worker() -> Worker:
    """The worker of this process, which ends with it."""
    made = Worker()
    atexit.register(made.stop)
    return made
