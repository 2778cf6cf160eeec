"""The pages: current where the code writes them, no dead links, every recipe readable, and what the README promises."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import matplotlib
import pandas as pd
import pytest
import yaml

from analysis import paths
from analysis.cli import main
from analysis.present.rows import read_csv
from analysis.present.schematic import save_methods
from analysis.present.two_streams import save_streams
from analysis.recipe.recipe import Recipe
from analysis.schema import TABLES
from tests.helpers.processes import fork

ROOT = paths.ROOT
DOCS = ROOT / "docs"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(DOCS.glob("**/*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"```.*?```", re.S)


def load(name: str) -> ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    return load("generate")


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_generated_parts_are_current(page, generate):
    text = page.read_text("utf-8")
    assert generate.render(text) == text, f"{page.name} is not current; run python docs/generate.py"


@pytest.mark.parametrize("notebook", sorted(paths.notebooks().glob("*.ipynb")), ids=lambda file: file.stem)
def test_notebooks_show_the_committed_figures(notebook, generate):
    text = notebook.read_text("utf-8")
    assert generate.show_published(text) == text, f"{notebook.name} is not current; run python docs/generate.py"


def test_a_committed_figure_stands_once_above_the_cell_that_draws_it(generate):
    drawing = {"id": "a", "source": 'save_figure(fig, "01_cancellation", shares, origin, FIGURES)'}
    other = {"id": "b", "source": 'save_figure(fig, "01_not_committed", shares, origin, FIGURES)'}
    cells = [{"cell_type": "code", "metadata": {}, **one} for one in (drawing, other)]
    shown = generate.show_published(json.dumps({"cells": cells, "metadata": {}}))
    first, *rest = json.loads(shown)["cells"]
    assert first["id"] == "ap" and first["metadata"] == {"tags": ["published"]} and rest == cells
    assert re.fullmatch(r"!\[.+\]\(\.\./figures/01_cancellation\.svg\)", first["source"][-1])
    assert generate.show_published(shown) == shown


def test_minutes_of_a_notebook_are_those_of_the_runs_behind_its_figures(tmp_path, monkeypatch):
    times = load("times")
    monkeypatch.setattr(times.paths, "figures", lambda: tmp_path)
    monkeypatch.setattr(times.paths, "runs", lambda: tmp_path)
    for name, runs in {"01_one": ["a", "b"], "01_two": ["b"], "02_one": ["c"]}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"runs": runs}))
    for run, seconds in {"a": [30.0, 60.0], "b": [15.0]}.items():
        (tmp_path / run).mkdir()
        pd.DataFrame({"seconds": seconds}).to_parquet(tmp_path / run / "cost.parquet")
    assert times.running("01_anything") == (2, 1.75)
    with pytest.raises(OSError):
        times.running("02_anything")


def test_a_stale_page_is_noticed(generate):
    page = "<!-- generated: exit-codes -->\n| 0 | well |\n<!-- end -->\nby hand\n"
    current = generate.render(page)
    assert "| 130 | interrupted" in current and "well" not in current and current.endswith("<!-- end -->\nby hand\n")
    assert generate.render(current) == current
    with pytest.raises(KeyError, match="exit-code"):
        generate.render("<!-- generated: exit-code -->\n<!-- end -->")


def test_every_table_has_its_columns_on_the_page():
    text = (DOCS / "tables.md").read_text("utf-8")
    assert set(re.findall(r"generated: columns (\S+)", text)) == {*TABLES, "study"}


def test_the_gallery_shows_every_figure_with_finding_and_notebook():
    text = (DOCS / "gallery.md").read_text("utf-8")
    figures = {file.stem for file in paths.figures().glob("*.json")}
    assert set(re.findall(r"(?m)^## (\w+)$", text)) == figures
    for part in text.split("\n## ")[1:]:
        name = part.split()[0]
        assert re.search(r"(?m)^\*\S.+\.\*$", part), f"{name} has no finding"
        assert f"../figures/{name}.csv" in part and re.search(r"notebooks/\d\d_\w+\.ipynb", part)
        below = re.search(r"<title>[^:]*: (.*)</title>", (paths.figures() / f"{name}.svg").read_text("utf-8"))[1]
        assert f"| made from | {below.replace('|', '·')} |" in part


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub and MyST give to a page's headings."""
    headings = re.findall(r"(?m)^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file() and target.is_relative_to(ROOT), f"{page.name}: {link} leads to no file"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link} leads to no heading"


def test_the_readme_is_short_and_links_every_page():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 120
    figures = len(list(paths.figures().glob("*.json")))
    assert f"The notebooks' {figures} figures" in text
    missing = [page.name for page in DOCS.glob("*.md") if f"docs/{page.name}" not in text]
    assert not missing


def test_recipes_on_the_pages_can_be_read():
    text = (DOCS / "recipes.md").read_text("utf-8")
    recipes = re.findall(r"(?m)^\| `([^`\s]+ [^`\s]+)` \|", text)
    assert len(recipes) >= 10 and all(Recipe.parse(recipe) for recipe in recipes)
    toml = re.search(r"```toml\n(.*?)```", text, re.S)[1]
    assert Recipe.from_toml(toml) == Recipe.parse("wanda-50% BR+GP[lr=2e-3,epochs=20]")


README_NUMBERS = [  # figure, the rows' columns, the number as the README writes it
    ("01_compounding_error", {"criterion": "wanda", "split": "calibration", "method": "LR", "block": 7}, "0.144"),
    ("01_compounding_error", {"criterion": "wanda", "split": "calibration", "method": "BR+GP+CR", "block": 7}, "0.012"),
    ("04_granularity", {"method": "BR+GP", "granularity": "sub-block"}, "2.49"),
    ("04_granularity", {"method": "BR+GP", "granularity": "1 block"}, "2.50"),
    ("04_granularity", {"method": "BR+GP", "granularity": "model"}, "2.62"),
    ("04_granularity", {"method": "LR"}, "2.69"),
    ("04_granularity", {"method": "dense"}, "2.29"),
    ("10_parameters", {"method": "LR", "pattern": "neurons-50%"}, "11.5"),
    ("10_parameters", {"method": "LIAR", "pattern": "neurons-50%"}, "7.9"),
    ("10_parameters", {"method": "BR+GP[repair=liar]", "pattern": "neurons-50%"}, "5.7"),
    ("10_parameters", {"method": "dense"}, "2.21"),
]


def one_value(figure: str, where: dict) -> float:
    """The `value` of the only row of a figure's csv with these entries; of 01 our own, of 04 held-out
    perplexity.
    """
    if figure == "04_granularity":
        where = where | {"measure": "perplexity", "split": "lab:stories/held-out"}
    if figure == "01_compounding_error":
        where = where | {"source": "here"}
    rows = read_csv(paths.figures() / f"{figure}.csv")
    for column, entry in where.items():
        rows = rows[rows[column] == entry]
    assert len(rows) == 1, where
    return float(rows["value"].iloc[0])


@pytest.mark.parametrize(("figure", "where", "written"), README_NUMBERS)
def test_numbers_of_the_readme_are_those_of_the_figures(figure, where, written):
    assert f"{one_value(figure, where):.{len(written.partition('.')[2])}f}" == written
    assert written in (ROOT / "README.md").read_text("utf-8")


def test_ratios_of_the_readme_are_those_of_the_figures():
    text = " ".join((ROOT / "README.md").read_text("utf-8").split())
    last = {"criterion": "wanda", "block": 7}
    for split, less in (
        ("calibration", "92 % less"),
        ("lab:stories/held-out", "76 % less"),
        ("lab:entries/held-out", "31 %"),
    ):
        ends = [one_value("01_compounding_error", last | {"split": split, "method": m}) for m in ("BR+GP+CR", "LR")]
        assert less.startswith(f"{100 * (1 - ends[0] / ends[1]):.0f} %") and less in text
    for samples, times in ((2, "12 times"), (32, "2.6 times")):
        where = {"measure": "relative error", "method": "BR+GP+CR", "samples": samples}
        errors = [
            one_value("02_calibration_windows", where | {"split": s}) for s in ("lab:stories/held-out", "calibration")
        ]
        assert float(f"{errors[0] / errors[1]:.2g}") == float(times.split()[0]) and times in text


@pytest.mark.slow
def test_the_picture_of_the_methods_is_the_one_the_code_draws(tmp_path):
    committed = (paths.figures() / "methods.svg").read_text("utf-8")
    if f"Matplotlib v{matplotlib.__version__}," not in committed:
        pytest.skip("the committed picture was drawn by another version of matplotlib")
    save_methods(tmp_path / "methods.svg")
    assert (tmp_path / "methods.svg").read_text("utf-8") == committed


@pytest.mark.slow
def test_the_picture_of_the_streams_is_the_one_the_code_draws(tmp_path):
    names = ("streams.svg", "streams.png")
    committed = {name: (paths.figures() / name).read_bytes() for name in names}
    if f"Matplotlib v{matplotlib.__version__},".encode() not in committed["streams.svg"]:
        pytest.skip("the committed picture was drawn by another version of matplotlib")
    save_streams(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in names} == committed


def test_the_citation_can_be_read():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    assert citation["authors"] and citation["title"] and citation["message"]
    cited = {reference["identifiers"][0]["value"].removeprefix("arXiv:") for reference in citation["references"]}
    assert cited == set(re.findall(r"arxiv\.org/abs/(\d{4}\.\d{5})", (ROOT / "README.md").read_text("utf-8")))
    assert all(reference["authors"] and reference["year"] for reference in citation["references"])


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text("utf-8")


def notebook(**cell) -> str:
    code = {"cell_type": "code", "metadata": {}, "source": "1", "execution_count": None, "outputs": []} | cell
    return json.dumps({"cells": [{"cell_type": "markdown", "metadata": {}, "source": "# T"}, code], "metadata": {}})


def test_notebooks_with_outputs_are_refused(tmp_path, capsys):
    check = load("notebook_outputs").main
    clean, dirty, counted = (tmp_path / f"{name}.ipynb" for name in ("clean", "dirty", "counted"))
    clean.write_text(notebook())
    dirty.write_text(notebook(outputs=[{"output_type": "stream", "name": "stdout", "text": "1"}]))
    counted.write_text(notebook(execution_count=3))
    assert check([str(clean)]) == 0
    assert check([str(clean), str(dirty), str(counted)]) == 1
    out = capsys.readouterr().out
    assert str(dirty) in out and str(counted) in out and str(clean) not in out
    assert check([str(path) for path in paths.notebooks().glob("*.ipynb")]) == 0


def test_the_site_shows_executed_copies_and_says_where_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("ANALYSIS_NOTEBOOKS", str(tmp_path))
    conf = load("conf")
    widget, number = {conf.WIDGET: {"model_id": "1"}, "text/plain": "menu"}, {"text/plain": "3"}
    outputs = [{"output_type": "display_data", "data": data, "metadata": {}} for data in (widget, number)]
    published = {"cell_type": "markdown", "metadata": {"tags": ["published"]}, "source": "![](a.svg)"}
    done = json.loads(notebook(outputs=outputs))
    (tmp_path / "01_done.ipynb").write_text(json.dumps(done | {"cells": [*done["cells"], published]}))
    executed = json.loads(conf.executed_copy("01_done", notebook()))
    assert [output["data"] for output in executed["cells"][1]["outputs"]] == [number] and len(executed["cells"]) == 2
    missing = json.loads(conf.executed_copy("02_missing", notebook()))
    assert [cell["cell_type"] for cell in missing["cells"]] == ["markdown", "markdown", "code"]
    assert "make figures ONLY=02_missing" in missing["cells"][1]["source"]


def test_broken_links_of_a_site_are_found(tmp_path, capsys):
    links = load("links")
    (tmp_path / "index.html").write_text('<a href="b.html#there">b</a> <a href="https://example.org/x">out</a>')
    (tmp_path / "b.html").write_text('<h1 id="there">B</h1><img src="index.html">')
    assert links.main([str(tmp_path)]) == 0
    (tmp_path / "b.html").write_text(
        '<h1 id="here">B</h1><a href="c.html">c</a><script src="https://example.org/x.js"></script>'
    )
    assert links.broken_links(tmp_path) == [
        "b.html: loads https://example.org/x.js from another host",
        "b.html: c.html leads to no file",
        "index.html: b.html#there leads to no anchor of its page",
    ]
    assert links.main([str(tmp_path)]) == 1


def test_the_command_line_of_the_readme_exists(capsys):
    for verb in ("prune", "check"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
    options = capsys.readouterr().out
    text = (ROOT / "README.md").read_text("utf-8")
    for option in set(re.findall(r"--[a-z][a-z-]+", text)):
        assert option in options, option


@pytest.mark.slow
def test_the_example_of_a_criterion_of_ones_own_runs(tmp_path):
    pytest.importorskip("analysis.extend")
    example = re.search(r"```python\n(.*?)```", (DOCS / "extending.md").read_text("utf-8"), re.S)[1]
    example += 'print(pruned.tables["matrices"]["sparsity"].round(2).unique().tolist())\n'
    process = fork(exec, example, {"__name__": "__main__"}, log=tmp_path / "log")
    process.join()
    assert process.exitcode == 0 and (tmp_path / "log").read_text().split() == ["[0.5]"]


@pytest.fixture(scope="module")
def rendered() -> ModuleType:
    return load("rendered")


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text)


SHOWN = sorted([*paths.notebooks().glob("*.ipynb"), *paths.notebooks().glob("tutorials/*.ipynb")])


@pytest.mark.parametrize("notebook", SHOWN, ids=lambda file: file.stem)
def test_every_notebook_has_a_page_that_shows_it_executed(notebook, rendered):
    page = (DOCS / "notebooks" / f"{notebook.stem}.md").read_text("utf-8")
    found = squeezed(page)
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        source, tags = "".join(cell["source"]), cell["metadata"].get("tags", [])
        if "published" in tags or rendered.RECALLED in source:
            continue
        kept = rendered.from_pages(source, notebook.parent) if cell["cell_type"] == "markdown" else source
        assert squeezed(kept) in found, (
            f"{notebook.name}, cell {cell['id']}: its page is not current; run `analysis figures --only"
            f" {notebook.stem}`, then python docs/rendered.py data/runs/notebooks/lab (a tutorial: see rendered.py)"
        )
    drawn = set(re.findall(r'save_figure\(\s*\w+,\s*"(\w+)"', notebook.read_text("utf-8").replace('\\"', '"')))
    assert drawn == set(re.findall(r"!\[\w+\]\(../../figures/(\w+).svg\)", page))


def test_a_page_has_the_outputs_of_the_executed_copy_and_no_place_or_control(rendered):
    import nbformat

    cell, parameters = nbformat.v4.new_code_cell, {"tags": ["parameters"]}
    source = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell(
                "# One, see [two](two.ipynb), [b](../docs/b.md#c) and ![d](../figures/d.svg)"
            ),
            cell("N: int = 1", metadata=parameters),
            cell('save_figure(fig, "01_one", rows, origin, FIGURES)'),
            cell("say()"),
            cell("turn()"),
            cell('predict.recall("one")'),
        ]
    )
    executed = nbformat.from_dict(source)
    given = nbformat.v4.new_code_cell(
        'N = 3\nPRESET = "lab"\nFIGURES = "/tmp/x"', metadata={"tags": ["injected-parameters"]}
    )
    outputs = [
        {"image/png": "abc"},
        {"text/markdown": "**Found**: 3", "text/plain": "x"},
        {rendered.WIDGET: {}, "text/plain": "VBox()"},
        {"text/markdown": "none was made"},
    ]
    for one, data in zip(executed.cells[2:], outputs, strict=True):
        one.outputs = [nbformat.v4.new_output("execute_result", data)]
    executed.cells.insert(2, given)
    page = rendered.page(source, executed, "one")
    assert "[two](two.md), [b](../b.md#c) and ![d](../../figures/d.svg)" in page
    assert "N = 3" in page and "/tmp/x" not in page
    assert "![01_one](../../figures/01_one.svg)" in page and "**Found**: 3" in page
    assert "VBox" not in page and "none was made" not in page
    executed.cells = executed.cells[:-1]
    executed.cells[-1].id = "other"
    with pytest.raises(ValueError, match="execute the notebook again"):
        rendered.page(source, executed, "one")


def test_a_tutorials_page_has_what_its_commands_say_and_its_pictures_but_no_place(rendered):
    import nbformat

    source = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# A, [00](../00_start_here.ipynb), [b](../../docs/b.md)")]
    )
    source.cells += [nbformat.v4.new_code_cell("main()"), nbformat.v4.new_code_cell("plot()", id="drawn")]
    executed = nbformat.from_dict(source)
    said = nbformat.v4.new_output("stream", name="stderr", text="model /home/me/runs/own_model/model is there")
    value = nbformat.v4.new_output("execute_result", {"text/plain": "Trial('/tmp/x/runs/own_model')"})
    executed.cells[1].outputs = [said, value]
    executed.cells[2].outputs = [nbformat.v4.new_output("display_data", {"image/png": "YWJj"})]
    page = rendered.page(source, executed, "own", rendered.TUTORIALS)
    assert "[00](00_start_here.md), [b](../b.md)" in page
    assert "model data/runs/own_model/model is there" in page and "Trial('data/runs/own_model')" in page
    assert "![drawn](own-drawn.png)" in page
    assert list(rendered.pictures(executed, "own")) == [("own-drawn.png", b"abc")]


@pytest.fixture(scope="module")
def explore() -> ModuleType:
    return load("explore")


def test_the_site_has_a_place_for_every_explorer(explore):
    places = re.findall(r'data-explore="(\w+)"', (DOCS / "explore.md").read_text("utf-8"))
    assert sorted(places) == sorted(view.table for view in explore.VIEWS)


def test_explorers_show_the_committed_numbers_and_begin_with_some(explore):
    for view in explore.VIEWS:
        data = explore.data(view)
        at = len(view.menus)
        table = read_csv(paths.figures() / f"{view.table}.csv")
        means = {float(f"{value:.5g}") for value in table["value"]}
        assert data["rows"] and {row[at + 2] for row in data["rows"]} <= means
        assert all(row[at] in data["colours"] for row in data["rows"])
        first = [row for row in data["rows"] if list(view.first) == row[: len(view.first)]]
        assert len({row[at] for row in first}) > 1, f"{view.table} begins with less than two lines"
        points = [tuple(row[: at + 2]) for row in data["rows"]]
        assert len(points) == len(set(points)), f"{view.table}: two values at one place"
