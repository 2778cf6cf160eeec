"""`analysis figures`: run the notebooks of a preset and draw their figures."""

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path

from analysis import paths
from analysis.commands import out_folder
from analysis.commands.arguments import add_verb
from analysis.commands.common import Report, jsonable, say, table
from analysis.errors import SuiteError, UsageError


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
        "--dry-run",
        action="store_true",
        help="run nothing: say where every model, text and task that the notebooks name would come from",
    )
    verb.add_argument(
        "--check",
        action="store_true",
        help="leave the figures as they are: draw them anew into a temporary folder and compare every csv",
    )


def figures(args: argparse.Namespace) -> Report:
    """Run notebooks and say where their executed copies and figures are, or with --check whether the figures there are
    those that come out now. Raises: UsageError, SuiteError.
    """
    from analysis.suite.runner import figures_folder, run_suite
    from analysis.suite.suite import cost, plan

    if args.figures is not None and not args.check:
        out_folder.check_place(args.figures, "--figures")
        out_folder.check_writable(args.figures, "--figures")
    overrides = {}
    for setting in args.set:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {setting}: write NAME=VALUE")
        if name in overrides:
            raise UsageError(f"--set {setting}: {name} is set twice")
        overrides[name] = value
    if args.dry_run:
        from analysis.commands.dry_run import dry_run

        return dry_run(plan(args.preset, args.only, overrides))
    if args.check:
        return _check(args, overrides, figures_folder(args.preset, overrides, args.figures))
    if words := cost(args.preset):
        say(words)
    runs = run_suite(args.preset, only=args.only, overrides=overrides, figures_dir=args.figures)
    folder = figures_folder(args.preset, overrides, args.figures)
    rows = [(run.name, run.status, f"{run.seconds:.1f}", str(run.path)) for run in runs]
    text = table(("notebook", "status", "seconds", "executed copy"), rows) + f"\n\nfigures  {folder}"
    return Report(text, {"figures": str(folder), "notebooks": [asdict(run) | {"path": str(run.path)} for run in runs]})


def _check(args: argparse.Namespace, overrides: dict[str, str], there: Path) -> Report:
    """Draw the chosen figures into a folder of their own and compare them with those in `there`."""
    from analysis.present.comparison import DIFFERENT, MISSING, NEW, TOLERANCE, compare_figures
    from analysis.suite.runner import run_suite

    if not any(there.glob("*.csv")):
        raise UsageError(f"--check: no figures lie in {there}; draw them first, or say where they are with --figures")
    with tempfile.TemporaryDirectory(prefix="analysis-figures-") as folder:
        run_suite(args.preset, only=args.only, overrides=overrides, figures_dir=folder)
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
