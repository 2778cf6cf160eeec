"""`analysis figures`: the report it leaves, with the tables beside those that were there before."""

import json
from pathlib import Path

from analysis import paths
from analysis.cli import main
from analysis.suite import records, runner


def drawing(value, status="completed"):
    """A run of the suite that leaves one table, of one number."""

    def run_suite(preset, *, figures_dir, **more):
        copy = runner.copies_folder(preset) / "01_first.ipynb"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text('{"cells": []}')
        Path(figures_dir, "01_errors.csv").write_text(f"method,value\nLR,{value}\n")
        figures = {"01_errors.csv": "x"}
        error = "" if status == "completed" else "cell In [3]: ValueError: no"
        kept = records.Record("x", status, 1.0, "2026-01-01", error, folder=str(figures_dir), figures=figures)
        records.write(copy, kept)
        return [runner.NotebookRun("01_first", status, 1.0, copy, error)]

    return run_suite


def test_every_run_is_compared_with_what_was_there_before(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "home"))
    figures = tmp_path / "figures"
    figures.mkdir()
    argv = ["figures", "--preset", "smoke", "--figures", str(figures), "--json"]
    report = paths.runs() / "notebooks" / "smoke" / "report.html"
    for value, says in ((1.0, "nothing to compare"), (1.0, "1 same"), (1.5, '<span class="differs">differs</span>')):
        monkeypatch.setattr(runner, "run_suite", drawing(value))
        assert main(argv) == 0
        assert json.loads(capsys.readouterr().out)["report"] == str(report)
        assert says in report.read_text("utf-8")
    assert "50 % of value" in report.read_text("utf-8")


def test_a_failure_is_in_the_report_too_and_the_exit_code_says_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(runner, "run_suite", drawing(1.0, "failed"))
    assert main(["figures", "--preset", "smoke", "--figures", str(tmp_path)]) == 7
    said = capsys.readouterr()
    assert "1 of 1 notebooks failed: 01_first, cell In [3]: ValueError: no" in said.err and "report " in said.out
    assert "ValueError: no" in (paths.runs() / "notebooks" / "smoke" / "report.html").read_text("utf-8")


def test_the_committed_tables_are_what_the_lab_preset_is_compared_with_wherever_it_draws(tmp_path, monkeypatch):
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "home"))
    committed = tmp_path / "committed"
    committed.mkdir()
    (committed / "01_errors.csv").write_text("method,value\nLR,1.0\n")
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(paths, "figures", lambda: committed)
    monkeypatch.setattr(runner, "run_suite", drawing(1.0))
    for settings, verdicts in ([], ["same"]), (["--set", "N=3"], ["same"]), (["--set", "N=4"], ["same"]):
        assert main(["figures", "--figures", str(tmp_path / "here"), *settings]) == 0
        record = records.read(runner.copies_folder("lab") / "01_first.ipynb")
        assert [row["verdict"] for row in record.compared] == verdicts
        (committed / "01_errors.csv").write_text("method,value\nLR,9.0\n")


def test_a_number_of_notebooks_at_once_that_is_none_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(runner, "run_suite", lambda *_, **__: 1 / 0)
    assert main(["figures", "--workers", "0"]) == 2
    assert "--workers must be a whole number of at least 1" in capsys.readouterr().err
