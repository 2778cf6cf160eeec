"""The runner: right notebooks leave executed copies, wrong ones are named and do not stop the others."""

import json
import os
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest
from jupyter_client.kernelspec import NoSuchKernel

from analysis import memory, paths
from analysis.errors import StoreError, SuiteError, UsageError
from analysis.suite import records, runner
from analysis.suite.runner import figures_folder, run_suite
from tests.helpers.processes import wait_until

PARAMETERS = "PRESET: str = 'smoke'\nFIGURES: str = ''\nN: int = 3\nLR: float = 1e-3"


def outputs(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return "".join("".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", []))


@pytest.mark.slow
def test_typed_parameters_reach_the_notebooks_and_copies_are_kept(folder, write_notebook, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "home {with braces}"))
    monkeypatch.delenv("ANALYSIS_WORKERS", raising=False)
    monkeypatch.setattr("analysis.suite.runner._cores", lambda: 5)
    write_notebook(folder / "02_second.ipynb", "import os; print(N, os.environ['ANALYSIS_WORKERS'])")
    source = (folder / "01_first.ipynb").read_bytes()
    runs = run_suite("lab", overrides={"NAMES": "b c", "DEEP": "true"}, folder=folder, workers=2)
    assert [(run.name, run.status) for run in runs] == [("01_first", "completed"), ("02_second", "completed")]
    assert runs[0].path == paths.runs() / "notebooks" / "lab" / "01_first.ipynb"
    assert outputs(runs[0].path) == "8 0.0002 ['b', 'c'] True\n"
    assert outputs(runs[1].path) == "8 2\n"  # its studies have a share of the cores
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


@pytest.mark.slow
def test_an_interrupt_ends_every_kernel_and_is_no_failure(folder, write_notebook, monkeypatch):
    for name in ("01_first", "02_second"):
        write_notebook(folder / f"{name}.ipynb", "import time; time.sleep(600)")

    def interrupted(futures):
        wait_until(lambda: len(kernels()) == 2, 60)
        raise KeyboardInterrupt

    def kernels():
        children = psutil.Process().children()
        return [child for child in children if "ipykernel_launcher" in child.cmdline()]

    monkeypatch.setattr(runner, "as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_suite("lab", folder=folder, workers=2)
    assert not kernels()
    assert not list((paths.runs() / "notebooks" / "lab").glob("*.json"))


@pytest.mark.slow
def test_as_many_notebooks_run_at_once_as_asked_and_tell_in_order(folder, papermill_is):
    both = threading.Barrier(2, timeout=60)
    papermill_is(lambda name, parameters: both.wait())
    runs = run_suite("lab", folder=folder, workers=2)
    assert [(run.name, run.status) for run in runs] == [("01_first", "completed"), ("02_second", "completed")]


@pytest.mark.parametrize("why", ["timed", "model"])
def test_what_measures_times_or_is_not_the_labs_runs_alone_and_first(folder, write_notebook, papermill_is, why):
    beside = [0]

    def counted(name, parameters):
        now.append(name)
        beside.append(len(now))
        time.sleep(0.05)
        now.remove(name)

    now, executed = [], papermill_is(counted)
    if why == "timed":
        write_notebook(folder / "02_second.ipynb", "1", parameters=PARAMETERS, more_tags=("timed",))
    else:
        write_notebook(folder / "02_second.ipynb", "1", parameters=f"{PARAMETERS}\nMODEL: str = 'my/llama'")
    run_suite("lab", folder=folder, workers=2)
    assert executed == ["02_second", "01_first"] and max(beside) == 1


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "2"])
def test_a_number_of_notebooks_at_once_that_is_none_is_refused(folder, wrong):
    with pytest.raises(UsageError, match="workers must be a whole number of at least 1"):
        run_suite("lab", folder=folder, workers=wrong)


@pytest.mark.parametrize(("cores", "free", "expected"), [(4, 100, 4), (4, 5, 2), (1, 100, 1), (8, 0, 1)])
def test_as_many_at_once_as_cores_and_half_of_the_memory_allow(monkeypatch, cores, free, expected):
    monkeypatch.setattr(runner, "_cores", lambda: cores)
    monkeypatch.setattr(memory, "available", lambda: free * runner.NOTEBOOK)
    assert runner.at_once() == expected


@pytest.mark.slow
def test_before_it_starts_it_says_how_long_that_took(folder, papermill_is):
    said = []
    papermill_is()
    run_suite("lab", folder=folder, workers=1, say=said.append)
    copies = runner.copies_folder("lab")
    for name, seconds in (("01_first", 240.0), ("02_second", 60.0)):
        copy = copies / f"{name}.ipynb"
        records.write(copy, replace(records.read(copy), seconds=seconds))
    run_suite("lab", folder=folder, workers=2, force=True, say=said.append)
    records.write(copies / "01_first.ipynb", replace(records.read(copies / "01_first.ipynb"), seconds=0.0, inputs=""))
    runs = run_suite("lab", folder=folder, workers=1, say=said.append)
    assert said == [
        "running 2: how long it takes is not known (with these parameters not yet run to the end here: 01_first,"
        " 02_second)",
        "running 2, 2 at once: about 4 minutes, if each takes what it took last time",
        "1 of 2 notebooks are fresh (--force runs them); running 1: about 0 seconds, if each takes what it took last"
        " time",
    ]
    assert [run.status for run in runs] == ["completed", "fresh"]
    run_suite("lab", only="01_first", overrides={"N": 4}, folder=folder, workers=1, say=said.append)
    assert "is not known (with these parameters" in said[-1], "what another size took says nothing"


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
