"""SLURM, as far as its programs can be played on this machine, and Ray: chosen by a text, equal to a serial study, and
nothing lost where a process dies.
"""

import importlib
import os
import runpy
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from analysis import paths
from analysis.cli import main
from analysis.errors import AnalysisError, NumericalError, UsageError
from analysis.study import executor
from analysis.study.executor import chosen
from analysis.study.job import Job
from analysis.study.pool import WorkerDied
from analysis.study.sweep import run_study
from tests.helpers import fakes, slurm
from tests.helpers.fakes import begun, items, lines
from tests.helpers.processes import alive, wait_until


@pytest.fixture
def submitit(monkeypatch):
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 0)
    monkeypatch.setattr("submitit.core.core.PicklingExecutor._throttle", lambda self: None)


@pytest.fixture
def installed(monkeypatch):
    """Both packages and a SLURM, as far as settings are concerned."""
    monkeypatch.setattr("analysis.study.remote.find_spec", lambda name: name)
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("analysis.study.ray_cluster.cores", lambda: 4)


def test_an_executor_is_named_by_a_text(installed, monkeypatch):
    monkeypatch.delenv("ANALYSIS_EXECUTOR", raising=False)
    assert chosen() is None and chosen("local") is None and chosen(" ") is None
    assert chosen("slurm") == executor.Slurm()
    monkeypatch.setenv("ANALYSIS_EXECUTOR", "slurm[partition=gpu, hours=0.5, memory=64, gpus=1, jobs=8,where=local]")
    wanted = executor.Slurm(partition="gpu", hours=0.5, memory=64.0, gpus=1, jobs=8, where="local")
    assert chosen() == wanted
    assert chosen("ray[gpus=0.5,cpus=2]") == executor.Ray(gpus=0.5, cpus=2)
    assert (wanted.alone.jobs, wanted.alone.exclusive) == (1, True) and executor.Ray().alone.jobs == 1


@pytest.mark.parametrize(
    "text, said",
    [
        ("slum", "there is none; did you mean 'slurm'"),
        ("slurm(gpus=1)", "write local, slurm or ray"),
        ("local[workers=2]", "ANALYSIS_WORKERS"),
        ("slurm[gpu=1]", "no setting 'gpu'; did you mean 'gpus'"),
        ("slurm[exclusive=1]", "no setting 'exclusive'"),
        ("slurm[gpus]", "write NAME=VALUE"),
        ("slurm[gpus=1,gpus=2]", "gpus is set twice"),
        ("slurm[gpus=one]", "gpus must be a whole number, got 'one'"),
        ("slurm[hours=nan]", "hours must be a number of at least 0.02, got nan"),
        ("slurm[cpus=0,memory=0]", "memory must be a number of at least 0.1, got 0.0; cpus must be a whole number of"),
        ("slurm[where=moon]", "where must be slurm or local, got 'moon'"),
        ("ray[store=1]", "store must be a whole number of at least 80"),
        ("ray[cpus=8]", "8 of this machine's 4 cores"),
    ],
)
def test_a_wrong_text_is_refused(installed, text, said):
    with pytest.raises(UsageError, match="^executor ") as caught:
        chosen(text)
    assert said in str(caught.value)


@pytest.mark.slow
def test_a_missing_package_or_cluster_is_said_before_anything_is_run(home, calls, job_args, monkeypatch, capsys):
    monkeypatch.setattr("analysis.study.remote.find_spec", lambda name: None)
    for kind in ("slurm", "ray"):
        monkeypatch.setenv("ANALYSIS_EXECUTOR", kind)
        with pytest.raises(UsageError, match=rf"not installed; pip install 'pruning-analysis\[{kind}\]'"):
            run_study([Job(**job_args)])
    assert not calls.read_text()
    assert main(["figures", "--executor", "ray"]) == 2 and "[ray]" in capsys.readouterr().err
    run_study([Job(**job_args)], workers=1)
    run_study([Job(**job_args)])
    assert len(lines(calls, "prune")) == 1, "workers say who; and what is stored needs nobody"
    monkeypatch.setattr("analysis.study.remote.find_spec", lambda name: name)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UsageError, match="no sbatch and srun; start on a node of the cluster"):
        chosen("slurm")


def test_ray_starts_here_without_a_slow_module_and_says_where_it_cannot(home, installed, monkeypatch):
    """What Jupyter brings costs each of Ray's processes seconds; the caller's own environment stays."""
    seen = []

    def init(**options):
        first, *others = os.environ["PYTHONPATH"].split(os.pathsep)
        with pytest.raises(ImportError):
            runpy.run_path(f"{first}/rfc3987_syntax.py")
        seen.append((others, options["object_store_memory"], options["num_cpus"]))
        raise RuntimeError("The current node timed out\nmore")

    ray = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("PYTHONPATH", "before")
    with pytest.raises(AnalysisError, match="on this machine cannot be had: The current node timed out; .*less busy"):
        list(chosen("ray[store=200]").map(print, ["a"]))
    assert seen == [(["before"], 200 * 10**6, 4)] and os.environ["PYTHONPATH"] == "before"
    assert list((paths.runs() / "workers").iterdir()) == []


def test_the_command_hands_its_executor_to_the_notebooks(installed, monkeypatch):
    seen = []
    monkeypatch.setenv("ANALYSIS_EXECUTOR", "local")
    monkeypatch.setattr("analysis.suite.runner.run_suite", lambda *a, **k: seen.append(os.environ["ANALYSIS_EXECUTOR"]))
    with pytest.raises(TypeError):  # no runs to report
        main(["figures", "--executor", "ray[gpus=1]"])
    assert seen == ["ray[gpus=1]"]


@pytest.fixture
def at(home, submitit, monkeypatch, tmp_path):
    """A SLURM that is played here."""
    monkeypatch.setattr("analysis.study.remote.POLL", 0.05)
    states = importlib.import_module("submitit.slurm.slurm")
    monkeypatch.setattr(states.SlurmJob, "watcher", states.SlurmInfoWatcher())  # numbers of jobs begin anew
    return slurm.install(tmp_path / "slurm", monkeypatch)


def wait_for(log, count):
    wait_until(lambda: len(begun(log)) == count, seconds=600)


@pytest.mark.slow
def test_slurm_does_what_the_settings_say_tells_it_at_once_and_cleans_up(at, log):
    given = chosen("slurm[partition=gpu,account=me,hours=1.5,memory=64,cpus=2,gpus=1]")
    assert list(given.map(fakes.act, items(log, {"until": 1}, {}))) == [(1, None), (0, None)]
    assert {tuple(row[2:]) for row in begun(log)} == {("2", "0", "False")}, "threads as given, and no bars"
    assert len({row[1] for row in begun(log)} | {str(os.getpid())}) == 3
    script = (at / "jobs" / "0").read_text()
    for wanted in ("partition=gpu", "account=me", "time=90", "mem=64GB", "cpus-per-task=2", "gpus-per-node=1"):
        assert f"#SBATCH --{wanted}\n" in script
    assert "exclusive" not in script and list((paths.runs() / "workers").iterdir()) == []


@pytest.mark.slow
def test_a_killed_slurm_job_is_tried_once_more_and_an_error_comes_back(at, log):
    killed, wrong = {"signal": signal.SIGKILL}, NumericalError("block 0: not finite")
    answers = dict(chosen("slurm[memory=32]").map(fakes.act, items(log, killed, {"raise": wrong})))
    error = answers[0]
    assert isinstance(error, WorkerDied) and "ended without an answer (state OUT_OF_MEMORY)" in str(error)
    assert "slurm[memory=64]" in str(error) and Path(str(error).rpartition("what it printed: ")[2]).is_file()
    assert type(answers[1]) is NumericalError and "in act" in answers[1].__notes__[0]
    assert sorted(row[0] for row in begun(log)) == ["0", "0", "1"]


def tell(at, log, times):
    """Tell the first job of the cluster `times` times that its time is up, each time it is at work."""

    def poke():
        for count in range(1, times + 1):
            wait_for(log, count)
            os.kill(int((at / "pids" / "0").read_text()), signal.SIGUSR2)

    thread = threading.Thread(target=poke)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_preempted_slurm_job_is_queued_again_by_the_cluster(at, log):
    thread = tell(at, log, 1)
    assert list(chosen("slurm").map(fakes.act, items(log, {"dies": 1, "then_sleep": 600}))) == [(0, None)]
    thread.join()
    assert len(begun(log)) == 2 and len(list((at / "jobs").iterdir())) == 1


@pytest.mark.slow
def test_a_slurm_job_that_reaches_its_time_limit_twice_is_told(at, log):
    thread = tell(at, log, 2)
    ((_, error),) = chosen("slurm[hours=0.1]").map(fakes.act, items(log, {"then_sleep": 600}))
    thread.join()
    assert type(error) is AnalysisError and len(begun(log)) == 2
    assert "job 0 reached its time limit of 0.1 hours twice" in str(error) and "slurm[hours=0.4]" in str(error)


@pytest.mark.slow
def test_closing_cancels_slurm_jobs(at, log):
    with closing(chosen("slurm").map(fakes.act, items(log, {"then_sleep": 600}, {"until": 1}))) as answers:
        assert next(answers) == (1, None)
    assert (at / "cancelled").read_text() == "0\n"
    wait_until(lambda: not alive(int(begun(log)[0][1])), seconds=60)


def test_what_sbatch_refuses_is_said(home, submitit, monkeypatch, tmp_path):
    slurm.install(tmp_path / "slurm", monkeypatch, refuse="invalid partition specified: gpu")
    with pytest.raises(UsageError, match="sbatch refuses the job: .*invalid partition specified: gpu"):
        list(chosen("slurm").map(fakes.act, [("log", {})]))
