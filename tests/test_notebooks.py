"""The notebooks: their structure, and what they leave at smoke size.

Their cells are run as they stand; what that has left is looked at, and read from the store by the project's own runner.
"""

import ast
import json
import re

import nbformat
import pandas as pd
import pytest

from analysis import paths
from analysis.suite.runner import run_suite
from analysis.suite.suite import read_parameters
from tests.helpers import cells as cells_of

FOLDER = paths.notebooks()
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LOGIC = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.For,
    ast.While,
    ast.If,
    ast.Try,
    ast.With,
    ast.Lambda,
    ast.comprehension,
    ast.IfExp,
)
# Line magics of IPython: alone in a cell, `time: int = 3` would run %time.
LINE_MAGICS = """
    alias autoawait autocall automagic autosave bookmark cd clear cls colors conda config connect_info cp debug
    dhist dirs doctest_mode echo ed edit env gui hist history killbgscripts ldir less lf lk ll load load_ext
    loadpy logoff logon logstart logstate logstop ls lsmagic lx macro magic mamba man matplotlib micromamba
    mkdir more mv notebook page pastebin pdb pdef pdoc pfile pinfo pinfo2 pip popd pprint precision prun psearch
    psource pushd pwd pycat pylab qtconsole quickref recall rehashx reload_ext rep rerun reset reset_selective
    rm rmdir run save sc set_env store sx system tb time timeit unalias unload_ext uv who who_ls whos xdel xmode
"""
MAGICS = set(LINE_MAGICS.split())
LIVE = {"00_start_here"}  # it computes a matrix and writes text before the reader's eyes, besides reading tables
SPELLED = {
    "LR": "layer-wise reconstruction",
    "BR": "block-wise reconstruction",
    "GP": "global propagation",
    "CR": "cross-block reconstruction",
    "IR": "independent reconstruction",
}
TUTORIALS = sorted(FOLDER.glob("tutorials/*.ipynb"))  # beside the path: neither numbered nor in a preset
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_of_all = pytest.mark.parametrize("path", NOTEBOOKS + TUTORIALS, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def test_there_are_notebooks():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{number:02d}" for number in range(14)]


# What JupyterLab writes of itself into a notebook and its cells when it saves one that was opened and looked at.
JUPYTERLAB = {"codemirror_mode", "file_extension", "mimetype", "nbconvert_exporter", "pygments_lexer", "version"}
LOOKED_AT = {"tags", "editable", "slideshow", "collapsed", "scrolled", "jupyter", "jp-MarkdownHeadingCollapsed"}


def check_unrun(text: str) -> None:
    """A notebook's text holds no result and nothing of a machine, whichever editor has saved it."""
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}, "keep no other metadata (widgets, say)"
    assert (notebook.metadata.kernelspec.name, notebook.metadata.kernelspec.language) == ("python3", "python")
    assert notebook.metadata.kernelspec.display_name in ("Python 3", "Python 3 (ipykernel)")
    assert notebook.metadata.language_info.name == "python" and set(notebook.metadata.language_info) <= {
        "name",
        *JUPYTERLAB,
    }
    for cell in notebook.cells:
        assert set(cell.metadata) <= LOOKED_AT
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None), "clear outputs"
    assert not re.search(r"/(home|work|Users|tmp|root)/", text)


@each_of_all
def test_it_carries_no_outputs_and_no_machine(path):
    check_unrun(path.read_text("utf-8"))


def test_a_notebook_opened_and_saved_in_jupyterlab_passes_and_one_that_was_run_does_not():
    """What JupyterLab 4 writes, through the server's own way of reading and writing notebooks."""
    notebook = nbformat.reads(NOTEBOOKS[0].read_text("utf-8"), as_version=4)
    notebook.metadata.kernelspec.display_name = "Python 3 (ipykernel)"
    mode = {"name": "ipython", "version": 3}
    notebook.metadata.language_info.update(dict.fromkeys(JUPYTERLAB, "3.12.1") | {"codemirror_mode": mode})
    notebook.cells[0].metadata["editable"] = True
    saved = nbformat.writes(notebook)
    check_unrun(saved)
    code = next(cell for cell in notebook.cells if cell.cell_type == "code")
    code.execution_count = 1
    with pytest.raises(AssertionError, match="clear outputs"):
        check_unrun(nbformat.writes(notebook))
    code.execution_count = None
    notebook.metadata["widgets"] = {}
    with pytest.raises(AssertionError, match="no other metadata"):
        check_unrun(nbformat.writes(notebook))


@each
def test_it_begins_with_prose_under_one_title_and_ends_with_exercises(path):
    notebook = json.loads(path.read_text("utf-8"))
    first, last = notebook["cells"][0], notebook["cells"][-1]
    titles = [line for cell in cells(path, "markdown") for line in source(cell).splitlines() if re.match(r"# ", line)]
    assert first["cell_type"] == "markdown" and source(first).startswith("# ") and len(titles) == 1
    headings = [
        line for cell in cells(path, "markdown") for line in source(cell).splitlines() if line.startswith("## ")
    ]
    assert headings[:5] == [
        "## What you will learn",
        "## Predict first",
        "## What to expect",
        "## How to read the figures",
        "## What runs",
    ]
    closing = ["## What it means", "## Limits", "## References", "## To try"]
    assert [heading for heading in headings if heading in closing] == closing
    assert last["cell_type"] == "markdown" and source(last).startswith("## To try")


@each
def test_it_has_a_place_on_the_path_and_spells_out_its_words(path):
    prose = "\n".join(source(cell) for cell in cells(path, "markdown"))
    place = NOTEBOOKS.index(path)
    for near in NOTEBOOKS[max(0, place - 1) : place] + NOTEBOOKS[place + 1 : place + 2]:
        assert f"({near.name})" in prose, f"no link to {near.name}"
    for page in ("../docs/path.md", "../docs/glossary.md"):
        assert f"({page}" in prose
    everything = "\n".join(source(cell) for cell in json.loads(path.read_text("utf-8"))["cells"])
    for word, meaning in SPELLED.items():
        if first := re.search(rf"(?<![\w\[-]){word}(?![\w-])", everything):
            said = re.search(meaning, re.sub(r"[\s*]+", " ", everything[: first.end() + 700]), re.I)
            assert said, f"{word} is not spelled out where it comes first"


@each_of_all
def test_links_and_pictures_lead_somewhere(path):
    for cell in cells(path, "markdown"):
        for link in re.findall(r"\]\(([^)\s]+)\)", source(cell)):
            assert link.startswith("https://") or (path.parent / link.partition("#")[0]).is_file(), link


@each
def test_a_prediction_is_asked_for_before_the_result_and_comes_back_after_it(path):
    calls = [re.findall(r'predict\.(ask|recall)\(\s*"(\w+)"', source(cell)) for cell in cells(path, "code")]
    assert [call for some in calls for call in some] == [("ask", path.stem), ("recall", path.stem)]
    where = [number for number, some in enumerate(calls) if some]
    assert where[0] == 0 and "save_figure" in "".join(source(cell) for cell in cells(path, "code")[: where[1]])


@each_of_all
def test_lines_of_its_source_fit_a_diff(path):
    lines = [line for cell in json.loads(path.read_text("utf-8"))["cells"] for line in source(cell).splitlines()]
    assert not [
        line for line in lines if len(line) > 120 and not line.startswith(("|", "!["))
    ]  # rows of tables and pictures


@each_of_all
def test_no_line_turns_the_one_above_into_a_heading(path):
    """As a lone = of an equation does."""
    prose = "\n\n".join(source(cell) for cell in cells(path, "markdown"))
    assert not re.findall(r"\S\n[ \t]*(?:=+|-+)[ \t]*$", prose, re.M)


@each_of_all
def test_code_cells_are_short_and_hold_calls_only(path):
    for cell in cells(path, "code"):
        text = source(cell)
        assert len(text.splitlines()) <= 15 or "parameters" in cell["metadata"].get("tags", []), text
        assert not re.search(r"^\s*[%!]", text, re.M), text
        logic = [type(node).__name__ for node in ast.walk(ast.parse(text)) if isinstance(node, LOGIC)]
        assert not logic, f"{logic} in: {text}"


@each
def test_parameters_are_typed_literals_after_a_comment_and_none_is_a_magic(path):
    tagged = [source(cell) for cell in cells(path, "code") if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1 and tagged[0].startswith("#")
    names = read_parameters(path)  # raises unless every line is NAME: type = literal of that type
    assert not {name.lower() for name in names} & MAGICS and all(name.isupper() for name in names)
    assert {"PRESET", "FIGURES", "CALIBRATION", "HELD_OUT", "SAMPLES", "LENGTH", "SEEDS"} <= set(names)
    assert len({"MODEL", "MODELS"} & set(names)) == 1
    assert names["PRESET"].default == "smoke"


@each_of_all
def test_every_parameter_is_used_and_explained_and_nothing_else_is_in_capitals(path):
    tagged = [source(cell) for cell in cells(path, "code") if "parameters" in cell["metadata"].get("tags", [])]
    code = [source(cell) for cell in cells(path, "code") if "parameters" not in cell["metadata"].get("tags", [])]
    names = [node for text in code for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)]
    # provenance is given all names: those in capitals are the parameters
    read = {"PRESET", *(node.id for node in names if isinstance(node.ctx, ast.Load))}
    assert set(read_parameters(path)) <= read
    assert not [node.id for node in names if isinstance(node.ctx, ast.Store) and node.id.isupper()]
    assert not re.findall(r"import .*\b[A-Z_]+\b", "\n".join(code))
    assert all(re.match(r"[A-Z_]+: .*\S  # \w", line) for line in tagged[0].splitlines()[1:])


@each
def test_every_figure_says_where_it_comes_from(path):
    code = "\n".join(source(cell) for cell in cells(path, "code"))
    assert code.count("provenance(") == code.count("provenance(globals(), ") >= 1


@each
def test_findings_are_computed_and_every_figure_is_saved(path):
    findings = [source(cell) for cell in cells(path, "code") if "finding" in cell["metadata"].get("tags", [])]
    assert len(findings) >= 3
    assert not any(
        isinstance(node, ast.Constant) and isinstance(node.value, (int, float))
        for text in findings
        for node in ast.walk(ast.parse(text))
    )
    code = "\n".join(source(cell) for cell in cells(path, "code"))
    saved = re.findall(r'save_figure\(fig, "(\w+)"', code)
    assert len(saved) == len(re.findall(r"\.plot_\w+\(", code)) >= 2 and all(
        name.startswith(path.stem[:2]) for name in saved
    )


def test_a_tutorial_has_typed_parameters_and_a_way_back_to_the_path():
    assert [path.stem for path in TUTORIALS] == ["own_model"]
    for path in TUTORIALS:
        assert {"MODEL", "TEXT", "TASKS", "SAMPLES"} <= set(read_parameters(path))
        prose = "\n".join(source(cell) for cell in cells(path, "markdown"))
        assert "(../../docs/path.md)" in prose and "(../00_start_here.ipynb)" in prose


def drawn_files() -> set[str]:
    """Names of all files that all notebooks leave in a folder of figures."""
    names = [
        re.findall(r'save_figure\(fig, "(\w+)"', path.read_text("utf-8").replace('\\"', '"')) for path in NOTEBOOKS
    ]
    return {f"{name}.{suffix}" for some in names for name in some for suffix in ("svg", "png", "csv", "json")}


@pytest.mark.every
@pytest.mark.slow
@each
def test_its_cells_run(path):
    cells_of.run(path)


@pytest.fixture(scope="module")
def drawn():
    """Where the figures are after the cells of every notebook have run; their runs are in the store then."""
    for path in NOTEBOOKS:
        cells_of.run(path)
    return paths.runs() / "figures" / "smoke"


@pytest.mark.slow
def test_all_of_them_leave_their_figures(drawn):
    figures = drawn
    assert {file.name for file in figures.iterdir()} == drawn_files()
    errors = pd.read_csv(figures / "01_compounding_error.csv")
    named = ["pattern", "criterion", "split", "kind", "method", "block", "value", "low", "high", "seeds", "paired"]
    assert list(errors.columns) == [*named, "source", "seed", "seed_value"]
    assert list(errors["method"].unique()) == ["LR", "BR", "BR+GP", "BR+GP+CR"] and errors["value"].between(0, 10).all()
    sizes = pd.read_csv(figures / "04_granularity.csv", keep_default_na=False)
    assert list(sizes["granularity"].unique()) == ["", "matrix", "sub-block", "1 block", "model"] and set(
        sizes["streams"]
    ) == {"", "BR", "BR+GP", "IR"}
    masks = pd.read_csv(figures / "05_criteria.csv")
    assert set(masks[masks["method"] == "LR"]["refinement"]) == {"none", "swaps", "fw"} and set(masks["pattern"]) == {
        "50%",
        "2:4",
    }
    spent = pd.read_csv(figures / "06_retraining.csv").set_index("method")
    assert spent.loc["BR+GP", "epochs"].tolist() == [1, 2] and spent.loc["BR+GP", "tokens"].tolist() == [256, 512]
    best = pd.read_csv(figures / "06_more_text.csv").set_index("method")
    assert best.loc["BR+GP", "text"].tolist() == [128, 256] and set(best.loc["BR+GP", "epochs"]) <= {1, 2}
    added = pd.read_csv(figures / "03_added_text.csv", keep_default_na=False)
    assert (
        set(added["added"]) == {"", "self", "lab:mixed", "lab:recipes"}
        and set(added["added_samples"]) == {0, 4, 8}
        and set(added["measure"]) == {"held-out error", "perplexity", "accuracy"}
    )
    asked = pd.read_csv(figures / "08_tasks.csv")
    assert (
        list(asked["task"].unique()) == ["lab:yes-no", "lab:story-ending", "mean"]
        and asked["value"].between(0, 1).all()
    )


@pytest.mark.long
@pytest.mark.slow
def test_the_suite_draws_the_same_bytes_from_the_store_without_torch(drawn, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('a kernel that only reads tables imports torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    names = [path.stem for path in NOTEBOOKS if path.stem not in LIVE]
    runs = run_suite("smoke", names, figures_dir=tmp_path / "again")
    kept, again = (
        {file.name: file.read_bytes() for file in place.iterdir() if not file.name.startswith("00")}
        for place in (drawn, tmp_path / "again")
    )
    assert [name for name in kept if again.get(name) != kept[name]] == [] and set(again) == set(kept)
    for run in runs:
        about = json.loads(run.path.read_text("utf-8"))["metadata"]["papermill"]
        assert about["exception"] is None and about["parameters"]["PRESET"] == "smoke"
    runs = run_suite("smoke", names, figures_dir=tmp_path / "again")
    assert {run.status for run in runs} == {"fresh"}
