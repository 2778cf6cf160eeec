"""Several processes as `torchrun` starts them."""

import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.helpers.processes import fork


def start(count: int, do: Callable, *arguments: object, logs: Path) -> list[BaseProcess]:
    """Processes of ranks 0 to count - 1, each calling `do(*arguments)`, which ends it with what it returns (None: 0);
    what rank N prints lies in `logs`/N.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs.mkdir(exist_ok=True)
    place = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [fork(do, *arguments, log=logs / str(rank), RANK=rank, LOCAL_RANK=rank, **place) for rank in range(count)]


def ended(processes: list[BaseProcess], seconds: float = 240.0) -> list[int | None]:
    """The exit codes of processes that must end in time."""
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes
