"""The exercises of the notebooks, for those who do them and for those who check them.

    python -m analysis.suite.exercises                              # what `make exercises` runs
    python -m analysis.suite.exercises --only 01_compounding_error

A source in notebooks/exercises/ holds questions, solutions and checks. Out of it come a student's notebook, without the
solutions, and one with them, executed: an assertion that fails there fails the build.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis import paths, storage
from analysis.errors import AnalysisError, SuiteError
from analysis.suite.kernels import KERNEL, Kernels

if TYPE_CHECKING:
    from nbformat import NotebookNode

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
SOLUTION = "solution"  # the tag of a cell of prose that students do not get
STUB = ("# YOUR CODE HERE", "raise NotImplementedError()")
SECONDS = 600  # of one cell
QUIET = ["--log-level=40"]  # kernels log errors only
WRITTEN = ".written.json"  # sha256 of the students' notebooks as they were written


def strip(notebook: "NotebookNode") -> "NotebookNode":
    """A student's copy: a stub in the place of every solution, cells tagged `solution` gone, nothing executed.

    Raises SuiteError for a marker without its partner.
    """
    from nbconvert.preprocessors import ClearOutputPreprocessor, TagRemovePreprocessor

    copy, _ = TagRemovePreprocessor(remove_cell_tags={SOLUTION}).preprocess(_copied(notebook), {})
    copy, _ = ClearOutputPreprocessor().preprocess(copy, {})
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.source = strip_source(cell.source, cell.get("id", "?"))
    return copy


def strip_source(source: str, cell: str) -> str:
    """The source of one code cell with a stub, indented likewise, for each solution."""
    lines: list[str] = []
    inside = False
    for line in source.splitlines():
        word = line.strip()
        if word in (BEGIN, END) and inside is (word == BEGIN):
            raise SuiteError(f"exercises: cell {cell} has {word!r} without its partner")
        if word == BEGIN:
            lines += [line[: len(line) - len(line.lstrip())] + stub for stub in STUB]
        if word in (BEGIN, END):
            inside = word == BEGIN
        elif not inside:
            lines.append(line)
    if inside:
        raise SuiteError(f"exercises: cell {cell} has {BEGIN!r} without its partner")
    return "\n".join(lines)


def execute(notebook: "NotebookNode", folder: Path) -> "NotebookNode":
    """A copy with solutions, executed in `folder` by this interpreter, to its end also where a cell fails (`faults`).
    Raises SuiteError where the kernel dies.
    """
    from nbclient.exceptions import DeadKernelError
    from nbconvert.preprocessors import ExecutePreprocessor

    kernels = Kernels()
    runner = ExecutePreprocessor(
        allow_errors=True,
        timeout=SECONDS,
        kernel_name=KERNEL,
        kernel_manager_class=kernels.manager({"ANALYSIS_PROGRESS": "0", "ANALYSIS_HEADLESS": "1"}),
        extra_arguments=QUIET,
        record_timing=False,
    )
    try:
        executed, _ = runner.preprocess(_copied(notebook), {"metadata": {"path": str(folder)}})
    except DeadKernelError:
        raise SuiteError("exercises: the kernel died (out of memory?)") from None
    finally:
        kernels.end()
    return executed


def faults(executed: "NotebookNode") -> list[str]:
    """Which cells failed, and with what."""
    return [
        f"cell {cell.get('id', '?')}: {output.ename}{f': {output.evalue}' if output.evalue else ''}"
        for cell in executed.cells
        for output in cell.get("outputs", ())
        if output.output_type == "error"
    ]


def build(
    only: Sequence[str] = (), *, sources: Path | None = None, out: Path | None = None, run: bool = True
) -> dict[str, str]:
    """Write the students' notebooks, and with `run` those with solutions; {notebook: what became of it}.

    A student's notebook that has been changed since it was written is left as it is. All notebooks are built, then one
    SuiteError tells of those that failed.
    """
    import nbformat

    sources = sources or paths.notebooks() / "exercises"
    out = out or paths.ROOT / "build" / "exercises"
    files = {file.stem: file for file in sorted(sources.glob("*.ipynb"))}
    if unknown := [name for name in only if name not in files]:
        raise SuiteError(f"exercises: there is no {', '.join(unknown)}; there are: {', '.join(files) or 'none'}")
    told: dict[str, str] = {}
    failed: list[str] = []
    for name in only or files:
        notebook = nbformat.read(files[name], as_version=4)
        told[name] = _write_student(out / "student" / f"{name}.ipynb", nbformat.writes(strip(notebook)) + "\n")
        if run:
            place = out / "solutions" / f"{name}.ipynb"
            with storage.explained(place):
                place.parent.mkdir(parents=True, exist_ok=True)
            print(f"{name}: running the solutions", file=sys.stderr, flush=True)
            executed = execute(notebook, place.parent)
            with storage.explained(place):
                storage.write(place, nbformat.writes(executed) + "\n")
            if wrong := faults(executed):
                failed.append(f"{name}, {', '.join(wrong)} (executed copy: {place})")
            else:
                told[name] += "; solutions pass"
    if failed:
        raise SuiteError(f"exercises: {'; '.join(failed)}")
    return told


def _write_student(place: Path, text: str) -> str:
    """Write a student's notebook unless somebody has worked in it, which is told."""
    kept = place.parent / WRITTEN
    try:
        written = dict(json.loads(kept.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        written = {}
    if place.is_file() and written.get(place.name) != storage.file_sha256(place):
        return f"{place} was changed and is left as it is; remove it to have it anew"
    with storage.explained(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        storage.write(place, text)
        storage.write(kept, json.dumps(written | {place.name: storage.sha256(text.encode())}, indent=2) + "\n")
    return str(place)


def _copied(notebook: "NotebookNode") -> "NotebookNode":
    import nbformat

    return nbformat.reads(nbformat.writes(notebook), as_version=4)


def main(argv: Sequence[str] | None = None) -> int:
    """Build from the command line; 7 where a solution fails or a source is broken."""
    parser = argparse.ArgumentParser(prog="python -m analysis.suite.exercises", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this notebook's exercises only")
    parser.add_argument("--student", action="store_true", help="the students' notebooks alone; nothing is executed")
    args = parser.parse_args(argv)
    try:
        told = build(args.only, run=not args.student)
    except AnalysisError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(f"{name}  {what}" for name, what in told.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
