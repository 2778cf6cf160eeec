"""Write docs/notebooks/*.md: every notebook as it was executed, its figures those of figures/, to be read without
running or building anything.

python docs/rendered.py data/runs/notebooks/lab
"""

import copy
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbformat import NotebookNode

from analysis import paths, storage

PAGES = paths.ROOT / "docs" / "notebooks"
ABOUT = (
    "*Executed with the preset `lab`; its source, to run and change, is [{name}.ipynb](../../notebooks/{name}.ipynb)."
    " Controls need JupyterLab and are left out.*\n\n"
)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
FIGURE = re.compile(r'save_figure\(\s*\w+,\s*"(\w+)"')
STYLE = re.compile(r"<style.*?</style>\s*", re.DOTALL)
BETWEEN = re.compile(r">\s+<")
LEFT_OUT = {"published"}  # a figure that is also drawn below
RECALLED = "predict.recall("  # nobody has predicted here
PLACE = re.compile(r"^(PRESET|FIGURES) = .*\n?", re.MULTILINE)
WIDGET = "application/vnd.jupyter.widget-view+json"


def from_pages(text: str) -> str:
    """A notebook's prose with its links as they lead from docs/notebooks/."""

    def moved(link: re.Match) -> str:
        target, anchor = link[1], link[2] or ""
        if "/" not in target and target.endswith(".ipynb"):
            return f"]({Path(target).stem}.md{anchor})"
        return f"](../{target.removeprefix('../docs/')}{anchor})"

    return LINK.sub(moved, text)


def tags(cell: NotebookNode) -> list[str]:
    """Of a cell."""
    return cell.metadata.get("tags", [])


def given(cell: NotebookNode) -> NotebookNode:
    """The values of the preset, without the place that this run had."""
    cell = copy.deepcopy(cell)
    cell.source = PLACE.sub("", cell.source).strip()
    return cell


def page(source: NotebookNode, executed: NotebookNode, name: str) -> str:
    """The page of a notebook: cells of its source, outputs of the executed copy. Raises ValueError where the copy is
    of another version of the notebook.
    """
    outputs = {cell.id: cell.outputs for cell in executed.cells if cell.cell_type == "code"}
    shown = copy.deepcopy(source)
    shown.cells = [cell for cell in shown.cells if not LEFT_OUT & set(tags(cell)) and RECALLED not in cell.source]
    for at, cell in reversed(list(enumerate(shown.cells))):
        if cell.cell_type == "markdown":
            cell.source = from_pages(cell.source)
            continue
        if cell.id not in outputs:
            raise ValueError(f"{name}: the executed copy has no cell {cell.id}; execute the notebook again")
        if "parameters" in tags(cell):
            shown.cells[at + 1 : at + 1] = [given(one) for one in executed.cells if "injected-parameters" in tags(one)]
        cell.outputs = [kept for output in outputs[cell.id] if (kept := _shown(output, cell.source))]
    shown.cells[0].source += "\n\n" + ABOUT.format(name=name).strip()
    body, _ = MarkdownExporter().from_notebook_node(shown)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", body)).strip() + "\n"


def _shown(output: NotebookNode, code: str) -> NotebookNode | None:
    data = output.get("data", {})
    if WIDGET in data or output.output_type == "stream":
        return None
    if "image/png" in data:
        drawn = FIGURE.search(code)
        text = f"![{drawn[1]}](../../figures/{drawn[1]}.svg)" if drawn else "*(a figure that is not kept)*"
    elif "text/markdown" in data:
        text = from_pages(data["text/markdown"])
    elif "text/html" in data:
        text = BETWEEN.sub("><", STYLE.sub("", data["text/html"]))
    else:
        return output
    return nbformat.v4.new_output("display_data", {"text/markdown": text})


def main(folder: str) -> None:
    """Write the pages of the notebooks whose executed copies lie in a folder."""
    for copied in sorted(Path(folder).glob("*.ipynb")):
        source, executed = (nbformat.read(at, as_version=4) for at in (paths.notebooks() / copied.name, copied))
        storage.write(PAGES / f"{copied.stem}.md", page(source, executed, copied.stem))


if __name__ == "__main__":
    main(*sys.argv[1:])
