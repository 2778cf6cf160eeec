"""`analysis list`: models, text sources, tasks, recipes and stored runs."""

import argparse

from analysis.commands.arguments import add_verb
from analysis.commands.common import Report, table
from analysis.recipe.words import CRITERIA, PATTERNS


def add(verbs) -> None:
    """The verb and its arguments."""
    verb = add_verb(
        verbs,
        "list",
        list_things,
        "list models, text sources, tasks, recipes or stored runs",
        "  analysis list models\n  analysis list recipes",
    )
    verb.add_argument("what", choices=("models", "sources", "tasks", "recipes", "runs"))


def list_things(args: argparse.Namespace) -> Report:
    """Models, sources, tasks, recipes or runs as a table."""
    header, rows = {"models": _models, "sources": _sources, "tasks": _tasks, "recipes": _recipes, "runs": _runs}[
        args.what
    ]()
    text = table(header, rows) if rows else f"no {args.what} yet"
    return Report(text, {args.what: [dict(zip(header, row)) for row in rows]})


def _models():
    from analysis.models.hub import lab_models

    return ("model",), [(name,) for name in lab_models()]


def _sources():
    from analysis.text.sources import SOURCES

    return ("source", "what it is"), list(SOURCES.items())


def _tasks():
    from analysis.text.tasks import TASKS

    return ("task", "what it asks"), list(TASKS.items())


def _recipes():
    from analysis.recipe.parts import REFINEMENTS, UNITS
    from analysis.recipe.presets import PRESETS
    from analysis.recipe.recipe import METHODS, REPAIRING

    presets = {name: f"{preset.text}: {preset.description} ({preset.source})" for name, preset in PRESETS.items()}
    parts = {
        "criterion": CRITERIA,
        "refinement": REFINEMENTS,
        "pattern": PATTERNS,
        "method": METHODS | REPAIRING,
        "unit": UNITS,
        "recipe": presets,
    }
    return ("part", "word", "meaning"), [
        (part, word, meaning) for part, words in parts.items() for word, meaning in words.items()
    ]


def _runs():
    from analysis.study.store import list_runs

    header = ("run", "state", "created", "model", "recipe", "MiB")
    jobs = [(info, info.job.get("model", ""), info.job.get("recipe", "")) for info in list_runs()]
    return header, [
        (info.run, info.state, info.created, str(model), str(recipe), info.size_mib) for info, model, recipe in jobs
    ]
