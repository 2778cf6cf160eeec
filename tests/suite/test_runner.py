"""The runner: right notebooks leave executed copies, wrong ones are named and do not stop the others."""

import json
import os
import sys

import pytest
from jupyter_client.kernelspec import NoSuchKernel

from analysis import paths
from analysis.errors import StoreError, SuiteError, UsageError
from analysis.suite.runner import figures_folder, run_suite


def outputs(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return "".join("".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", []))


@pytest.mark.slow
def test_typed_parameters_reach_the_notebooks_and_copies_are_kept(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "home {with braces}"))
    source = (folder / "01_first.ipynb").read_bytes()
    runs = run_suite("lab", overrides={"NAMES": "b c", "DEEP": "true"}, folder=folder)
    assert [(run.name, run.status) for run in runs] == [("01_first", "completed"), ("02_second", "completed")]
    assert runs[0].path == paths.runs() / "notebooks" / "lab" / "01_first.ipynb"
    assert outputs(runs[0].path) == "8 0.0002 ['b', 'c'] True\n"
    assert (folder / "01_first.ipynb").read_bytes() == source
    assert capfd.readouterr() == ("", "")  # nothing from kernels or papermill


@pytest.mark.slow
def test_a_failing_notebook_keeps_its_copy_and_the_others_still_run(folder, write_notebook):
    write_notebook(
        folder / "01_first.ipynb",
        "x = 1",
        "raise ValueError('first line\\n\\x1b[31mthe last line\\x1b[0m')",
        "print('never')",
    )
    write_notebook(folder / "02_second.ipynb", "print('still run')")
    with pytest.raises(SuiteError) as caught:
        run_suite("lab", folder=folder)
    copies = paths.runs() / "notebooks" / "lab"
    said = str(caught.value)
    assert "1 of 2 notebooks failed: 01_first, cell In [4]: ValueError: the last line" in said
    assert str(copies / "01_first.ipynb") in said and "\x1b" not in said
    assert "first line" in (copies / "01_first.ipynb").read_text("utf-8")
    assert outputs(copies / "02_second.ipynb") == "still run\n"


@pytest.mark.slow
def test_a_dead_kernel_is_a_failure_of_its_notebook(folder, write_notebook):
    write_notebook(folder / "01_first.ipynb", "import os; os._exit(1)")
    with pytest.raises(SuiteError, match="01_first, its kernel died"):
        run_suite("tiny", folder=folder)


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A `python3` of another environment, without the package and without any kernel, before all others."""
    place = tmp_path / "jupyter" / "kernels" / "python3"
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(
        json.dumps({"argv": ["/bin/false", "{connection_file}"], "display_name": "Other", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))


@pytest.mark.slow
def test_notebooks_run_in_the_interpreter_that_was_started(folder, write_notebook, foreign):
    write_notebook(folder / "01_first.ipynb", "import sys; print(sys.executable)")
    before = os.environ["JUPYTER_PATH"]
    (run,) = run_suite("tiny", folder=folder)
    assert outputs(run.path) == f"{sys.executable}\n" and os.environ["JUPYTER_PATH"] == before


def _raising(error):
    def execute_notebook(*args, **more):
        raise error

    return execute_notebook


@pytest.mark.parametrize(
    "error",
    [RuntimeError("Kernel died before replying to kernel_info"), NoSuchKernel("x"), OSError(28, "No space left")],
)
def test_a_kernel_that_does_not_start_is_a_failure_that_names_it(folder, monkeypatch, error):
    import papermill

    monkeypatch.setattr(papermill, "execute_notebook", _raising(error))
    with pytest.raises(SuiteError) as caught:
        run_suite("tiny", folder=folder)
    assert f"01_first, its kernel ({sys.executable} -m ipykernel_launcher) could not run it: " in str(caught.value)
    assert str(error).splitlines()[-1] in str(caught.value)


def test_a_place_that_cannot_be_written_is_said(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="file"):
        run_suite("tiny", folder=folder)


def test_nothing_runs_if_anything_is_wrong(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "home"))
    (folder / "02_second.ipynb").unlink()
    with pytest.raises(SuiteError, match="nothing was run"):
        run_suite("lab", folder=folder)
    assert not paths.runs().exists()


@pytest.mark.slow
def test_kernels_are_told_that_nobody_watches_and_the_environment_is_put_back(folder, write_notebook, monkeypatch):
    monkeypatch.setenv("ANALYSIS_PROGRESS", "auto")
    write_notebook(folder / "01_first.ipynb", "import os; print(os.environ['ANALYSIS_PROGRESS'])")
    (run,) = run_suite("tiny", folder=folder)
    assert outputs(run.path) == "0\n"
    assert os.environ["ANALYSIS_PROGRESS"] == "auto"


@pytest.mark.slow
def test_a_watched_run_shows_the_suite_the_notebook_and_what_it_is_doing(folder, write_notebook, monkeypatch, capfd):
    monkeypatch.setenv("ANALYSIS_PROGRESS", "1")
    doing = (
        "import time\nfrom analysis.progress import bar\nfor _ in bar(range(3), desc='study', unit='run'):"
        " time.sleep(0.6)"
    )
    write_notebook(folder / "01_first.ipynb", doing)
    run_suite("tiny", folder=folder)
    said = capfd.readouterr().err
    assert "notebooks (tiny)" in said and "01_first:" in said and "study:" in said and "2/3" in said
    assert "ANALYSIS_PROGRESS_FILE" not in os.environ


def test_only_the_lab_preset_as_it_stands_writes_the_committed_figures(tmp_path):
    assert figures_folder("lab") == paths.figures()
    assert figures_folder("lab", {"MODEL": "mine"}) == paths.runs() / "figures" / "lab"
    assert figures_folder("smoke") == paths.runs() / "figures" / "smoke"
    assert figures_folder("smoke", None, tmp_path) == tmp_path
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        figures_folder("lab", None, tmp_path / "file")
