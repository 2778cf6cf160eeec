"""Write docs/notebooks/*.md: every notebook as it was executed, its figures those of figures/, to be read without
running or building anything.

    python docs/rendered.py data/runs/notebooks/lab

A tutorial, executed as it stands by `papermill notebooks/tutorials/NAME.ipynb FOLDER/NAME.ipynb --cwd
notebooks/tutorials`, is written with all that its commands say and its own pictures: python docs/rendered.py FOLDER.
"""

import base64
import copy
import os
import re
import sys
from collections.abc import Iterator
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
ABOUT_TUTORIAL = (
    "*Executed as it stands; its source, to run and change, is"
    " [{name}.ipynb](../../notebooks/tutorials/{name}.ipynb).*\n\n"
)
PATH, TUTORIALS = paths.notebooks(), paths.notebooks() / "tutorials"
OWN = re.compile(r"[^\s'\"]+(?=/runs/own_model)")  # the folder of results, wherever it lay
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
FIGURE = re.compile(r'save_figure\(\s*\w+,\s*"(\w+)"')
STYLE = re.compile(r"<style.*?</style>\s*", re.DOTALL)
BETWEEN = re.compile(r">\s+<")
LEFT_OUT = {"published"}  # a figure that is also drawn below
RECALLED = "predict.recall("  # nobody has predicted here
PLACE = re.compile(r"^(PRESET|FIGURES) = .*\n?", re.MULTILINE)
WIDGET = "application/vnd.jupyter.widget-view+json"


def from_pages(text: str, folder: Path = PATH) -> str:
    """The prose of a notebook in `folder` with its links as they lead from docs/notebooks/."""

    def moved(link: re.Match) -> str:
        target = Path(os.path.normpath(folder / link[1]))
        if target.suffix == ".ipynb" and target.parent in (PATH, TUTORIALS):
            return f"]({target.stem}.md{link[2] or ''})"
        return f"]({Path(os.path.relpath(target, PAGES)).as_posix()}{link[2] or ''})"

    return LINK.sub(moved, text)


def tags(cell: NotebookNode) -> list[str]:
    """Of a cell."""
    return cell.metadata.get("tags", [])


def given(cell: NotebookNode) -> NotebookNode:
    """The values of the preset, without the place that this run had."""
    cell = copy.deepcopy(cell)
    cell.source = PLACE.sub("", cell.source).strip()
    return cell


def page(source: NotebookNode, executed: NotebookNode, name: str, folder: Path = PATH) -> str:
    """The page of a notebook of `folder`: cells of its source, outputs of the executed copy. Raises ValueError where
    the copy is of another version of the notebook.
    """
    outputs = {cell.id: cell.outputs for cell in executed.cells if cell.cell_type == "code"}
    tutorial, shown = folder == TUTORIALS, copy.deepcopy(source)
    shown.cells = [cell for cell in shown.cells if not LEFT_OUT & set(tags(cell)) and RECALLED not in cell.source]
    for at, cell in reversed(list(enumerate(shown.cells))):
        if cell.cell_type == "markdown":
            cell.source = from_pages(cell.source, folder)
            continue
        if cell.id not in outputs:
            raise ValueError(f"{name}: the executed copy has no cell {cell.id}; execute the notebook again")
        if "parameters" in tags(cell):
            shown.cells[at + 1 : at + 1] = [given(one) for one in executed.cells if "injected-parameters" in tags(one)]
        own = picture(name, cell) if tutorial else None
        cell.outputs = [kept for output in outputs[cell.id] if (kept := _shown(output, cell.source, own))]
    shown.cells[0].source += "\n\n" + (ABOUT_TUTORIAL if tutorial else ABOUT).format(name=name).strip()
    body, _ = MarkdownExporter().from_notebook_node(shown)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", body)).strip() + "\n"


def picture(name: str, cell: NotebookNode) -> str:
    """The file beside a tutorial's page that holds what one of its cells draws."""
    return f"{name}-{cell.id}.png"


def pictures(executed: NotebookNode, name: str) -> Iterator[tuple[str, bytes]]:
    """The file names and contents of what the cells of a tutorial draw."""
    for cell in executed.cells:
        for output in cell.get("outputs", []):
            if drawn := output.get("data", {}).get("image/png"):
                yield picture(name, cell), base64.b64decode(drawn)


def _shown(output: NotebookNode, code: str, own: str | None) -> NotebookNode | None:
    """own: the file of a tutorial's picture; None in other notebooks, of which no stream is shown either."""
    data = output.get("data", {})
    if output.output_type == "stream":
        return (
            None if own is None else nbformat.v4.new_output("stream", name="stdout", text=OWN.sub("data", output.text))
        )
    if WIDGET in data:
        return None
    if "image/png" in data:
        drawn = FIGURE.search(code)
        kept = f"../../figures/{drawn[1]}.svg" if drawn else own
        text = f"![{drawn[1] if drawn else 'drawn'}]({kept})" if kept else "*(a figure that is not kept)*"
    elif "text/markdown" in data:
        text = from_pages(data["text/markdown"])
    elif "text/html" in data:
        text = BETWEEN.sub("><", STYLE.sub("", data["text/html"]))
    else:
        shown = copy.deepcopy(output)
        if "text/plain" in data:
            shown.data["text/plain"] = OWN.sub("data", data["text/plain"])
        return shown
    return nbformat.v4.new_output("display_data", {"text/markdown": text})


def main(folder: str) -> None:
    """Write the pages of the notebooks whose executed copies lie in a folder."""
    for copied in sorted(Path(folder).glob("*.ipynb")):
        home = TUTORIALS if (TUTORIALS / copied.name).exists() else PATH
        source, executed = (nbformat.read(at, as_version=4) for at in (home / copied.name, copied))
        storage.write(PAGES / f"{copied.stem}.md", page(source, executed, copied.stem, home))
        for file, content in pictures(executed, copied.stem) if home == TUTORIALS else ():
            storage.write(PAGES / file, content)


if __name__ == "__main__":
    main(*sys.argv[1:])
