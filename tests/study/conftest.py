"""A store of one's own, and a pruning that takes no time."""

import pytest

from analysis.study import pool
from tests.helpers import fakes


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Fresh ANALYSIS_HOME; the store's folder is home/runs. Nothing waits for the disk."""
    monkeypatch.setattr("analysis.study.sweep.PATIENCE", 0.0)
    monkeypatch.setattr("analysis.storage._settle", lambda path: None)
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def log(tmp_path):
    """Where `fakes.act` notes what it is asked."""
    file = tmp_path / "done.log"
    file.touch()
    return file


@pytest.fixture
def job_args(tmp_path):
    """Arguments of a Job whose model and texts exist."""
    (tmp_path / "a.txt").write_text("one text\n" * 50)
    (tmp_path / "b.txt").write_text("another text\n" * 50)
    model = fakes.model_folder(tmp_path / "model")
    held_out = {"other": str(tmp_path / "b.txt")}
    return dict(
        model=str(model),
        recipe="wanda-50% BR",
        calibration=str(tmp_path / "a.txt"),
        held_out=held_out,
        samples=4,
        length=8,
    )


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Fakes in place, one core unless a test says otherwise; the file that lists every call of them."""
    log = tmp_path / "calls.log"
    log.touch()
    monkeypatch.setattr("analysis.study.pool.cores", lambda: 1)
    fakes.install(log, setitem=monkeypatch.setitem, setattr_=monkeypatch.setattr)
    return log


@pytest.fixture
def staff(calls, monkeypatch):
    """Fakes in place in workers too: call it with options of `fakes.install`."""

    def prepare(**options) -> None:
        install = (
            f"from pathlib import Path; from tests.helpers import fakes; fakes.install(Path({str(calls)!r}),"
            f" **{options!r})"
        )
        monkeypatch.setattr("analysis.study.pool.WORKER", f"{install}; {pool.WORKER}")

    return prepare
