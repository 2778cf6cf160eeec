"""Errands: done elsewhere as the caller would, once more where a process dies, refused where the disk is another."""

import os
import pickle
import socket
import sys
from contextlib import closing
from pathlib import Path

import pytest

from analysis import paths
from analysis.errors import AnalysisError, NumericalError, StoreError, UsageError
from analysis.study import remote
from analysis.study.job import Job
from analysis.study.pool import WorkerDied
from analysis.study.remote import Errand, spread, work_elsewhere
from analysis.study.store import RunFolder, list_runs
from tests.helpers.fakes import lines


class Nearby:
    """A cluster that does an errand when asked for its outcome. `deaths`: how often each of its first errands dies."""

    def __init__(self, deaths=(), change=lambda errand: errand):
        self.deaths, self.change = list(deaths), change
        self.queued, self.most, self.cancelled = [], 0, []

    def submit(self, errand):
        handle = object()
        self.queued.append((handle, pickle.loads(pickle.dumps(self.change(errand)))))
        self.most = max(self.most, len(self.queued))
        return handle

    def ended(self, handles):
        return handles[-1:]

    def outcome(self, handle):
        errand = next(errand for other, errand in self.queued if other is handle)
        self.queued = [pair for pair in self.queued if pair[0] is not handle]
        if self.deaths and self.deaths.pop(0):
            raise WorkerDied("its process is gone")
        return errand()

    def cancel(self, handle):
        self.cancelled.append(handle)


@pytest.fixture
def here(home, monkeypatch, tmp_path):
    """Whatever an errand changes in its process is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", os.environ.copy())
    monkeypatch.setattr("sys.path", sys.path.copy())
    DONE.clear()


DONE: list = []


def note(item):
    DONE.append(item)
    if item == "wrong":
        raise NumericalError("block 0: not finite")


def go(cluster, items, at_once=2):
    return spread(cluster, note, items, desk=remote.desk(), threads=3, at_once=at_once)


def workers_folders() -> list[Path]:
    return list((paths.runs() / "workers").iterdir())


def test_every_item_is_done_and_an_error_stops_no_other(here):
    cluster = Nearby()
    answers = dict(go(cluster, ["a", "wrong", "b", "c"]))
    assert sorted(DONE) == ["a", "b", "c", "wrong"] and cluster.most == 2 and cluster.cancelled == []
    error = answers.pop(1)
    assert type(error) is NumericalError and str(error) == "block 0: not finite"
    assert error.__notes__[0].startswith(f"on {socket.gethostname()}:") and "in note" in error.__notes__[0]
    assert answers == dict.fromkeys((0, 2, 3))
    assert len(workers_folders()) == 1, "what failing workers printed is kept"


def test_nothing_is_left_behind_where_all_went_well(here):
    assert dict(go(Nearby(), ["a", "b"])) == {0: None, 1: None} and workers_folders() == []


def test_who_dies_once_is_tried_again_and_who_dies_twice_is_told(here, caplog):
    assert list(go(Nearby([True]), ["a", "b"], at_once=1)) == [(1, None), (0, None)] and DONE == ["b", "a"]
    assert "item 1 of 2 is tried once more: its process is gone" in caplog.text
    ((number, error),) = go(Nearby([True, True]), ["c"])
    assert number == 0 and isinstance(error, WorkerDied) and "c" not in DONE


def test_closing_cancels_what_is_queued(here):
    cluster = Nearby()
    with closing(go(cluster, ["a", "b", "c"], at_once=3)) as answers:
        next(answers)
    assert len(cluster.cancelled) == 2 and len(DONE) == 1


def test_a_worker_is_settled_as_its_caller(here, monkeypatch, tmp_path):
    (tmp_path / "words_of_mine.py").write_text("import os; os.environ['SEEN'] = os.environ['OMP_NUM_THREADS']")
    monkeypatch.setattr(remote, "registering", lambda: ["words_of_mine"])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ANALYSIS_PROGRESS_FILE", "bars")

    def elsewhere(errand):
        monkeypatch.chdir("/")
        os.environ["ANALYSIS_HOME"] = "/nowhere"
        sys.path.remove(str(tmp_path))
        return errand

    assert list(go(Nearby(change=elsewhere), ["a"])) == [(0, None)]
    assert os.getcwd() == str(tmp_path) and os.environ["ANALYSIS_HOME"] == str(tmp_path / "home")
    assert os.environ["SEEN"] == "3" and str(tmp_path) in sys.path and "ANALYSIS_PROGRESS_FILE" not in os.environ


@pytest.mark.parametrize(
    "change, kind, said",
    [
        ({"mark": "/nowhere/caller"}, StoreError, "does not see /nowhere/caller.*nothing was run.*ANALYSIS_HOME"),
        ({"folder": "/nowhere"}, StoreError, "the caller's working folder: /nowhere"),
        ({"modules": ("no_such_words",)}, UsageError, "cannot import no_such_words, which registers words"),
    ],
)
def test_a_worker_that_differs_runs_nothing(here, change, kind, said):
    ((_, error),) = go(Nearby(change=lambda errand: Errand(**vars(errand) | change)), ["a"])
    with pytest.raises(kind, match=said):
        raise error
    assert DONE == [] and isinstance(error, AnalysisError)


def test_a_job_that_is_another_one_there_is_refused(home, calls, job_args):
    remote._contents.cache_clear()
    job = Job(**job_args)
    Path(job_args["calibration"]).write_text("not what the caller read\n" * 50)
    here = Job(**job_args).digest()
    folder = RunFolder("0" * 64)
    with pytest.raises(StoreError, match=f"this job is run prune-{here[:12]}, for the caller it is prune-000000000000"):
        work_elsewhere((job, folder, 1))
    assert list_runs() == [] and not lines(calls, "prune")
    work_elsewhere((job, RunFolder(here), 1))
    assert RunFolder(here).read() is not None
    remote._contents.cache_clear()
