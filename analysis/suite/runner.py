"""Run the notebooks headless, as many at once as the machine has cores and memory for, each in a kernel of its own.

A notebook whose figures are what would come out again is left as it is. One that fails keeps its executed copy, error
included, and the others still run; at the end one SuiteError says which failed, in which cell, and why. Results are
kept by the package's store, so a second run only reads them, and of two notebooks that need one run the second waits.
"""

import asyncio
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tqdm.auto import tqdm

from analysis import memory, paths, storage
from analysis.errors import SuiteError, UsageError, count_problem
from analysis.progress import bar, enabled, last_line
from analysis.suite import records
from analysis.suite.kernels import COMMAND, KERNEL, Kernels
from analysis.suite.suite import Plan, plan

QUIET = ["--log-level=40"]  # kernels log errors only: each start warns of a transport that stays on this machine
NOTEBOOK = 2**30  # bytes that a notebook of the lab takes, its kernel and its runs
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class NotebookRun:
    """How one notebook went: `status` is "completed", "failed" or "fresh" (it was not run), `path` its executed copy,
    `seconds` how long it took, a fresh one when it last ran, `error` one line about the failure.
    """

    name: str
    status: str
    seconds: float
    path: Path
    error: str = ""


def run_suite(
    preset: str = "lab",
    only: str | Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    figures_dir: str | Path | None = None,
    *,
    folder: Path | None = None,
    copies: Path | None = None,
    workers: int | None = None,
    force: bool = False,
    check: bool = True,
    say: Callable[[str], object] = lambda message: None,
) -> list[NotebookRun]:
    """Execute the notebooks of a preset; figures go where `figures_folder` says, executed copies to `copies`, by
    default `copies_folder(preset)`.

    `only` names one or several notebooks; `overrides` sets parameters in every notebook that has them, typed or as
    text; `folder` holds the notebooks and suite.toml if not the repository's. `workers`: notebooks at once, by default
    `at_once()`; those that must run alone come first. `force` runs fresh notebooks too. `say` is told what is about to
    run and how long that took before. Raises SuiteError before anything runs (unknown preset, notebook or parameter,
    wrong type, missing file), and with `check` at the end if a notebook failed.
    """
    if workers is not None and (problem := count_problem("suite: workers", workers, 1)):
        raise UsageError(problem)
    figures = figures_folder(preset, overrides, figures_dir)
    plans = plan(preset, only, overrides, always={"PRESET": preset, "FIGURES": str(figures)}, folder=folder)
    copies = copies or copies_folder(preset)
    with storage.explained(copies):
        copies.mkdir(parents=True, exist_ok=True)
    wanted = [_Work(one, copies / f"{one.name}.ipynb", records.inputs_digest(one)) for one in plans]
    fresh = [] if force else [work for work in wanted if records.is_fresh(work.plan, work.copy, work.inputs)]
    left = [work for work in wanted if work not in fresh]
    runs = {work.plan.name: NotebookRun(work.plan.name, "fresh", work.took or 0.0, work.copy) for work in fresh}
    many = workers or at_once()
    say(_announcement(left, fresh, many))
    with bar(total=len(left), desc=f"notebooks ({preset})", unit="notebook", leave=True) as whole:
        for group, side_by_side in _groups(left, many):
            for run in _run(group, side_by_side, whole):
                runs[run.name] = run
    in_order = [runs[one.name] for one in plans]
    if check and (failure := failed(in_order)):
        raise failure
    return in_order


def failed(runs: Sequence[NotebookRun]) -> SuiteError | None:
    """One error that tells of every notebook that failed; None if none did."""
    wrong = [run for run in runs if run.status == "failed"]
    if not wrong:
        return None
    failures = "; ".join(f"{run.name}, {run.error} (executed copy: {run.path})" for run in wrong)
    return SuiteError(f"suite: {len(wrong)} of {len(runs)} notebooks failed: {failures}")


def at_once() -> int:
    """Notebooks of the lab that this machine has cores and memory for, in half of what is free."""
    return max(1, min(_cores(), memory.available() // 2 // NOTEBOOK))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def copies_folder(preset: str) -> Path:
    """Where executed copies, what is kept of them and the report go: data/runs/notebooks/PRESET."""
    return paths.runs() / "notebooks" / preset


def figures_folder(preset: str, overrides: Mapping[str, Any] | None = None, given: str | Path | None = None) -> Path:
    """Where figures go: `given`, or `figures/` of the repository for the lab preset as it stands, else
    data/runs/figures/PRESET.

    So a trial size or another model never replaces the committed figures unless asked to. UsageError if `given` is a
    file.
    """
    if given:
        folder = paths.expanded(given).resolve()
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"suite: figures folder {given} is a file")
        return folder
    return paths.figures() if preset == "lab" and not overrides else paths.runs() / "figures" / preset


@dataclass(frozen=True)
class _Work:
    """A notebook to run: its executed copy and the digest of what it is made from."""

    plan: Plan
    copy: Path
    inputs: str

    @property
    def took(self) -> float | None:
        """Seconds of its last run to the end, whatever its parameters were; None if there was none."""
        record = records.read(self.copy)
        return record.seconds if record is not None and record.status == "completed" else None

    @property
    def seconds(self) -> float | None:
        """What it took when it last ran to its end, None if it never did with these parameters."""
        record = records.read(self.copy)
        return self.took if record and record.parameters == records.parameters_digest(self.plan) else None


def _groups(left: Sequence[_Work], many: int) -> list[tuple[list[_Work], int]]:
    """Notebooks that run alone, one at a time; then the others, those that took longest first."""
    alone, others = ([work for work in left if work.plan.alone is one] for one in (True, False))
    many = min(many, len(others))
    if many > 1:
        others.sort(key=lambda work: -(work.seconds if work.seconds is not None else float("inf")))
    return [(group, count) for group, count in ((alone, 1), (others, many)) if group]


def _announcement(left: Sequence[_Work], fresh: Sequence[_Work], many: int) -> str:
    """What is about to run, and how long it will take if it takes what it took before."""
    parts = []
    if fresh:
        parts.append(f"{len(fresh)} of {len(left) + len(fresh)} notebooks are fresh (--force runs them)")
    if left:
        groups = _groups(left, many)
        most = max(count for _, count in groups)
        running = f"running {len(left)}" + (f", {most} at once" if most > 1 else "")
        known = [records.forecast([work.seconds for work in group], count) for group, count in groups]
        new = [work.plan.name for work in left if work.seconds is None]
        total = sum(took for took in known if took is not None)
        if not new:
            running += f": about {_duration(total)}, if each takes what it took last time"
        else:
            never = f"with these parameters not yet run to the end here: {', '.join(new)}"
            running += f": how long it takes is not known ({never})"
        parts.append(running)
    return "; ".join(parts)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


def _run(group: Sequence[_Work], many: int, whole: tqdm) -> Iterator[NotebookRun]:
    """Run notebooks in threads, so many at once, each telling how it went as it ends; an interrupt ends all kernels."""
    kernels, slots, running = Kernels(), SimpleQueue[int](), dict[str, None]()
    share = {}
    if many > 1 and not os.environ.get("ANALYSIS_WORKERS"):
        share["ANALYSIS_WORKERS"] = str(max(1, _cores() // many))
    for slot in range(many):
        slots.put(slot)

    def one(work: _Work) -> NotebookRun:
        slot = slots.get()
        running[work.plan.name] = None
        whole.set_postfix_str(", ".join(running))
        try:
            return _execute(work, kernels, share, slot=slot if enabled() else None)
        finally:
            running.pop(work.plan.name)
            slots.put(slot)

    with ThreadPoolExecutor(many) as pool:
        begun = [pool.submit(one, work) for work in group]
        try:
            for done in as_completed(begun):
                yield done.result()
                whole.update()
        except BaseException:
            for future in begun:
                future.cancel()
            kernels.end()
            raise


def _execute(work: _Work, kernels: Kernels, environment: Mapping[str, str], *, slot: int | None = None) -> NotebookRun:
    """Execute one notebook with its parameters into its copy, in a kernel of this interpreter, and keep its record; a
    failure is told in the result, not raised.

    environment: variables of the kernel's own. With a `slot`, a bar counts its cells, in that place below the suite's,
    and a line below it repeats the newest bar of whatever the cell is doing.
    """
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    # it warns of values with "=" in them, which it cannot read; `suite` has read them
    logging.getLogger("papermill").setLevel(logging.ERROR)
    # threads that spin at every barrier of a small model starve each other as soon as anything else runs
    variables = {
        "ANALYSIS_PROGRESS": "0",
        "ANALYSIS_HEADLESS": "1",
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
    }
    one, path, start, error = work.plan, work.copy, time.perf_counter(), ""
    place = {} if slot is None else {"leave": False, "position": 1 + 2 * slot, "dynamic_ncols": True}
    records.file_of(path).unlink(missing_ok=True)  # of the copy that is replaced now
    try:
        with _followed(slot) as watched:
            papermill.execute_notebook(
                _literal(one.path),
                _literal(path),
                parameters=dict(one.parameters),
                kernel_name=KERNEL,
                progress_bar={"desc": f"  {one.name}", **place} if place else False,
                extra_arguments=QUIET,
                kernel_manager_class=kernels.manager({**variables, **environment, **watched}),
            )
    except PapermillExecutionError as failure:
        error = f"cell In [{failure.exec_count}]: {_error_line(failure)}"
    except DeadKernelError:
        error = "its kernel died (out of memory?)"
    except (NoSuchKernel, RuntimeError, OSError) as failure:
        reason = (str(failure).strip() or type(failure).__name__).splitlines()[-1]
        error = f"its kernel ({' '.join(COMMAND)}) could not run it: {reason}"
    finally:
        with suppress(RuntimeError):  # where no kernel was started, this thread has no loop
            asyncio.get_event_loop().close()
    run = NotebookRun(one.name, "failed" if error else "completed", time.perf_counter() - start, path, error)
    if not kernels.ended:  # it would be told as a failure
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        folder, figures = str(one.parameters["FIGURES"]), records.drawn(one)
        parameters = records.parameters_digest(one)
        record = records.Record(work.inputs, run.status, run.seconds, finished, error, folder, parameters, figures)
        records.write(path, record)
    return run


@contextmanager
def _followed(slot: int | None) -> Iterator[dict[str, str]]:
    """The variable that makes a kernel write its bars to a file, and a line under the notebook's bar that repeats the
    newest.
    """
    if slot is None:
        yield {}
        return
    done = threading.Event()
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(bar_format="    {desc}", position=2 + 2 * slot, leave=False, dynamic_ncols=True) as line,
    ):
        file = Path(folder) / "bars"

        def follow() -> None:
            while not done.wait(0.5):
                line.set_description_str(last_line(file))

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield {"ANALYSIS_PROGRESS_FILE": str(file)}
        finally:
            done.set()
            follower.join()


def _literal(path: Path) -> str:
    """A path papermill takes as it is: it formats paths, so braces are doubled."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _error_line(failure) -> str:
    """`Name: message` of the error, the message's last line, without terminal colours."""
    lines = _ANSI.sub("", str(failure.evalue)).strip().splitlines()
    return f"{failure.ename}: {lines[-1] if lines else ''}".strip()
