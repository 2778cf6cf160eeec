"""Notebooks run as they stand in this process, which imports once for all of them; each once, whichever process of the
tests asks first.
"""

import ast
import json
import types
from contextlib import chdir
from pathlib import Path
from typing import Any
from unittest import mock

from filelock import FileLock
from IPython.core.formatters import DisplayFormatter
from IPython.core.pylabtools import select_figure_formats
from matplotlib import pyplot

from analysis import paths


def run(path: Path) -> None:
    """Carry out every code cell with the parameters as they stand, and make of what it shows what a browser would be
    sent; nothing where a process with this ANALYSIS_HOME has done so.
    """
    done = paths.runs() / "ran" / path.stem
    done.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{done}.lock"):
        if done.exists():
            return
        with chdir(path.parent), mock.patch.dict("os.environ", ANALYSIS_WORKERS="1"):
            _run(path)
        done.touch()


def _run(path: Path) -> None:
    formatter = DisplayFormatter()
    select_figure_formats(types.SimpleNamespace(display_formatter=formatter), {"png"})
    names: dict[str, Any] = {"__name__": "__main__", "display": formatter.format}
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        statements, where = ast.parse("".join(cell["source"])).body, f"{path.stem}, cell {cell['id']}"
        last = statements.pop().value if isinstance(statements[-1], ast.Expr) else None
        exec(compile(ast.Module(statements, []), where, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last), where, "eval"), names)
            assert value is None or formatter.format(value)[0], f"{where} shows nothing of a {type(value).__name__}"
        pyplot.close("all")
