"""What is kept of every notebook's last run, in a file beside its executed copy: what it was made from, how long it
took, how it went, and the figures that it left.

A notebook is fresh while nothing that it was made from has changed and its figures are still those it drew.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from analysis import paths, storage
from analysis.suite.suite import Plan, read_cells

LIBRARIES = ("torch", "transformers", "numpy", "pandas", "scipy", "matplotlib", "seaborn", "ipywidgets")
SUFFIXES = ("svg", "png", "csv", "json")  # the files of a figure
_SAVED = re.compile(r"""save_figure\(\s*\w+\s*,\s*["']([^"']+)["']""")


@dataclass(frozen=True)
class Record:
    """A notebook's last run. `inputs`: the digest of what it was made from; `parameters`: that of its parameters alone;
    `figures`: sha256 of the files it left, by name, in `folder`; `compared`: rows of the comparison with the tables
    that were there before.
    """

    inputs: str
    status: str
    seconds: float
    finished: str
    error: str = ""
    folder: str = ""
    parameters: str = ""
    figures: dict[str, str] = field(default_factory=dict)
    compared: list[dict[str, Any]] = field(default_factory=list)


def file_of(copy: Path) -> Path:
    """Where the record of an executed copy is kept."""
    return copy.with_suffix(".json")


def read(copy: Path) -> Record | None:
    """The record beside an executed copy; None where there is none that can be read."""
    try:
        return Record(**storage.read_json(file_of(copy)))
    except (OSError, ValueError, TypeError):
        return None


def write(copy: Path, record: Record) -> None:
    """Keep a record beside an executed copy. Raises StoreError."""
    with storage.explained(file_of(copy)):
        storage.write(file_of(copy), json.dumps(asdict(record), indent=2) + "\n")


def is_fresh(plan: Plan, copy: Path, inputs: str) -> bool:
    """Whether the last run of a notebook came from these inputs and all that it left is there, unchanged."""
    record = read(copy)
    if record is None or record.status != "completed" or record.inputs != inputs or not copy.is_file():
        return False
    return record.figures == drawn(plan)


def drawn(plan: Plan) -> dict[str, str]:
    """sha256 of the files of the figures that a notebook's source saves, as far as they are there."""
    folder = Path(plan.parameters["FIGURES"])
    names = _SAVED.findall("\n".join(source for kind, source in _sources(plan.path) if kind == "code"))
    files = [folder / f"{name}.{suffix}" for name in names for suffix in SUFFIXES]
    return {file.name: storage.file_sha256(file) for file in files if file.is_file()}


def inputs_digest(plan: Plan) -> str:
    """sha256 of what a notebook's figures come from: its cells and parameters, the package's source, the versions of
    the libraries that compute and draw, and size and time of the lab's files and of every file and folder that a
    parameter names. What a name on a hub stands for is taken to stay.
    """
    package = paths.ROOT / "analysis"
    return storage.identity_digest(
        {
            "cells": list(_sources(plan.path)),
            "parameters": dict(plan.parameters),
            "package": {str(file.relative_to(package)): storage.file_sha256(file) for file in _under(package, "*.py")},
            "libraries": storage.environment() | storage.versions(*LIBRARIES),
            "files": sorted({_state(file) for place in [paths.lab(), *_named(plan)] for file in _under(place)}),
        }
    )


def parameters_digest(plan: Plan) -> str:
    """sha256 of what a notebook computes with: its parameters but for the folder of its figures."""
    return storage.identity_digest({name: value for name, value in plan.parameters.items() if name != "FIGURES"})


def _sources(path: Path) -> Iterator[tuple[str, str]]:
    for cell in read_cells(path):
        yield cell["cell_type"], "".join(cell["source"])


def _named(plan: Plan) -> Iterator[Path]:
    """The files and folders that parameters name, also within a source such as `self:prompt=notes.txt`,
    `notes.txt[:80%]`, `rows.jsonl#body` or `a.txt:0.5+b.txt:0.5`.
    """
    for name, value in plan.parameters.items():
        for text in value if isinstance(value, (list, tuple)) else [value]:
            if name == "FIGURES" or not isinstance(text, str):
                continue
            for word in {text, re.split(r"[\[#]", text)[0], *re.split(r"[=,:+#\[\]]", text)}:
                try:
                    place = Path(word).expanduser()
                    if word and place.exists():
                        yield place.resolve()
                except (OSError, RuntimeError, ValueError):  # no path at all
                    continue


def _under(place: Path, pattern: str = "*") -> Sequence[Path]:
    return [place] if place.is_file() else sorted(file for file in place.rglob(pattern) if file.is_file())


def _state(file: Path) -> tuple[str, int, int]:
    found = file.stat()
    return str(file), found.st_size, found.st_mtime_ns


def forecast(seconds: Sequence[float | None], at_once: int) -> float | None:
    """Seconds that notebooks take, begun in this order and so many at once, by the seconds each took before; None if
    one of them is not known.
    """
    busy = [0.0] * max(1, at_once)
    for took in seconds:
        if took is None:
            return None
        busy[busy.index(min(busy))] += took
    return max(busy)
