"""Sphinx: the pages of the repository as they lie, and the notebooks as they were executed.

The source folder is the repository itself, so that a relative link means the same on the site as in the repository.
Nothing is executed; `ANALYSIS_NOTEBOOKS` names the folder of executed copies.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path

from analysis import paths

sys.path.insert(0, str(Path(__file__).parent))
import explore

EXECUTED = Path(os.environ.get("ANALYSIS_NOTEBOOKS") or paths.runs() / "notebooks" / "lab")
WIDGET = "application/vnd.jupyter.widget-view+json"

project = "Pruning analysis"
author = "The pruning-analysis developers"
project_copyright = author
root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/*.md",
    "data/README.md",
    "benchmarks/claims.md",
    "tests/helpers/README.md",
    "notebooks/*.ipynb",
    "notebooks/tutorials/*.ipynb",
]
extensions = ["myst_nb"]
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # widgets are left out: they need a kernel
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
html_math_renderer = "mathml"  # drawn by browsers themselves: no script, no network
highlight_language = "none"  # of blocks that name no language
html_theme = "furo"
html_title = "Pruning analysis"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False

CONTENTS = """
```{toctree}
:hidden:
:caption: What it shows

docs/gallery
docs/explore
docs/results
benchmarks/claims
```

```{toctree}
:hidden:
:caption: Using it

docs/path
docs/doctor
docs/own-model
docs/gpu
docs/recipes
docs/words
docs/encoders
docs/cluster
docs/families
docs/tables
docs/glossary
docs/exit-codes
docs/explorers
docs/speed
```

```{toctree}
:hidden:
:caption: Notebooks
:glob:

notebooks/*
notebooks/tutorials/*
```

```{toctree}
:hidden:
:caption: The project

docs/extending
CONTRIBUTING
tests/helpers/README
CHANGELOG
docs/data-and-licences
data/README
```
"""
PAGE = re.compile(r"\((docs/)?notebooks/(\w+)\.md\)")  # of README and of docs/
NOT_EXECUTED = (
    "```{{note}}\nThis notebook is shown without results. `make figures ONLY={name}` executes it and leaves a copy with"
    " results, which `make docs` then shows here.\n```"
)


def read_source(app, docname: str, source: list[str]) -> None:
    """Put the table of contents under the README, and executed copies in the place of notebooks."""
    if docname == root_doc:
        source[0] += CONTENTS
    if re.match(r"notebooks/\d", docname):
        source[0] = executed_copy(Path(docname).name, source[0])
    else:  # the site has the executed notebooks themselves
        source[0] = PAGE.sub(notebook_link, source[0])


def notebook_link(page: re.Match) -> str:
    """The notebook itself in the place of its page."""
    folder = "notebooks" if page[2][0].isdigit() else "notebooks/tutorials"
    return f"({'' if page[1] else '../'}{folder}/{page[2]}.ipynb)"


def executed_copy(name: str, source: str) -> str:
    """The executed copy of a notebook, or its source with a note; without what only a kernel can use."""
    file = EXECUTED / f"{name}.ipynb"
    notebook = json.loads(file.read_text("utf-8") if file.is_file() else source)
    notebook["metadata"].pop("widgets", None)
    cells = notebook["cells"]
    if file.is_file():  # the figures stand in it as they were drawn
        cells[:] = [cell for cell in cells if "published" not in cell["metadata"].get("tags", [])]
    for cell in cells:
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if WIDGET not in output.get("data", {})]
    if not file.is_file():
        note = {"cell_type": "markdown", "metadata": {}, "source": NOT_EXECUTED.format(name=name)}
        cells.insert(1, note | ({"id": "not-executed"} if "id" in cells[0] else {}))
    return json.dumps(notebook)


def add_tables(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Give the page of explorers what they show."""
    if pagename == "docs/explore":
        app.add_js_file(None, body=explore.script())
        app.add_js_file("explore.js")


def write_formula(display: str):
    """A writer of formulas in a line or on their own."""
    from docutils import nodes
    from latex2mathml.converter import convert

    def visit(self, node) -> None:
        self.body.append(convert(node.astext(), display=display))
        raise nodes.SkipNode

    return visit, None


def write_index(app, exception) -> None:
    """The start page under the name that servers look for."""
    if exception is None:
        shutil.copy(Path(app.outdir) / "README.html", Path(app.outdir) / "index.html")


def setup(app) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", write_formula("inline"), write_formula("block"))
    app.connect("source-read", read_source)
    app.connect("html-page-context", add_tables)
    app.connect("build-finished", write_index)
