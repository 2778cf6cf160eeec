"""Imports run one way, floor by floor, and nobody loads torch who only reads tables.

The floors are those of the design: errors, paths, progress, lab -> (rules, notation) recipe, text -> models -> masks ->
reconstruction -> measure -> pruning -> study -> cli. `suite` stands on the ground floor alone; `present` reads
`records` only.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import paths

PACKAGE = paths.ROOT / "analysis"
GROUND = {"errors", "paths", "progress"}
TABLES = {"records"}
FLOORS = [
    GROUND,
    TABLES,
    {"lab"},
    {"rules", "presets"},
    {"notation"},
    {"recipe_parts"},
    {"recipe", "text"},
    {"models"},
    {"masks"},
    {"reconstruction"},
    {"measure"},
    {"walk"},
    {"whole"},
    {"pruning"},
    {"study"},
]
ALLOWED = {room: set().union(*FLOORS[:level]) for level, floor in enumerate(FLOORS) for room in floor}
ALLOWED |= dict.fromkeys(GROUND, GROUND)
ALLOWED |= {"suite": GROUND, "present": GROUND | TABLES}
ANYTHING = {"__init__", "__main__", "cli", "commands"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    """First name below the package: `models` for models/load.py, `recipe` for recipe.py."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(tree: ast.Module, file: Path):
    """Every imported module of the package as (dotted name below `analysis`, line); type-checking imports never run."""
    idle = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    here = ("analysis", *file.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree):
        if id(node) in idle:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((name.removeprefix("analysis."), node.lineno) for name in names if name.split(".")[0] == "analysis")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_rooms_below_it(file):
    room = room_of(file)
    if room in ANYTHING:
        return
    assert room in ALLOWED, f"{file.name}: {room} is on no floor; place it in FLOORS"
    for name, line in imports(ast.parse(file.read_text("utf-8")), file):
        if name.split(".")[0] == room or name == "analysis":
            continue
        below = any(name == other or name.startswith(other + ".") for other in ALLOWED[room])
        assert below, f"{file.relative_to(paths.ROOT)}:{line}: {room} imports {name}, which is not below it"


def test_the_walk_sees_upward_imports_in_every_form():
    source = (
        "import analysis.study.store\nfrom analysis.pruning.loop import prune\nfrom ..models import load\nfrom . import"
        " windows\ndef late():\n    from analysis import cli\nif TYPE_CHECKING:\n    from analysis.models.load import"
        " LoadedModel\n"
    )
    seen = {name for name, _ in imports(ast.parse(source), PACKAGE / "text" / "corpora.py")}
    assert seen == {"study.store", "pruning.prune", "models.load", "text.windows", "cli"}


def test_nothing_imports_notebooks_or_tests():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [module or ""]
            assert not {name.split(".")[0] for name in names} & {"tests", "notebooks"}, file


LIGHT = [
    "analysis",
    "analysis.present.compounding",
    "analysis.present.widgets",
    "analysis.schema",
    "analysis.study.sweep",
    "analysis.recipe.recipe",
    "analysis.suite.runner",
    "analysis.cli",
]


@pytest.mark.parametrize("module", LIGHT)
def test_importing_loads_no_torch(module):
    heavy = {"torch", "transformers", "datasets", "papermill", "ipywidgets"}
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {heavy!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split(), f"import {module} loads {done.stdout.strip()}"
