"""A notebook is run again when, and only when, something that its figures come from has changed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from analysis import paths
from analysis.errors import SuiteError
from analysis.suite import records
from analysis.suite.runner import copies_folder, run_suite
from analysis.suite.suite import plan

PARAMETERS = "PRESET: str = 'smoke'\nFIGURES: str = ''\nN: int = 3\nTEXTS: list[str] = ['lab:stories']"
DRAW = 'save_figure(fig, "01_errors", errors, origin, FIGURES)'


@pytest.fixture
def suite(folder, write_notebook, papermill_is, tmp_path, monkeypatch):
    """suite(**options) -> the status of a notebook that saves a figure, in a package of one file."""
    package = tmp_path / "root" / "analysis"
    package.mkdir(parents=True)
    (package / "draw.py").write_text("colour = 'blue'")
    monkeypatch.setattr(paths, "ROOT", tmp_path / "root")
    write_notebook(folder / "01_first.ipynb", DRAW, parameters=PARAMETERS)

    def draw(name, parameters):
        for suffix in records.SUFFIXES:
            Path(parameters["FIGURES"], f"01_errors.{suffix}").write_text(suffix)

    papermill_is(draw)
    (tmp_path / "figures").mkdir()

    def run(**options):
        (done,) = run_suite("tiny", folder=folder, figures_dir=tmp_path / "figures", **options)
        return done.status

    assert (run(), run(), run(force=True), run()) == ("completed", "fresh", "completed", "fresh")
    return run


def test_what_the_figures_come_from_makes_them_stale(suite, folder, write_notebook, tmp_path):
    write_notebook(folder / "01_first.ipynb", DRAW, "1 + 1", parameters=PARAMETERS)
    assert (suite(), suite()) == ("completed", "fresh")
    (tmp_path / "root" / "analysis" / "draw.py").write_text("colour = 'orange'")
    assert (suite(), suite()) == ("completed", "fresh")
    assert suite(overrides={"N": 4}) == "completed" and suite() == "completed"
    lab = tmp_path / "root" / "data" / "lab" / "model"
    lab.mkdir(parents=True)
    (lab / "weights").write_text("1")
    assert (suite(), suite()) == ("completed", "fresh")


def test_outputs_and_metadata_of_a_notebook_that_was_opened_do_not(suite, folder):
    notebook = json.loads((folder / "01_first.ipynb").read_text("utf-8"))
    notebook["metadata"]["language_info"] = {"name": "python", "version": "3"}
    notebook["cells"][1]["execution_count"] = 3
    (folder / "01_first.ipynb").write_text(json.dumps(notebook), "utf-8")
    assert suite() == "fresh"


@pytest.mark.parametrize(
    "source", ["{}", "{}[:80%]", "self:prompt={},top-k=50", "{}#body", "lab:stories:0.5+{}:0.5", "examples:{}#a,b"]
)
def test_files_that_a_parameter_names_are_looked_at(suite, tmp_path, source):
    text = tmp_path / "my notes.txt"
    text.write_text("once")
    given = {"overrides": {"TEXTS": ["lab:stories", source.format(text)]}}
    assert (suite(**given), suite(**given)) == ("completed", "fresh")
    text.write_text("once upon a time")
    assert suite(**given) == "completed"


def test_what_was_left_must_still_be_there(suite, tmp_path):
    (tmp_path / "figures" / "01_errors.png").unlink()
    assert (suite(), suite()) == ("completed", "fresh")
    (tmp_path / "figures" / "01_errors.svg").write_text("edited")
    assert (suite(), suite()) == ("completed", "fresh")
    (copies_folder("tiny") / "01_first.ipynb").unlink()
    assert (suite(), suite()) == ("completed", "fresh")
    (copies_folder("tiny") / "01_first.json").write_text("{")
    assert (suite(), suite()) == ("completed", "fresh")


def test_a_notebook_that_failed_is_run_again(suite, folder, papermill_is):
    def fail(name, parameters):
        raise RuntimeError("no kernel")

    papermill_is(fail)
    with pytest.raises(SuiteError, match="no kernel"):
        suite(force=True)
    assert records.read(copies_folder("tiny") / "01_first.ipynb").status == "failed"
    papermill_is()
    assert (suite(), suite()) == ("completed", "fresh")


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    copy = tmp_path / "01_first.ipynb"
    assert records.read(copy) is None
    record = records.Record("abc", "completed", 1.5, "2026-01-01", figures={"a.svg": "1"}, compared=[{"figure": "a"}])
    records.write(copy, record)
    assert records.read(copy) == record and records.read(copy) != replace(record, seconds=2.0)


def test_the_digest_is_the_same_twice_and_for_every_notebook_of_the_project_another():
    plans = plan("smoke", only=["01_compounding_error", "02_calibration_vs_test"], always={"FIGURES": "x"})
    first, second = (records.inputs_digest(one) for one in plans)
    assert first != second and first == records.inputs_digest(plans[0])


@pytest.mark.parametrize(
    ("seconds", "at_once", "expected"),
    [([], 2, 0.0), ([5.0, 3.0], 1, 8.0), ([5.0, 3.0], 2, 5.0), ([5.0, 3.0, 3.0], 2, 6.0), ([5.0, None], 2, None)],
)
def test_a_forecast_gives_each_notebook_to_whoever_is_free_first(seconds, at_once, expected):
    assert records.forecast(seconds, at_once) == expected
