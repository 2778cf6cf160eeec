"""`analysis figures`: run the notebooks of a preset and draw their figures."""

import argparse
from dataclasses import asdict

from analysis import paths
from analysis.commands import out_folder
from analysis.commands.arguments import add_verb
from analysis.commands.common import Report, table
from analysis.errors import UsageError


def add(verbs) -> None:
    """The verb and its arguments."""
    verb = add_verb(
        verbs,
        "figures",
        figures,
        "run the notebooks and draw the figures, reusing results that are stored",
        "  analysis figures\n  analysis figures --only 01_compounding_error --set EPOCHS=5",
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


def figures(args: argparse.Namespace) -> Report:
    """Run notebooks and say where their executed copies and figures are. Raises: UsageError, SuiteError."""
    from analysis.suite.runner import figures_folder, run_suite

    if args.figures is not None:
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
        from analysis.suite.suite import plan

        return dry_run(plan(args.preset, args.only, overrides))
    runs = run_suite(args.preset, only=args.only, overrides=overrides, figures_dir=args.figures)
    folder = figures_folder(args.preset, overrides, args.figures)
    rows = [(run.name, run.status, f"{run.seconds:.1f}", str(run.path)) for run in runs]
    text = table(("notebook", "status", "seconds", "executed copy"), rows) + f"\n\nfigures  {folder}"
    return Report(text, {"figures": str(folder), "notebooks": [asdict(run) | {"path": str(run.path)} for run in runs]})
