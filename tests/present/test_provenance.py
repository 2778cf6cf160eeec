"""Figures' files: all four or none, under a name that stays in its folder, without this computer's folders."""

import importlib
import inspect
import json
import pkgutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import paths, present
from analysis.errors import StoreError, UsageError
from analysis.present import panels, tables
from analysis.present.finding import Finding
from analysis.present.provenance import _without_folders, provenance, save_figure
from analysis.present.rows import read_csv
from analysis.present.style import in_style, looks

TABLE = pd.DataFrame({"split": ["a"], "method": ["LR"], "value": [1.0], "run": ["r"]})
NAMES = [r"a_{b}^c$\frac$.txt", "a$b$c.txt", r"\notes{.txt", "_notes.txt", "<u>x.txt", "100% & more--x.txt", "a*b*c"]


def drawn(word="a"):
    with in_style():
        fig, grid = panels.panel_grid(TABLE.assign(method=word), "split", "method", height=1.0, sharey=True)
        panels.label_axes(grid, word, {"a": word})
        panels.finish(fig, {}, [panels.handle(looks(["LR"])["LR"], word)])
    return fig


def files(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())} if folder.exists() else {}


@pytest.mark.slow
@pytest.mark.parametrize("word", NAMES)
def test_names_are_drawn_as_they_are(word):
    fig = drawn(word)
    words = [fig.axes[0].get_title(), fig.axes[0].get_xlabel(), fig.legends[0].get_texts()[0].get_text()]
    assert [text.lstrip("\u200b") for text in words] == [word] * 3
    assert not any(text.get_parse_math() for text in fig.findobj(lambda part: hasattr(part, "get_parse_math")))
    fig.draw_without_rendering()


def test_a_letter_marker_is_still_set_as_mathematics():
    assert len(panels.letters("m").get_path()) < len(panels.letters("mathrm").get_path())


def test_what_the_studies_say_of_the_models_drawn_is_kept():
    told = {"r": {"notes": ["dequantised from Q4_1 (GGUF)"]}, "other": {"notes": ["not drawn"]}, "plain": {}}
    names = {"PRESET": "real", "study": SimpleNamespace(provenance={"runs": told}), "table": TABLE}
    assert provenance(names, TABLE)["model_notes"] == ["dequantised from Q4_1 (GGUF)"]
    assert "model_notes" not in provenance(names, TABLE.assign(run="plain"))


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["png", "svg"])
def test_a_disk_that_fills_leaves_the_figure_that_was_there(failing, tmp_path, monkeypatch):
    save_figure(drawn(), "x", TABLE, {"preset": "lab"}, tmp_path)
    before, whole = files(tmp_path), Figure.savefig
    assert set(before) == {"x.svg", "x.png", "x.csv", "x.json"}

    def full(self, path, **more):
        if str(path).endswith(failing):
            Path(path).write_bytes(b"torn")
            raise OSError(28, "No space left on device")
        whole(self, path, **more)

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(StoreError, match="no space left"):
        save_figure(drawn("b"), "x", TABLE.assign(value=2.0), {"preset": "lab"}, tmp_path)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["", "../x", "../../x", "a/b", "a\\b", "a\0b", "x" * 300, ".x", "..", " x", None, 3, "a\nb", "/x"]
)
def test_a_name_that_is_none_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match="is no name of files"):
        save_figure(Figure(), name, TABLE, {"preset": "lab"}, tmp_path)
    with pytest.raises(UsageError, match="preset .* is no name of files"):
        save_figure(Figure(), "x", TABLE, {"preset": name})
    assert files(tmp_path) == {}


def test_other_wrong_calls_of_save_figure(tmp_path):
    for fig, table, about, says in (
        (None, TABLE, {"preset": "lab"}, "must be a matplotlib Figure, got NoneType"),
        (Figure(), [1], {"preset": "lab"}, "a table .* is needed, got list"),
        (Figure(), TABLE, None, "preset None"),
        (Figure(), TABLE, {}, "preset None"),
    ):
        with pytest.raises(UsageError, match=says):
            save_figure(fig, "x", table, about, tmp_path)
    with pytest.raises(UsageError, match="is none"):
        save_figure(Figure(), "x", TABLE, {"preset": "lab"}, "a\0b")
    with pytest.raises(StoreError):
        save_figure(Figure(), "x", TABLE, {"preset": "lab"}, "/proc/x")
    with pytest.raises(UsageError, match="globals"):
        provenance(None, TABLE)
    with pytest.raises(UsageError, match="no column run"):
        provenance({"PRESET": "lab"}, TABLE[["value"]])


def test_folders_of_this_computer_are_in_no_provenance():
    given = {
        "PRESET": "lab",
        "MODEL": "/home/me/models/my-llama/",
        "CALIBRATION": "/data/a b/notes.txt[:80%]:0.5+~/more.jsonl#text:0.5",
        "HELD_OUT": {"notes.txt": "../texts/notes.txt[80%:]", "x": "examples:/data/train.tsv[:90%]"},
        "TEXTS": ["lab:stories/held-out", "hub:org/name", "org/model", "C:\\texts\\a.txt", "texts/a.txt"],
        "WHERE": Path("/home/me/a.txt"),
        "LR": 0.1,
    }
    assert provenance(given, TABLE)["parameters"] == {
        "model": "my-llama",
        "calibration": "notes.txt[:80%]:0.5+more.jsonl#text:0.5",
        "held_out": {"notes.txt": "notes.txt[80%:]", "x": "examples:train.tsv[:90%]"},
        "texts": ["lab:stories/held-out", "hub:org/name", "org/model", "a.txt", "texts/a.txt"],
        "where": "a.txt",
        "lr": 0.1,
    }
    assert json.dumps(provenance(given, TABLE))


def test_folders_of_this_computer_are_in_no_csv(tmp_path):
    table = TABLE.assign(
        model="/home/me/models/my-llama", task="/data/questions/piqa.jsonl", split="lab:stories/held-out"
    )
    save_figure(drawn(), "x", table, {"preset": "lab"}, tmp_path)
    kept = pd.read_csv(tmp_path / "x.csv").iloc[0]
    assert (kept["model"], kept["task"], kept["split"]) == ("my-llama", "piqa.jsonl", "lab:stories/held-out")


def test_words_of_the_tables_are_no_folders(tmp_path):
    assert _without_folders("/home/x/rows.jsonl#turns/0") == "rows.jsonl#turns/0"
    for file in sorted(paths.figures().rglob("*.csv")):
        for name, column in read_csv(file).select_dtypes(["object", "string"]).items():
            assert [_without_folders(word) for word in column] == list(column), (file.stem, name)


def test_markup_in_names_is_no_markup_in_a_notebook():
    said = Finding("- **LR**, held-out <u>x$a$_b_*c*[y](z)`q`.txt: lower by 3 %")._repr_markdown_()
    assert said.startswith("- **LR**, held-out ") and said.endswith(".txt: lower by 3 %")
    assert not set("<>$_`[]") & set(said) and said.count("*") == 4


@pytest.mark.parametrize("table", [None, [1], "x", pd.DataFrame(), pd.DataFrame({"method": []})])
def test_what_is_no_table_is_said_to_be_none(table):
    for call in (
        lambda: panels.panel_grid(table, "split", "method", height=1.0, sharey=True),
        lambda: tables.over_seeds(table, ["method"], "value"),
        lambda: tables.choose(table, split="a"),
        lambda: tables.cost_by_method(table),
        lambda: tables.side_by_side(table),
        lambda: tables.solver_costs(table),
    ):
        with pytest.raises(UsageError, match="is needed|has no column|is no column"):
            call()


DRAWN_BY_OTHERS = (
    "comparison",
    "footer",
    "panels",
    "provenance",
    "rows",
    "statistics",
)  # called by functions that have looked already, or tested apart
MODULES = [module.name for module in pkgutil.iter_modules(present.__path__) if module.name not in DRAWN_BY_OTHERS]


@pytest.mark.parametrize("module", MODULES)
def test_every_function_of_tables_says_what_is_none_and_what_is_missing(module):
    """All that the notebooks call: a table of another kind, and one without the columns."""
    found = importlib.import_module(f"analysis.present.{module}")
    for name, function in inspect.getmembers(found, inspect.isfunction):
        needed = [one for one in inspect.signature(function).parameters.values() if one.default is one.empty]
        kinds = [str(one.annotation) for one in needed if one.kind is one.POSITIONAL_OR_KEYWORD]
        if name.startswith("_") or function.__module__ != found.__name__ or not any("DataFrame" in k for k in kinds):
            continue
        for wrong in (None, pd.DataFrame({"x": [1.0]})):
            if wrong is None or name not in ("against", "choose"):  # they read the columns they are told
                with pytest.raises(UsageError):
                    function(*(wrong if "DataFrame" in kind else "value" for kind in kinds))
