"""Other processes: forked from one that has imported torch once, and watched."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = [
    "analysis.cli",
    "analysis.study.run",
    "analysis.pruning.loop",
    "analysis.text.load",
    "tests.helpers.recipes",
]
CONTEXT = multiprocessing.get_context("forkserver")


def fork(do: Callable, *arguments: object, log: Path, **variables: object) -> BaseProcess:
    """A process, begun, that calls `do(*arguments)`, which ends it with what it returns (None: 0); what it prints lies
    in `log`. It has this process's environment, and `variables`.
    """
    CONTEXT.set_forkserver_preload(PRELOADED)
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    process = CONTEXT.Process(target=_call, args=(environment, log, do, arguments))
    process.start()
    return process


def _call(environment: dict[str, str], log: Path, do: Callable, arguments: tuple) -> None:
    os.environ.clear()
    os.environ.update(environment)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(1), "w", buffering=1) for _ in range(2))
    sys.exit(do(*arguments))


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)
