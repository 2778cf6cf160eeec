"""`analysis figures`: run the notebooks of a preset and draw their figures."""

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import paths
from analysis.commands import out_folder
from analysis.commands.arguments import add_verb
from analysis.commands.common import Report, jsonable, say, table
from analysis.errors import SuiteError, UsageError, count_problem

if TYPE_CHECKING:
    from analysis.suite.runner import NotebookRun


def add(verbs) -> None:
    """The verb and its arguments."""
    verb = add_verb(
        verbs,
        "figures",
        figures,
        "run the notebooks and draw the figures, reusing results that are stored",
        "  analysis figures\n  analysis figures --only 01_compounding_error --set EPOCHS=5\n"
        "  analysis figures --check --only 05_criteria",
    )
    verb.add_argument("--preset", default="lab", help="a preset of notebooks/suite.toml; default lab")
    verb.add_argument("--only", action="append", metavar="NAME", help="this notebook only; may be given several times")
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a notebook parameter, a list as words or as JSON: '[\"a b.txt\"]'; may be given several times",
    )
    verb.add_argument(
        "--figures",
        type=paths.expanded,
        metavar="DIR",
        help="where figures go; default figures/ for the lab preset as it stands, else data/runs/figures/PRESET",
    )
    verb.add_argument(
        "--workers", type=int, metavar="N", help="notebooks at once; default as many as there are cores and memory for"
    )
    verb.add_argument(
        "--force",
        action="store_true",
        help="run notebooks that are fresh, too: whose figures are there and come from the same sources and parameters",
    )
    verb.add_argument(
        "--dry-run",
        action="store_true",
        help="run nothing: say where every model, text and task that the notebooks name would come from",
    )
    verb.add_argument(
        "--check",
        action="store_true",
        help="leave the figures as they are: draw them anew into a temporary folder and compare every csv",
    )
    verb.add_argument(
        "--executor",
        metavar="WHO",
        help="who does the runs of the notebooks: local, slurm or ray, the latter two with settings, as in"
        " 'slurm[partition=gpu,hours=8,gpus=1]' (docs/cluster.md); default ANALYSIS_EXECUTOR, or local",
    )


def figures(args: argparse.Namespace) -> Report:
    """Run notebooks and say where their executed copies, their figures and the report on them are, or with --check
    whether the figures there are those that come out now. Raises: UsageError, SuiteError.
    """
    from analysis.suite.runner import copies_folder, failed, figures_folder, run_suite
    from analysis.suite.suite import cost, plan

    _choose_executor(args.executor)
    if args.figures is not None and not args.check:
        out_folder.check_place(args.figures, "--figures")
        out_folder.check_writable(args.figures, "--figures")
    if args.workers is not None and (problem := count_problem("--workers", args.workers)):
        raise UsageError(problem)
    overrides = _overrides(args.set)
    if args.dry_run:
        from analysis.commands.dry_run import dry_run

        return dry_run(plan(args.preset, args.only, overrides))
    folder = figures_folder(args.preset, overrides, args.figures)
    if args.check:
        return _check(args, overrides, folder)
    if words := cost(args.preset):
        say(words)
    with _tables_before(args.preset, overrides, folder) as before:
        runs = run_suite(
            args.preset,
            only=args.only,
            overrides=overrides,
            figures_dir=args.figures,
            workers=args.workers,
            force=args.force,
            check=False,
            say=say,
        )
        report = _reported(runs, before, copies_folder(args.preset), args.preset)
    rows = [(run.name, run.status, f"{run.seconds:.1f}", str(run.path)) for run in runs]
    text = table(("notebook", "status", "seconds", "executed copy"), rows) + f"\n\nfigures  {folder}"
    document: dict[str, Any] = {
        "figures": str(folder),
        "notebooks": [asdict(run) | {"path": str(run.path)} for run in runs],
    }
    if report is not None:
        text += f"\nreport   {report}"
        document["report"] = str(report)
    return Report(text, document, failed(runs))


def _overrides(settings: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` of --set. Raises UsageError."""
    overrides: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {setting}: write NAME=VALUE")
        if name in overrides:
            raise UsageError(f"--set {setting}: {name} is set twice")
        overrides[name] = value
    return overrides


@contextmanager
def _tables_before(preset: str, overrides: Mapping[str, str], folder: Path) -> Iterator[Path]:
    """A copy of the tables that new ones are compared with: the committed ones for the lab preset as it stands, else
    those that lie where the figures go.
    """
    from analysis.suite.runner import figures_folder

    committed = figures_folder(preset, overrides)
    there = committed if any(committed.glob("*.csv")) and committed == paths.figures() else folder
    with tempfile.TemporaryDirectory(prefix="analysis-figures-") as kept:
        for file in there.glob("*.csv"):
            shutil.copy(file, kept)
        yield Path(kept)


def _reported(runs: Sequence["NotebookRun"], before: Path, copies: Path, preset: str) -> Path | None:
    """Keep with each notebook that ran how its tables compare with those before, and write the report."""
    from analysis.present.comparison import DIFFERENT, MISSING, compare_figures
    from analysis.suite import records
    from analysis.suite.report import write_report

    for run in runs:
        record = records.read(run.path)
        if run.status == "fresh" or record is None:
            continue
        names = [name.removesuffix(".csv") for name in record.figures if name.endswith(".csv")]
        if names and any(before.glob("*.csv")):
            rows = jsonable(compare_figures(before, Path(record.folder), names).to_dict("records"))
            records.write(run.path, replace(record, compared=rows))
    return write_report(copies, preset, differing=(DIFFERENT, MISSING))


def _choose_executor(text: str | None) -> None:
    """Check the executor and hand it to the notebooks' kernels, which inherit the environment."""
    from analysis.study.executor import VARIABLE, chosen

    chosen(text)
    if text is not None:
        os.environ[VARIABLE] = text


def _check(args: argparse.Namespace, overrides: dict[str, str], there: Path) -> Report:
    """Draw the chosen figures into a folder of their own and compare them with those in `there`."""
    from analysis.present.comparison import DIFFERENT, MISSING, NEW, TOLERANCE, compare_figures
    from analysis.suite.runner import copies_folder, run_suite

    if not any(there.glob("*.csv")):
        raise UsageError(f"--check: no figures lie in {there}; draw them first, or say where they are with --figures")
    with tempfile.TemporaryDirectory(prefix="analysis-figures-") as folder:
        run_suite(
            args.preset,
            only=args.only,
            overrides=overrides,
            figures_dir=folder,
            copies=copies_folder(f"{args.preset}-check"),
            workers=args.workers,
            force=True,
            say=say,
        )
        drawn = {file.stem for file in Path(folder).glob("*.csv")}
        compared = compare_figures(there, Path(folder), drawn if args.only else None)
    rows = [
        (row.figure, row.rows, f"{100 * row.difference:.2g} %" if row.difference == row.difference else "", row.where)
        + (row.left_out, row.verdict)
        for row in compared.itertuples()
    ]
    header = ("figure", "rows", "largest difference", "of", "not compared (measured)", "verdict")
    text = table(header, rows) + f"\n\ncompared with {there}; numbers may differ by {100 * TOLERANCE:g} %"
    bad = compared[compared["verdict"].isin((DIFFERENT, NEW, MISSING))]
    failure = None
    if len(bad):
        failure = SuiteError(
            f"figures --check: {len(bad)} of {len(compared)} figures are not what comes out now:"
            f" {', '.join(bad['figure'])}; draw them again without --check and see what has changed"
        )
    return Report(text, {"folder": str(there), "figures": jsonable(compared.to_dict("records"))}, failure)
