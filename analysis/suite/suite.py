"""What runs with which parameters: `notebooks/suite.toml`, checked against the notebooks before anything runs.

Papermill takes an unknown parameter with a warning and a wrong type without one, so the default would run under another
name. Here the notebook's own parameters cell is the contract: it is read without being run, every parameter has an
annotation and a literal default, and whatever the suite or the user gives must be one of them and of that type. All
problems are reported at once (SuiteError).
"""

import ast
import difflib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis import paths, storage
from analysis.errors import SuiteError

TYPES = ("str", "int", "float", "bool", "list[str]", "list[int]", "list[float]")
SHARED = "all"  # the part of a preset that goes to every notebook
ABOUT = "about"  # what a preset takes: `minutes` on two idle cores and `gib` of memory, estimated, or in words, `needs`


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: its name, its annotated type and its default."""

    name: str
    type: str
    default: Any

    def read(self, value: Any) -> Any:
        """`value` in this parameter's type; text from a command line is read as that type, lists as words with spaces
        between or as JSON. ValueError if it is of another.
        """
        inner = self.type.removeprefix("list[").removesuffix("]")
        if inner == self.type:
            return _scalar(inner, value)
        if isinstance(value, str):
            value = storage.parse_json(value) if value.lstrip().startswith("[") else value.split()
        if not isinstance(value, (list, tuple)):
            raise ValueError
        return [_scalar(inner, item) for item in value]


@dataclass(frozen=True)
class Plan:
    """One notebook to run: its name, its file and every parameter that is set, typed.

    alone: nothing may run beside it, since it measures times (a cell tagged `timed`), or since a model of it is not one
    of the lab's, whose runs take a machine to themselves.
    """

    name: str
    path: Path
    parameters: Mapping[str, Any]
    alone: bool = False


def _scalar(kind: str, value: Any) -> Any:
    if isinstance(value, str) and kind == "bool":
        value = {"true": True, "false": False}.get(value.lower(), value)
    elif isinstance(value, str) and kind != "str":
        value = int(value) if kind == "int" else float(value)
    exact: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool}
    if not isinstance(value, exact[kind]) or isinstance(value, bool) is not (kind == "bool"):
        raise ValueError
    if kind == "float" and not math.isfinite(value):
        raise ValueError
    return float(value) if kind == "float" else value


def read_parameters(path: Path) -> dict[str, Parameter]:
    """Parameters of a notebook from its cell tagged `parameters`, in order, without running anything.

    Raises SuiteError if the file is missing or no notebook, has not exactly one such cell, or the cell holds anything
    but `NAME: type = literal` lines (a value derived there would keep its default when another parameter is injected).
    """
    tagged = ["".join(cell["source"]) for cell in read_cells(path) if "parameters" in _tags(cell)]
    if len(tagged) != 1:
        raise SuiteError(f"notebook {path.stem}: {len(tagged)} cells are tagged `parameters`, exactly one is needed")
    try:
        parameters = [_parameter(line) for line in ast.parse(tagged[0]).body]
        bad = [p.name for p in parameters if p.type not in TYPES or p.read(p.default) != p.default]
    except (SyntaxError, ValueError, TypeError):
        raise SuiteError(
            f"notebook {path.stem}: its parameters cell may hold only lines `NAME: type = literal`"
        ) from None
    if bad:
        raise SuiteError(
            f"notebook {path.stem}: {', '.join(bad)} must be annotated {' or '.join(TYPES)}, with a default of that"
            " type"
        )
    return {p.name: p for p in parameters}


def read_cells(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook. Raises SuiteError if the file is missing or no notebook."""
    try:
        return list(storage.read_json(path)["cells"])
    except FileNotFoundError:
        have = ", ".join(sorted(p.stem for p in path.parent.glob("*.ipynb"))) or "none"
        raise SuiteError(f"notebook {path.stem}: no file {path.name} in {path.parent.name}/ (there: {have})") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SuiteError(f"notebook {path.stem}: {path.name} is not a notebook ({error})") from None


def _tags(cell: Mapping[str, Any]) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def _alone(path: Path, parameters: Mapping[str, Parameter], given: Mapping[str, Any]) -> bool:
    """See `Plan`."""
    named = [given.get(name, parameters[name].default) for name in ("MODEL", "MODELS") if name in parameters]
    models = [model for value in named for model in (value if isinstance(value, list) else [value])]
    lab = all(model == "lab" or model.startswith("lab/") for model in models)
    return not lab or any("timed" in _tags(cell) for cell in read_cells(path))


def _parameter(line: ast.stmt) -> Parameter:
    """The parameter of a line `NAME: type = literal`; ValueError for any other line."""
    if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name) or line.value is None:
        raise ValueError
    return Parameter(line.target.id, ast.unparse(line.annotation), ast.literal_eval(line.value))


def read_suite(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Presets of `folder`/suite.toml: {preset: {notebook, "all" or "about": {parameter: value}}}; SuiteError if it
    cannot be read.
    """
    try:
        table = tomllib.loads((folder / "suite.toml").read_text("utf-8"))
    except FileNotFoundError:
        raise SuiteError(f"suite: no notebooks, no suite.toml in {folder}{paths.elsewhere()}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SuiteError(f"suite: {folder / 'suite.toml'} cannot be read: {error}") from None
    presets = table.pop("presets", {})
    tables = isinstance(presets, dict) and all(
        isinstance(p, dict) and all(isinstance(part, dict) for part in p.values()) for p in presets.values()
    )
    if table or not presets or not tables:
        raise SuiteError("suite: suite.toml may hold only tables [presets.NAME.all] and [presets.NAME.NOTEBOOK]")
    return presets


def cost(preset: str, folder: Path | None = None) -> str:
    """What a preset takes, in words, where suite.toml says it; "" where it does not. SuiteError for a file that cannot
    be read.
    """
    said = read_suite(folder or paths.notebooks()).get(preset, {}).get(ABOUT)
    if not said:
        return ""
    if "needs" in said:
        return f"all of preset {preset} needs {said['needs']}"
    return (
        f"all of preset {preset}: an estimated {said['minutes']:g} minutes on two idle cores where nothing of it is"
        f" stored, {said['gib']:g} GiB of memory"
    )


def plan(
    preset: str,
    only: str | Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    always: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> list[Plan]:
    """Notebooks of a preset, in its order, each with its typed parameters: shared ones, its own, `overrides`, then
    `always`.

    `only` narrows to one or several names. An override goes to every chosen notebook that has such a parameter, and is
    an error if none has; `always` is what the runner itself sets in every notebook. Raises SuiteError with every
    problem found, before anything runs.
    """
    folder, always = folder or paths.notebooks(), dict(always or {})
    presets, overrides = read_suite(folder), dict(overrides or {})
    if not isinstance(preset, str) or preset not in presets:
        raise SuiteError(f"suite: no preset {preset!r} in suite.toml{_hint(preset, presets)}")
    sections = {name: values for name, values in presets[preset].items() if name not in (SHARED, ABOUT)}
    wanted = [only] if isinstance(only, str) else list(only or sections)
    if unknown := [name for name in wanted if name not in sections]:
        raise SuiteError(
            f"suite: preset {preset} runs no notebook {', '.join(map(repr, unknown))}{_hint(unknown[0], sections)}"
        )
    shared = presets[preset].get(SHARED, {})
    plans, used = [], set(always)
    problems = [f"{key} is set by the suite itself" for key in overrides if key in always]
    for name in (name for name in sections if name in wanted):
        try:
            known = read_parameters(folder / f"{name}.ipynb")
        except SuiteError as error:
            problems.append(str(error))
            used.update(overrides)  # nothing can be said about them
            continue
        used.update(known)
        given = {
            **shared,
            **sections[name],
            **{key: value for key, value in overrides.items() if key in known},
            **always,
        }
        path, typed = folder / f"{name}.ipynb", _typed(name, given, known, problems)
        plans.append(Plan(name, path, typed, alone=_alone(path, known, typed)))
    problems += [f"no chosen notebook has a parameter {key}{_hint(key, used)}" for key in overrides if key not in used]
    if problems:
        raise SuiteError("suite: nothing was run: " + "; ".join(problems))
    return plans


def _typed(
    notebook: str, given: Mapping[str, Any], parameters: Mapping[str, Parameter], problems: list[str]
) -> dict[str, Any]:
    """The given values in the notebook's types; what is unknown or of another type is added to `problems`."""
    out = {}
    for key, value in given.items():
        if key not in parameters:
            problems.append(f"notebook {notebook} has no parameter {key}{_hint(key, parameters)}")
            continue
        try:
            out[key] = parameters[key].read(value)
        except (ValueError, OverflowError, RecursionError):
            kind = parameters[key].type
            problems.append(f"notebook {notebook}: {key} is {kind}, got {value!r:.80}{_ways(key, kind)}")
    return out


def _ways(name: str, kind: str) -> str:
    """How a list is written, at the end of a message on one that is none."""
    if not kind.startswith("list"):
        return ""
    words = ["a.txt", "b c.txt"] if kind == "list[str]" else [0, 1] if kind == "list[int]" else [0.5, 1.0]
    plain = f"{name}='{' '.join(map(str, words))}'" if kind != "list[str]" else f"{name}='a.txt b.txt'"
    return f"; write a list with spaces, {plain}, or as JSON, {name}='{json.dumps(words)}'"


def _hint(name: object, valid) -> str:
    folded = {word.casefold(): word for word in valid}
    close = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.6)
    return f"; did you mean {folded[close[0]]}?" if close else f" (there are: {', '.join(valid)})"
