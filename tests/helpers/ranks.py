"""Several processes as `torchrun` starts them, forked from one that has imported torch once."""

import multiprocessing
import os
import socket
import sys
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


def start(count: int, do: Callable, *arguments: object, logs: Path) -> list[BaseProcess]:
    """Processes of ranks 0 to count - 1, each calling `do(*arguments)`, which ends it with what it returns (None: 0);
    what rank N prints lies in `logs`/N.
    """
    CONTEXT.set_forkserver_preload(PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs.mkdir(exist_ok=True)
    processes = [CONTEXT.Process(target=_run, args=(n, count, port, logs, do, arguments)) for n in range(count)]
    for process in processes:
        process.start()
    return processes


def ended(processes: list[BaseProcess], seconds: float = 240.0) -> list[int | None]:
    """The exit codes of processes that must end in time."""
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def _run(rank: int, count: int, port: int, logs: Path, do: Callable, arguments: tuple) -> None:
    words = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({word: str(value) for word, value in words.items()})
    said = os.open(logs / str(rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(1), "w", buffering=1) for _ in range(2))
    sys.exit(do(*arguments))
