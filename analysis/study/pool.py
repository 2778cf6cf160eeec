"""Several processes on one machine: one function, many items, each process doing one item at a time.

A worker is a fresh interpreter that reads (function, item) pairs from a pipe. Unlike multiprocessing's workers it never
runs the caller's script again, so a notebook, `python -c` and a script without `if __name__ == "__main__"` can all have
workers; it has the threads it is given before torch loads; and when the caller goes, however it goes, it ends at once:
a thread of its own sees the end of the pipe. No torch, but to see devices.
"""

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from queue import SimpleQueue
from typing import IO, Any

from analysis import memory
from analysis.errors import AnalysisError
from analysis.models.hub import fetch, weight_files

log = logging.getLogger(__name__)

WORKER = "from analysis.study.pool import serve; serve()"  # what a worker runs
# memory a run takes, in sizes of the weights on disk: dense and pruned model in float32, gradients, Adam, streams
COPIES = 8
INTERPRETER = 2**29  # bytes a worker takes before it has a model
WEIGHTS_PER_THREAD = 2**25  # bytes of weights on disk that are worth a thread

Answers = Generator[tuple[int, Exception | None], None, None]  # number of an item, None or what it raised


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(model: str, available: int | None = None) -> int:
    """Threads of a job on this model: one for every `WEIGHTS_PER_THREAD`, at most all cores, or OMP_NUM_THREADS, or the
    cores `available` to it on another machine.

    Whatever else runs beside it, since other threads give other bits; and small models gain more from jobs side by
    side.
    """
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    most = available or (min(cores(), int(allowed)) if allowed.isdecimal() and int(allowed) else cores())
    return max(1, min(most, -(-_weights(model) // WEIGHTS_PER_THREAD)))


def affordable(models: Iterable[str], devices: Iterable[str], threads: int = 1) -> int:
    """Workers of so many threads that this machine has cores and memory for, one where a job takes an accelerator.

    Memory: the largest model's weights on disk `COPIES` times and an interpreter for each worker, in half of what is
    free.
    """
    if cores() <= threads or not all(_is_cpu(device) for device in devices):
        return 1
    each = COPIES * max(_weights(name) for name in models) + INTERPRETER
    return max(1, min(cores() // threads, memory.available() // 2 // each))


def _is_cpu(device: str) -> bool:
    if device != "auto":
        return device == "cpu"
    import torch

    return not (torch.cuda.is_available() or torch.backends.mps.is_available())


def _weights(name: str) -> int:
    """Bytes of a model's weight files; a hub model is downloaded, a packed one unpacked, once for all workers."""
    return sum(file.stat().st_size for file in weight_files(fetch(name)[0], name))


def spread(
    function: Callable[[Any], object],
    items: Sequence,
    *,
    workers: int,
    threads: int,
    environments: Sequence[Mapping[str, str]] = (),
) -> Answers:
    """Call `function(item)` in `workers` processes of `threads` threads, items in order, one by one to whoever is free.

    Yields (number of the item, None or what it raised) as they end; what the function returns is dropped. An error
    keeps no other item from being begun. The item of a worker that dies is done once more by another one, after the
    others, and AnalysisError if that dies too. The function is picklable, hence of a module. Closing the generator, or
    an interrupt, ends the workers at once; close it explicitly. environments: variables of each worker's own, one
    mapping for each.
    """
    left, again = deque(range(len(items))), set[int]()
    with ThreadPoolExecutor(workers) as waiting, ExitStack() as stack:
        crew = {stack.enter_context(hire(threads, pins)): pins for pins in environments or [{}] * workers}
        busy: dict[Future, tuple[int, subprocess.Popen]] = {}
        try:
            while left or busy:
                taken = [worker for _, worker in busy.values()]
                for worker in [worker for worker in crew if worker not in taken][: len(left)]:
                    number = left.popleft()
                    busy[waiting.submit(ask, worker, function, items[number])] = number, worker
                for answer in wait(busy, return_when=FIRST_COMPLETED).done:
                    number, worker = busy.pop(answer)
                    error = answer.result()
                    if isinstance(error, WorkerDied):
                        pins = crew.pop(worker)
                        if not crew:  # with others left there is more memory for each
                            crew[stack.enter_context(hire(threads, pins))] = pins
                        if number not in again:
                            log.warning("item %d of %d is tried once more: %s", number + 1, len(items), error)
                            again.add(number)
                            left.append(number)
                            continue
                        error = WorkerDied(
                            f"{error}, as did one before it; finished runs are stored and this one goes on where it"
                            " stopped: run again with fewer workers, run_study(..., workers=1) or ANALYSIS_WORKERS=1 in"
                            " the environment"
                        )
                    yield number, error
            for worker in crew:
                _pipes(worker)[0].close()
        except BaseException:
            for worker in crew:
                worker.kill()
            raise


class WorkerDied(AnalysisError):
    """A worker process that ended before its item did."""


def worker_environment(threads: int) -> dict[str, str]:
    """Variables of every worker, to be set before it loads torch: so many threads, which wait without spinning, and no
    bars.
    """
    few = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return few | {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"), "ANALYSIS_PROGRESS": "0"}


def registering() -> list[str]:
    """Modules that every worker imports: those of words from outside the package. Raises UsageError as
    `extend.modules`.
    """
    extend = sys.modules.get("analysis.extend")
    return extend.modules() if extend else []


def hire(threads: int, environment: Mapping[str, str]) -> subprocess.Popen:
    inherited = {name: value for name, value in os.environ.items() if name != "ANALYSIS_PROGRESS_FILE"}
    registrations = "".join(f"import {module}; " for module in registering())
    without_interrupts = "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    code = f"{without_interrupts}; sys.path[:] = {sys.path!r}; {registrations}{WORKER}"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=inherited | worker_environment(threads) | dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _pipes(worker: subprocess.Popen) -> tuple[IO[bytes], IO[bytes]]:
    """What a worker reads and what it writes."""
    assert worker.stdin is not None and worker.stdout is not None  # `hire` opens both
    return worker.stdin, worker.stdout


def ask(worker: subprocess.Popen, function: Callable, item: object) -> Exception | None:
    """Have the worker do one item, and wait for what it raised."""
    requests, answers = _pipes(worker)
    try:
        pickle.dump(pickle.dumps((function, item)), requests)
        requests.flush()
        return pickle.load(answers)
    except (OSError, EOFError, pickle.UnpicklingError):  # the pipe ended: so has the worker
        with suppress(OSError):
            requests.close()
        return WorkerDied(f"its worker process {_end(worker.wait())}")


def _end(code: int) -> str:
    if code >= 0:
        return f"exited with status {code}"
    name = signal.Signals(-code).name
    return f"was ended by {name}" + (", as the system does when memory runs out" if name == "SIGKILL" else "")


def serve() -> None:
    """A worker's life: items in by stdin, errors out by stdout, until the caller closes the pipe. Whatever prints goes
    to stderr.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asked: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, asked), daemon=True).start()
    while True:
        request, answer = asked.get(), None
        try:
            function, item = pickle.loads(request)
            function(item)
        except Exception as error:
            answer = portable(error, "in a worker process")
        with suppress(BrokenPipeError):  # nobody is there to hear it: `_listen` ends this process
            pickle.dump(answer, answers)
            answers.flush()


def _listen(requests: IO[bytes], asked: "SimpleQueue[bytes]") -> None:
    """Pass on what the caller asks; where the pipe ends, end the process, in the middle of an item too."""
    while True:
        try:
            asked.put(pickle.load(requests))
        except Exception:
            os._exit(0)


def portable(error: Exception, where: str) -> Exception:
    """The error with the worker's traceback as a note, or a RuntimeError that quotes it where it cannot be pickled."""
    trace = f"{where}:\n" + "".join(traceback.format_exception(error))
    try:
        error = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever an error of another package does when taken apart and put together
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(trace)
    return error
