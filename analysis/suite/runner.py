"""Run the notebooks headless: every one of a preset, one after the other, each in a kernel of its own.

A notebook that fails keeps its executed copy, error included, and the others still run; at the end one SuiteError says
which failed, in which cell, and why. Results are kept by the package's store, so a second run only reads them.
"""

import json
import logging
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from analysis import paths, storage
from analysis.errors import SuiteError, UsageError
from analysis.progress import bar, enabled, last_line
from analysis.suite.suite import Plan, plan

KERNEL = "python3"  # what the notebooks ask for
QUIET = ["--log-level=40"]  # kernels log errors only: each start warns of a transport that stays on this machine
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class NotebookRun:
    """How one notebook went: `status` is "completed" or "failed", `path` its executed copy, `error` one line about the
    failure.
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
) -> list[NotebookRun]:
    """Execute the notebooks of a preset; executed copies go to data/runs/notebooks/PRESET, figures where
    `figures_folder` says.

    `only` names one or several notebooks; `overrides` sets parameters in every notebook that has them, typed or as
    text; `folder` holds the notebooks and suite.toml if not the repository's. Raises SuiteError before anything runs
    (unknown preset, notebook or parameter, wrong type, missing file), or at the end if a notebook failed.
    """
    figures = figures_folder(preset, overrides, figures_dir)
    plans = plan(preset, only, overrides, always={"PRESET": preset, "FIGURES": str(figures)}, folder=folder)
    runs, watched = [], enabled()
    with bar(total=len(plans), desc=f"notebooks ({preset})", unit="notebook", leave=True) as whole:
        for one in plans:
            whole.set_postfix_str(one.name)
            runs.append(run_notebook(one, paths.runs() / "notebooks" / preset / f"{one.name}.ipynb", progress=watched))
            whole.update()
    failed = [run for run in runs if run.status == "failed"]
    if failed:
        failures = "; ".join(f"{run.name}, {run.error} (executed copy: {run.path})" for run in failed)
        raise SuiteError(f"suite: {len(failed)} of {len(runs)} notebooks failed: {failures}")
    return runs


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


def run_notebook(one: Plan, path: Path, *, progress: bool = False) -> NotebookRun:
    """Execute one notebook with its parameters into `path`, in this interpreter's kernel; a failure is told in the
    result, not raised.

    With `progress`, a bar counts its cells, and a line below it repeats the newest bar of whatever the cell is doing.
    """
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    # it warns of values with "=" in them, which it cannot read; `suite` has read them
    logging.getLogger("papermill").setLevel(logging.ERROR)
    with storage.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    start, error = time.perf_counter(), ""
    shown = {"desc": f"  {one.name}", "leave": False, "position": 1, "dynamic_ncols": True} if progress else False
    try:
        with _own_kernel() as kernels, _kernel_environment(progress, {"JUPYTER_PATH": kernels}):
            papermill.execute_notebook(
                _literal(one.path),
                _literal(path),
                parameters=dict(one.parameters),
                kernel_name=KERNEL,
                progress_bar=shown,
                extra_arguments=QUIET,
            )
    except PapermillExecutionError as failure:
        error = f"cell In [{failure.exec_count}]: {_error_line(failure)}"
    except DeadKernelError:
        error = "its kernel died (out of memory?)"
    except (NoSuchKernel, RuntimeError, OSError) as failure:
        reason = (str(failure).strip() or type(failure).__name__).splitlines()[-1]
        error = f"its kernel ({sys.executable} -m ipykernel_launcher) could not run it: {reason}"
    return NotebookRun(one.name, "failed" if error else "completed", time.perf_counter() - start, path, error)


@contextmanager
def _own_kernel() -> Iterator[str]:
    """A folder of Jupyter's data whose kernel `python3` is this interpreter, before all others on Jupyter's path: what
    is called so there may belong to another environment, which lacks the package.
    """
    with tempfile.TemporaryDirectory(prefix="analysis-kernel-") as folder:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
        place = Path(folder) / "kernels" / KERNEL
        place.mkdir(parents=True)
        (place / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
        yield os.pathsep.join([folder, *filter(None, [os.environ.get("JUPYTER_PATH")])])


@contextmanager
def _kernel_environment(watched: bool, more: Mapping[str, str]) -> Iterator[None]:
    """What kernels inherit: `more`, where their bars go, and threads of torch that wait without spinning.

    Threads that spin at every barrier of a small model starve each other as soon as anything else runs: minutes for
    seconds.
    """
    with _followed(watched) as wanted:
        wanted |= dict(more)
        wanted |= {"ANALYSIS_PROGRESS": "0", "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")}
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def _followed(watched: bool) -> Iterator[dict[str, str]]:
    """The variable that makes a kernel write its bars to a file, and a line under the notebook's bar that repeats the
    newest.
    """
    if not watched:
        yield {}
        return
    done = threading.Event()
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(bar_format="    {desc}", position=2, leave=False, dynamic_ncols=True) as line,
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
