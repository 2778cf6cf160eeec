"""Throw-away notebooks: a folder with a suite.toml and notebooks of a few lines."""

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
    """write(path, *cells, parameters=...) -> a notebook with one parameters cell and the given code cells."""

    def write(path, *cells, parameters=PARAMETERS, tags=("parameters",)):
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
        notebook.cells = [
            nbformat.v4.new_markdown_cell("# Title"),
            nbformat.v4.new_code_cell(parameters, metadata={"tags": list(tags)}),
        ]
        notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
        nbformat.write(notebook, path)

    return write


@pytest.fixture
def folder(tmp_path, write_notebook):
    """Two notebooks that pass, and the suite that runs them."""
    here = tmp_path / "notebooks"
    here.mkdir()
    (here / "suite.toml").write_text(SUITE)
    write_notebook(here / "01_first.ipynb", "print(N, LR, NAMES, DEEP)")
    write_notebook(here / "02_second.ipynb", "print(N)")
    return here
