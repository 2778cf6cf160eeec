"""Throw-away notebooks: a folder with a suite.toml and notebooks of a few lines, and papermill without kernels."""

from pathlib import Path

import nbformat
import pytest

PARAMETERS = (
    "# Parameters\nPRESET: str = 'smoke'\nFIGURES: str = ''\nN: int = 3\nLR: float = 1e-3\nNAMES: list[str] ="
    " ['a']\nDEEP: bool = False"
)
SUITE = (
    "[presets.lab.all]\nN = 8\n[presets.lab.01_first]\nLR = 2e-4\n[presets.lab.02_second]\n[presets.tiny.01_first]\n"
)


@pytest.fixture
def write_notebook():
    """write(path, *cells, parameters=...) -> a notebook with one parameters cell and the given code cells, which have
    `more_tags`.
    """

    def write(path, *cells, parameters=PARAMETERS, tags=("parameters",), more_tags=()):
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
        notebook.cells = [
            nbformat.v4.new_markdown_cell("# Title"),
            nbformat.v4.new_code_cell(parameters, metadata={"tags": list(tags)}),
        ]
        notebook.cells += [nbformat.v4.new_code_cell(cell, metadata={"tags": list(more_tags)}) for cell in cells]
        nbformat.write(notebook, path)

    return write


@pytest.fixture
def folder(tmp_path, write_notebook, monkeypatch):
    """Two notebooks that pass, and the suite that runs them; results in a folder of the test's own."""
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "home"))
    here = tmp_path / "notebooks"
    here.mkdir()
    (here / "suite.toml").write_text(SUITE)
    write_notebook(here / "01_first.ipynb", "print(N, LR, NAMES, DEEP)")
    write_notebook(here / "02_second.ipynb", "print(N)")
    return here


@pytest.fixture
def papermill_is(monkeypatch):
    """papermill_is(does): instead of executing anything, leave a copy and call `does(name, parameters)`; returns the
    names of what was executed.
    """

    def install(does=lambda name, parameters: None):
        import papermill

        executed = []

        def execute_notebook(source, copy, *, parameters, **more):
            executed.append(Path(source).stem)
            Path(copy).write_bytes(Path(source).read_bytes())
            does(Path(source).stem, parameters)

        monkeypatch.setattr(papermill, "execute_notebook", execute_notebook)
        return executed

    return install
