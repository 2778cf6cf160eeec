"""Imports run one way, room above room and file above file, and nobody loads torch who only reads tables.

`python tests/test_imports.py` prints the rooms from the ground up, with what each imports.
"""

import ast
import json
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from analysis import paths

PACKAGE = paths.ROOT / "analysis"
GROUND = {"distributed", "errors", "memory", "paths", "progress", "storage"}
TABLES = {"schema"}
FLOORS = [
    GROUND,
    TABLES,
    {"windows", "lab", "recipe"},
    {"models"},
    {"text"},
    {"training", "streams"},
    {"masks"},
    {"reconstruction"},
    {"structured"},
    {"measure"},
    {"pruning"},
    {"study", "extend"},
    {"live"},
]
ALLOWED = {room: set().union(*FLOORS[:level]) for level, floor in enumerate(FLOORS) for room in floor}
ALLOWED |= dict.fromkeys(GROUND, GROUND)
ALLOWED |= {"suite": GROUND, "present": GROUND | TABLES | {"recipe"}}
ANYTHING = {"__init__", "__main__", "cli", "commands"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    """First name below the package: `models` for models/load.py, `schema` for schema.py."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def imports(tree: ast.Module, file: Path):
    """Every imported module of the package as (dotted name below `analysis`, line); type-checking imports never run."""
    nodes = list(ast.walk(tree))
    idle = {
        id(inner)
        for node in nodes
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    here = ("analysis", *file.relative_to(PACKAGE).parts[:-1])
    for node in nodes:
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


@cache
def imports_of(file: Path) -> list[tuple[str, int]]:
    return list(imports(tree_of(file), file))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_rooms_below_it(file):
    room = room_of(file)
    if room in ANYTHING:
        return
    assert room in ALLOWED, f"{file.name}: {room} is on no floor; place it in FLOORS"
    for name, line in imports_of(file):
        if name.split(".")[0] == room or name == "analysis":
            continue
        below = any(name == other or name.startswith(other + ".") for other in ALLOWED[room])
        assert below, f"{file.relative_to(paths.ROOT)}:{line}: {room} imports {name}, which is not below it"


def module_of(file: Path) -> str:
    """Dotted name below the package."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def file_graph() -> dict[str, set[str]]:
    """What each file imports, deferred imports included: module -> modules of the package."""
    modules = {module_of(file) for file in FILES}
    graph = {}
    for file in FILES:
        if module_of(file) == "__init__":
            continue  # the public names, fetched when first used
        names = {name for name, _ in imports_of(file)}
        graph[module_of(file)] = {
            next((m for m in (name, name.rpartition(".")[0]) if m in modules), "") for name in names
        }
        graph[module_of(file)] -= {"", module_of(file)}
    return graph


def test_no_file_imports_itself_by_way_of_others():
    try:
        tuple(TopologicalSorter(file_graph()).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_a_deferred_import_counts_and_a_type_only_one_does_not(tmp_path):
    source = (
        "if TYPE_CHECKING:\n    from analysis.study import job\ndef late():\n    from analysis.models import load\n"
    )
    assert {name for name, _ in imports(ast.parse(source), PACKAGE / "text" / "load.py")} == {"models.load"}


def test_the_walk_sees_upward_imports_in_every_form():
    source = (
        "import analysis.study.store\nfrom analysis.pruning.loop import prune\nfrom ..models import load\nfrom . import"
        " windows\ndef late():\n    from analysis import cli\nif TYPE_CHECKING:\n    from analysis.models.load import"
        " LoadedModel\n"
    )
    seen = {name for name, _ in imports(ast.parse(source), PACKAGE / "text" / "load.py")}
    assert seen == {"study.store", "pruning.loop.prune", "models.load", "text.windows", "cli"}


def test_nothing_imports_notebooks_or_tests():
    for file in FILES:
        text = file.read_text("utf-8")
        if "tests" not in text and "notebooks" not in text:
            continue
        for node in ast.walk(tree_of(file)):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [module or ""]
            assert not {name.split(".")[0] for name in names} & {"tests", "notebooks"}, file


LIGHT = [
    "analysis",
    "analysis.present.compounding",
    "analysis.present.explore.builder",
    "analysis.live.runs",
    "analysis.schema",
    "analysis.study.sweep",
    "analysis.recipe.recipe",
    "analysis.suite.runner",
    "analysis.cli",
]


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """What of the heavy packages each light module has loaded, imported one after another in a fresh interpreter."""
    heavy = {"torch", "transformers", "datasets", "papermill", "ipywidgets"}
    code = (
        "import importlib, json, sys\nloaded = {}\n"
        f"for module in {LIGHT!r}:\n    before = set(sys.modules)\n    importlib.import_module(module)\n"
        f"    loaded[module] = sorted((set(sys.modules) - before) & {heavy!r})\n"
        "print(json.dumps(loaded))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", LIGHT)
def test_importing_loads_no_torch(loaded, module):
    assert not loaded[module], f"import {module} loads {', '.join(loaded[module])}"


def picture() -> str:
    """The rooms from the ground up, each with the rooms it imports."""
    below = {}
    for module, others in file_graph().items():
        below.setdefault(module.split(".")[0], set()).update(other.split(".")[0] for other in others)
    rooms = [room for floor in FLOORS for room in sorted(floor)] + ["suite", "present", "commands", "cli"]
    lines = [
        f"{room:16} {' '.join(r for r in rooms if r in below[room] and r != room)}" for room in rooms if room in below
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(picture())
