"""Executors: who does the runs, one GPU for each worker, and a driver that reads what was done or says it cannot."""

import os
from types import SimpleNamespace

import pytest

from analysis.errors import NumericalError, StoreError, UsageError
from analysis.study import executor
from analysis.study.executor import Here, Local, local, visible_gpus
from analysis.study.job import Job
from analysis.study.run import work
from analysis.study.store import list_runs
from analysis.study.sweep import run_study
from tests.helpers import fakes
from tests.helpers.fakes import lines, tables


def test_here_does_one_after_another_whatever_fails():
    done, wrong = [], NumericalError("not finite")

    def function(item):
        done.append(item)
        if item == "b":
            raise wrong

    assert list(Here().map(function, ["a", "b", "c"])) == [(0, None), (1, wrong), (2, None)] and done == list("abc")
    assert list(Local(4).map(done.append, ["d"])) == [(0, None)] and done[-1] == "d", "one item needs no process"
    assert isinstance(Here().alone, Here) and isinstance(Local(2).alone, Here)


@pytest.fixture
def gpus(monkeypatch):
    """Sets how many GPUs torch sees."""
    import torch

    def see(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return see


def jobs_on(*devices: str) -> list:
    return [SimpleNamespace(device=device, model="m") for device in devices]


def test_one_worker_for_each_gpu(gpus, monkeypatch):
    monkeypatch.setattr(executor, "affordable", lambda models, devices, threads: 7)
    monkeypatch.setattr(executor, "threads", lambda model: 2)
    gpus(3)
    assert local(jobs_on("auto", "cuda")) == Local(3, ("0", "1", "2"), 2)
    assert local(jobs_on("auto", "auto"), workers=2) == Local(2, ("0", "1", "2"), 2)
    for devices in (["cpu", "cpu"], ["auto", "cuda:1"], ["mps", "auto"]):
        assert local(jobs_on(*devices)) == Local(7, (), 2), "a named device is not dealt out"
    assert local(jobs_on("auto", "auto"), workers=1) == local(jobs_on("auto")) == Local(1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-ab, 6")
    assert visible_gpus() == ["4", "GPU-ab", "6"]
    for count in (0, 1):
        gpus(count)
        assert len(visible_gpus()) == count and local(jobs_on("auto", "auto")) == Local(7, (), 2)


def test_the_environment_may_say_how_many_workers(gpus, monkeypatch):
    monkeypatch.setattr(executor, "affordable", lambda models, devices, threads: 7)
    monkeypatch.setattr(executor, "threads", lambda model: 1)
    gpus(0)
    for wanted, made in (("", 7), ("3", 3), ("1", 1)):
        monkeypatch.setenv("ANALYSIS_WORKERS", wanted)
        assert local(jobs_on("cpu", "cpu")) == Local(made)
        assert local(jobs_on("cpu", "cpu"), workers=2) == Local(2), "an argument wins"
    for wrong in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("ANALYSIS_WORKERS", wrong)
        with pytest.raises(UsageError, match="ANALYSIS_WORKERS must be a whole number of at least 1"):
            local(jobs_on("cpu", "cpu"))


def test_gpus_are_dealt_out_in_turn(monkeypatch):
    seen = {}

    def spread(function, items, *, workers, threads, environments):
        seen.update(workers=workers, environments=environments)
        yield from ((number, None) for number, _ in enumerate(items))

    monkeypatch.setattr(executor, "spread", spread)
    assert len(list(Local(3, ("4", "6")).map(print, "abcd"))) == 4
    assert seen == {"workers": 3, "environments": [{"CUDA_VISIBLE_DEVICES": name} for name in ("4", "6", "4")]}
    assert len(list(Local(8).map(print, "ab"))) == 2 and seen == {"workers": 2, "environments": [{}, {}]}


@pytest.mark.slow
def test_a_worker_sees_its_own_gpu_from_the_start(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    log = tmp_path / "log"
    log.touch()
    assert [error for _, error in Local(2, ("0", "1")).map(fakes.note_gpu, [str(log)] * 2)] == [None, None]
    assert sorted(line.split()[1] for line in log.read_text().splitlines()) == ["0", "1"]


class Elsewhere:
    """Does the work in this process with a store of its own, as a worker does that does not share the caller's disk."""

    alone = property(lambda self: self)

    def __init__(self, home):
        self.home, self.given = str(home), []

    def map(self, function, items):
        self.given.append([item[0] for item in items])
        shared = os.environ["ANALYSIS_HOME"]
        for number, item in enumerate(items):
            os.environ["ANALYSIS_HOME"] = self.home
            function(item)
            os.environ["ANALYSIS_HOME"] = shared
            yield number, None


@pytest.mark.slow
def test_an_executor_is_given_all_jobs_and_timed_ones_first(home, calls, job_args, monkeypatch):
    monkeypatch.setattr("analysis.pruning.structures.check_pattern_shrinks", lambda model, pattern: None)
    monkeypatch.setattr("analysis.measure.size.size_table", lambda models, windows: tables()["size"])
    jobs = [Job(**job_args), Job(**job_args | {"recipe": "flap-neurons-50% LR", "shrink": True})]
    given = Elsewhere(home)
    study = run_study(jobs, executor=given)
    assert given.given == [[jobs[1]], [jobs[0]]] and study.jobs == tuple(jobs)
    assert run_study(jobs, executor=given).runs == study.runs and len(given.given) == 2, "nothing is done twice"
    with pytest.raises(UsageError, match="workers or an executor, not both"):
        run_study(jobs, workers=2, executor=given)


def test_a_run_that_cannot_be_seen_is_an_error_and_not_done_again(home, calls, job_args, tmp_path):
    with pytest.raises(StoreError, match=r"^job wanda-50% BR on .*: its worker ended without an error.*ANALYSIS_HOME"):
        run_study([Job(**job_args)], executor=Elsewhere(tmp_path / "elsewhere"))
    assert len(lines(calls, "prune")) == 1 and list_runs() == []


def test_an_executor_that_gives_up_is_an_error(home, calls, job_args):
    class Lazy(Elsewhere):
        def map(self, function, items):
            function(items[0])
            yield 0, None

    jobs = [Job(**job_args | {"seed": seed}) for seed in range(2)]
    with pytest.raises(StoreError, match="ended without an answer for 1 jobs, the first is wanda-50% BR .* seed 1"):
        run_study(jobs, executor=Lazy(home))


@pytest.mark.slow
def test_the_model_is_let_go_of_when_a_study_ends(home, calls, job_args):
    from analysis.study.run import process_bench

    run_study([Job(**job_args)])
    assert process_bench().dense is None
    process_bench.cache_clear()
    assert work.__module__ == "analysis.study.run", "workers find it by its name"
