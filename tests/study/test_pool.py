"""Workers: every item once, one at a time to whoever is free, and no process left behind."""

import inspect
import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import closing

import pytest

from analysis import errors, paths
from analysis.errors import AnalysisError, NumericalError, RecipeError
from analysis.study import pool
from tests.helpers import fakes
from tests.helpers.fakes import begun, items
from tests.helpers.processes import alive, wait_until


@pytest.mark.slow
def test_every_item_once_and_a_slow_one_blocks_nobody(log, monkeypatch, tmp_path):
    monkeypatch.setenv("ANALYSIS_PROGRESS_FILE", str(tmp_path / "bars"))
    wishes = [{"until": 4, "sleep": 0.3}, {"print": "noise on stdout"}, {}, {}, {}]
    answers = list(pool.spread(fakes.act, items(log, *wishes), workers=2, threads=3))
    assert [error for _, error in answers] == [None] * 5
    assert [number for number, _ in answers] == [1, 2, 3, 4, 0]
    rows = begun(log)
    assert sorted(row[0] for row in rows) == list("01234") and len({row[1] for row in rows}) == 2
    assert {tuple(row[2:]) for row in rows} == {("3", "0", "False")}, "threads as given, and no bars"
    assert not any(alive(int(row[1])) for row in rows)


@pytest.mark.slow
def test_an_error_keeps_nothing_from_being_begun(log):
    wrong = RecipeError("wnada", ["no such criterion", "no pattern"])
    answers = dict(pool.spread(fakes.act, items(log, {}, {"raise": wrong}, {}, {}), workers=1, threads=1))
    assert set(answers) == {0, 1, 2, 3} and [answers[number] for number in (0, 2, 3)] == [None] * 3
    assert type(answers[1]) is RecipeError and str(answers[1]) == str(wrong) and answers[1].problems == wrong.problems
    assert "in act" in answers[1].__notes__[0], "the worker's traceback"
    assert sorted(row[0] for row in begun(log)) == ["0", "1", "2", "3"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "end, said",
    [
        ({"status": 3}, "exited with status 3"),
        ({"signal": signal.SIGKILL}, "ended by SIGKILL, as the system does when memory runs out"),
    ],
)
def test_an_item_whose_worker_dies_is_done_once_more_by_another_then_told(log, end, said):
    answers = list(pool.spread(fakes.act, items(log, end, {}), workers=1, threads=1))
    assert [number for number, _ in answers] == [1, 0] and answers[0][1] is None
    error = answers[1][1]
    assert isinstance(error, AnalysisError) and said in str(error)
    assert "workers=1" in str(error) and "ANALYSIS_WORKERS=1" in str(error)
    rows = begun(log)
    assert [row[0] for row in rows] == ["0", "1", "0"] and len({row[1] for row in rows}) == 2


@pytest.mark.slow
def test_an_item_whose_worker_dies_once_is_done(log):
    ((number, error),) = pool.spread(fakes.act, items(log, {"status": 3, "dies": 1}), workers=1, threads=1)
    assert (number, error) == (0, None) and len(begun(log)) == 2


@pytest.mark.slow
def test_an_error_that_cannot_be_pickled_is_quoted():
    ((_, error),) = pool.spread(fakes.fail_unportably, [("this", "that")], workers=1, threads=1)
    assert type(error) is RuntimeError and str(error) == "Unportable: this and that"


def test_what_cannot_be_sent_is_an_error_here():
    with pytest.raises((pickle.PicklingError, AttributeError)):
        list(pool.spread(lambda item: None, [1], workers=1, threads=1))


@pytest.mark.slow
def test_closing_ends_workers_at_once(log):
    started = time.monotonic()
    with closing(pool.spread(fakes.act, items(log, {}, {"sleep": 60}), workers=2, threads=1)) as answers:
        assert next(answers) == (0, None)
    assert time.monotonic() - started < 30 and len(begun(log)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_caller_killed_leaves_no_worker_in_the_middle_of_its_item(log, end):
    code = f"""
from analysis.study import pool
from tests.helpers import fakes
from tests.helpers.fakes import begun, items
hire = pool.hire
def told(*options):
    worker = hire(*options)
    print(worker.pid, flush=True)
    return worker
pool.hire = told
list(pool.spread(fakes.act, {items(log, {"then_sleep": 60}, {"then_sleep": 60})!r}, workers=2, threads=1))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=paths.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    pids = [int(process.stdout.readline()) for _ in range(2)]
    wait_until(lambda: len(begun(log)) == 2)
    process.send_signal(end)
    assert "Traceback" not in process.communicate()[1]
    wait_until(lambda: not any(map(alive, pids)))


@pytest.mark.parametrize(
    "kind", [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, AnalysisError)]
)
def test_every_error_comes_back_whole_from_pickle(kind):
    error = kind("wnada-50%", ["one", "two"]) if kind is RecipeError else kind("block 0: not finite")
    error.args = (f"job 3: {error}",)
    error.add_note("a note")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(error, protocol))
        assert (
            type(back) is kind
            and str(back) == str(error)
            and vars(back) == vars(error)
            and back.exit_code == error.exit_code
        )


def test_threads_are_those_the_model_is_worth_whatever_runs_beside_it(monkeypatch):
    monkeypatch.setattr(pool, "_weights", {"lab": 4 * 2**20, "some": 70 * 2**20, "large": 2**32}.get)
    monkeypatch.setattr(pool, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [pool.threads(name) for name in ("lab", "some", "large")] == [1, 3, 8]
    for given, allowed in (("2", 2), ("16", 8), ("4,2", 8), ("0", 8), ("", 8)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert pool.threads("large") == allowed and pool.threads("lab") == 1


def test_as_many_workers_as_fit(monkeypatch, tmp_path):
    small, large = (
        fakes.model_folder(tmp_path / name, weights=bytes(size)) for name, size in (("small", 16), ("large", 2**20))
    )
    size = pool._weights(str(large))
    assert 2**20 < size < 2**20 + 200
    free = lambda count: lambda: 2 * count * (8 * size + 2**29) + 1
    monkeypatch.setattr(pool, "cores", lambda: 4)
    for room, threads, fits in ((0, 1, 1), (1, 1, 1), (3, 1, 3), (9, 1, 4), (9, 2, 2), (9, 3, 1), (9, 4, 1)):
        monkeypatch.setattr(pool.memory, "available", free(room))
        assert pool.affordable([str(small), str(large)], ["cpu"], threads) == fits
    for devices in (["cuda"], ["cpu", "cuda:1"], ["mps"]):
        assert pool.affordable([str(small)], devices) == 1
    monkeypatch.setattr(pool, "cores", lambda: 1)
    assert pool.affordable([str(small)], ["auto"]) == 1


def test_auto_is_what_torch_sees(monkeypatch, tmp_path):
    import torch

    model = str(fakes.model_folder(tmp_path / "model"))
    monkeypatch.setattr(pool, "cores", lambda: 2)
    monkeypatch.setattr(pool.memory, "available", lambda: 2**40)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for cuda, count in ((True, 1), (False, 2)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        assert pool.affordable([model], ["auto", "cpu"]) == count


def test_cores_are_those_of_this_process():
    if hasattr(os, "sched_getaffinity"):
        assert pool.cores() == len(os.sched_getaffinity(0))
    assert pool.cores() >= 1


@pytest.mark.slow
def test_the_error_of_a_worker_is_its_own_class(log):
    ((_, error),) = pool.spread(
        fakes.act, items(log, {"raise": NumericalError("block 0 mlp.down_proj: not finite")}), workers=1, threads=1
    )
    assert type(error) is NumericalError and str(error) == "block 0 mlp.down_proj: not finite"
