"""The notebooks: their structure, and all of them at smoke size through the project's own runner.

Their cells run once more, one test each, under nbval in `make test`; what both need is run by whichever comes first.
"""

import ast
import json
import re

import pandas as pd
import pytest

from analysis import paths
from analysis.suite.runner import run_suite
from analysis.suite.suite import read_parameters

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
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def test_there_are_notebooks():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{number:02d}" for number in range(1, 11)]


@each
def test_it_carries_no_outputs_and_no_machine(path):
    notebook = json.loads(path.read_text("utf-8"))
    assert notebook["metadata"]["kernelspec"] == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"} and notebook["metadata"]["language_info"] == {
        "name": "python"
    }
    for cell in cells(path, "code"):
        assert cell["outputs"] == [] and cell["execution_count"] is None and set(cell["metadata"]) <= {"tags"}
    assert not re.search(r"/(home|work|Users|tmp|root)/", path.read_text("utf-8"))


@each
def test_it_begins_with_prose_under_one_title_and_ends_with_exercises(path):
    notebook = json.loads(path.read_text("utf-8"))
    first, last = notebook["cells"][0], notebook["cells"][-1]
    titles = [line for cell in cells(path, "markdown") for line in source(cell).splitlines() if re.match(r"# ", line)]
    assert first["cell_type"] == "markdown" and source(first).startswith("# ") and len(titles) == 1
    headings = [
        line for cell in cells(path, "markdown") for line in source(cell).splitlines() if line.startswith("## ")
    ]
    assert headings[:3] == ["## What to expect", "## How to read the figures", "## What runs"]
    assert last["cell_type"] == "markdown" and source(last).startswith("## To try")


@each
def test_lines_of_its_source_fit_a_diff(path):
    lines = [line for cell in json.loads(path.read_text("utf-8"))["cells"] for line in source(cell).splitlines()]
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]  # rows of tables are one line


@each
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


@each
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


@pytest.mark.slow
def test_all_of_them_run_at_smoke_size_and_leave_their_files(tmp_path, monkeypatch):
    figures = tmp_path / "figures"
    runs = run_suite("smoke", figures_dir=figures)
    names = [
        re.findall(r'save_figure\(fig, "(\w+)"', path.read_text("utf-8").replace('\\"', '"')) for path in NOTEBOOKS
    ]
    assert {file.name for file in figures.iterdir()} == {
        f"{name}.{suffix}" for some in names for name in some for suffix in ("svg", "png", "csv", "json")
    }
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
    for run in runs:
        about = json.loads(run.path.read_text("utf-8"))["metadata"]["papermill"]
        assert about["exception"] is None and about["parameters"]["PRESET"] == "smoke"
    kept = {file.name: file.read_bytes() for file in figures.iterdir()}
    (tmp_path / "torch.py").write_text("raise ImportError('a kernel that only reads tables imports torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run_suite("smoke", figures_dir=figures, force=True)  # from the store: the same bytes, without torch
    assert {file.name: file.read_bytes() for file in figures.iterdir()} == kept
