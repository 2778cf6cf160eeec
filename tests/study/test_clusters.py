"""SLURM, as far as its programs can be played on this machine, and Ray: chosen by a text, equal to a serial study, and
nothing lost where a process dies.
"""

import importlib
import os
import signal
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

from analysis import paths, schema
from analysis.cli import main
from analysis.errors import AnalysisError, NumericalError, UsageError
from analysis.recipe.words import CRITERION_WORDS
from analysis.study import executor
from analysis.study.executor import chosen
from analysis.study.grids import grid
from analysis.study.job import Job
from analysis.study.store import list_runs
from analysis.study.sweep import run_study
from tests.helpers import fakes, slurm
from tests.helpers.fakes import lines
from tests.helpers.processes import wait_until


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


def test_the_command_hands_its_executor_to_the_notebooks(installed, monkeypatch):
    seen = []
    monkeypatch.setenv("ANALYSIS_EXECUTOR", "local")
    monkeypatch.setattr("analysis.suite.runner.run_suite", lambda *a, **k: seen.append(os.environ["ANALYSIS_EXECUTOR"]))
    with pytest.raises(TypeError):  # no runs to report
        main(["figures", "--executor", "ray[gpus=1]"])
    assert seen == ["ray[gpus=1]"]


@pytest.fixture
def staff(calls, monkeypatch, tmp_path):
    """Fakes in place in workers elsewhere: call it with options of `fakes.install`."""

    def prepare(**options) -> None:
        (tmp_path / "staffed.py").write_text(
            f"from pathlib import Path\nfrom tests.helpers import fakes\n"
            f"fakes.install(Path({str(calls)!r}), **{options!r})\n"
        )

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("analysis.study.remote.registering", lambda: ["staffed"])
    monkeypatch.setattr("analysis.study.remote.POLL", 0.05)
    return prepare


def jobs_of(job_args, *methods):
    return [Job(**job_args | {"recipe": f"wanda-50% {method}"}) for method in methods]


@pytest.mark.slow
def test_slurm_does_what_the_settings_say_and_cleans_up(home, calls, staff, job_args, submitit, monkeypatch, tmp_path):
    at = slurm.install(tmp_path / "slurm", monkeypatch)
    staff()
    drawn = []
    monkeypatch.setattr("analysis.study.sweep.bar", lambda done, **options: drawn.append(options["total"]) or done)
    monkeypatch.setenv("ANALYSIS_EXECUTOR", "slurm[partition=gpu,account=me,hours=1.5,memory=64,cpus=2,gpus=1,jobs=1]")
    study = run_study(jobs_of(job_args, "LR", "BR"))
    assert drawn == [2] and len(study.jobs) == len(lines(calls, "prune")) == 2
    assert os.getpid() not in {int(line.split()[-1]) for line in lines(calls, "prune")}
    script = (at / "jobs" / "0").read_text()
    for wanted in ("partition=gpu", "account=me", "time=90", "mem=64GB", "cpus-per-task=2", "gpus-per-node=1"):
        assert f"#SBATCH --{wanted}\n" in script
    assert "exclusive" not in script and list((paths.runs() / "workers").iterdir()) == []
    wait_until(lambda: [file.read_text() for file in (at / "states").iterdir()] == ["COMPLETED\n"] * 2)


@pytest.mark.slow
def test_a_killed_slurm_job_is_tried_once_more_and_an_error_comes_back(
    home, calls, staff, job_args, submitit, monkeypatch, tmp_path
):
    slurm.install(tmp_path / "slurm", monkeypatch)
    monkeypatch.setenv("ANALYSIS_EXECUTOR", "slurm[memory=32]")
    staff(die="BR", fail="BR+GP")
    jobs = jobs_of(job_args, "LR", "BR", "BR+GP")
    with pytest.raises(
        AnalysisError, match=r"^job wanda-50% BR on .*: its job \d ended without an answer \(state OUT_OF_MEMORY\).*=64"
    ) as caught:
        run_study(jobs)
    printed = Path(str(caught.value).rpartition("what it printed: ")[2])
    assert printed.is_file() and sorted(info.state for info in list_runs()) == ["complete", "incomplete", "incomplete"]
    with pytest.raises(NumericalError, match="not finite") as caught:
        run_study(jobs[2:])
    assert "in prune" in caught.value.__notes__[0]
    staff()
    run_study(jobs)
    tried = sorted(" ".join(line.split()[2:4]) for line in lines(calls, "prune"))
    assert tried == ["BR fresh", *["BR resumed"] * 2, "BR+GP fresh", *["BR+GP resumed"] * 2, "LR fresh"]


def signalled(at, calls, times):
    """A thread that tells the first job of the cluster `times` times that its time is up, each time it is at work."""

    def tell():
        for count in range(1, times + 1):
            wait_until(lambda count=count: len(lines(calls, "prune")) == count, seconds=600)
            os.kill(int((at / "pids" / "0").read_text()), signal.SIGUSR2)

    thread = threading.Thread(target=tell)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_preempted_slurm_job_is_queued_again_and_goes_on(
    home, calls, staff, job_args, submitit, monkeypatch, tmp_path
):
    at = slurm.install(tmp_path / "slurm", monkeypatch)
    staff(seconds=1.0)
    thread = signalled(at, calls, 1)
    study = run_study(jobs_of(job_args, "BR"), executor=chosen("slurm"))
    thread.join()
    assert len(study.runs) == 1 and len(list((at / "jobs").iterdir())) == 1, "the same job of the cluster"
    assert [line.split()[3] for line in lines(calls, "prune")] == ["fresh", "resumed"]


@pytest.mark.slow
def test_a_slurm_job_that_reaches_its_time_limit_twice_is_told(
    home, calls, staff, job_args, submitit, monkeypatch, tmp_path
):
    at = slurm.install(tmp_path / "slurm", monkeypatch)
    staff(seconds=60)
    thread = signalled(at, calls, 2)
    with pytest.raises(AnalysisError, match=r"job 0 reached its time limit of 0.1 hours twice.*slurm\[hours=0.4\]"):
        run_study(jobs_of(job_args, "BR"), executor=chosen("slurm[hours=0.1]"))
    thread.join()
    assert [line.split()[3] for line in lines(calls, "prune")] == ["fresh", "resumed"]


def test_what_sbatch_refuses_is_said(home, calls, job_args, submitit, monkeypatch, tmp_path):
    slurm.install(tmp_path / "slurm", monkeypatch, refuse="invalid partition specified: gpu")
    with pytest.raises(UsageError, match="sbatch refuses the job: .*invalid partition specified: gpu"):
        run_study(jobs_of(job_args, "LR"), executor=chosen("slurm"))


@pytest.mark.slow
def test_an_interrupt_cancels_slurm_jobs(home, calls, staff, job_args, submitit, monkeypatch, tmp_path):
    at = slurm.install(tmp_path / "slurm", monkeypatch)
    staff(seconds=60, slow="BR")
    given = executor.Slurm()

    def interrupted(done, **options):
        yield next(done)
        wait_until(lambda: len(lines(calls, "prune")) == 2, seconds=600)
        raise KeyboardInterrupt

    monkeypatch.setattr("analysis.study.sweep.bar", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_study(jobs_of(job_args, "BR", "LR"), executor=given)
    assert (at / "cancelled").read_text() == "0\n"
    pid = int(lines(calls, "prune")[0].split()[-1])
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


@pytest.fixture
def outside():
    """A criterion of one's own, registered, and forgotten again."""
    from analysis import extend

    before = dict(CRITERION_WORDS), dict(extend.SCORES)
    module = importlib.import_module("tests.helpers.outside")
    yield module.NAME
    for words, then in zip((CRITERION_WORDS, extend.SCORES), before):
        words.clear()
        words.update(then)
    del sys.modules["tests.helpers.outside"]


def equal_to_serial(jobs, named, monkeypatch, tmp_path):
    """Two real runs by an executor, and in this process."""
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("ANALYSIS_EXECUTOR", named)
    apart = run_study(jobs)
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "here"))
    serial = run_study(jobs, workers=1)
    assert not serial.cost.equals(apart.cost), "done again"
    for name in schema.TABLES.keys() - {"cost"}:
        pd.testing.assert_frame_equal(getattr(apart, name), getattr(serial, name), check_exact=True)
    return apart


def tiny_jobs(*recipes):
    texts = dict(calibration="lab:stories", held_out={"stories": "lab:stories"}, samples=2, length=32)
    return grid(model="lab/tiny", recipes=recipes, device="cpu", **texts)


@pytest.mark.slow
def test_two_real_jobs_of_submitit_equal_the_serial_study(home, submitit, outside, monkeypatch, tmp_path):
    """With a word from outside in one of them."""
    jobs = tiny_jobs("wanda-50% LR", f"{outside}-50% LR")
    equal_to_serial(jobs, "slurm[where=local]", monkeypatch, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # Ray's own
def test_two_processes_of_ray_equal_the_serial_study(home, outside, monkeypatch, tmp_path, caplog):
    """One of them dies and is tried again, a third one fails, and what is done is kept."""
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    monkeypatch.setattr("analysis.study.ray_cluster.cores", lambda: 2)
    monkeypatch.setattr("analysis.study.sweep.work_elsewhere", fakes.troubled)
    jobs = tiny_jobs("magnitude-50% LR", f"{outside}-50% LR")
    with pytest.raises(NumericalError, match="^job random-50% LR on lab/tiny.*: block 0: not finite") as caught:
        monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "elsewhere"))
        monkeypatch.setenv("ANALYSIS_EXECUTOR", "ray")
        run_study([*jobs, *tiny_jobs("random-50% LR")])
    assert "in troubled" in caught.value.__notes__[0] and not ray.is_initialized()
    assert "is tried once more: its worker process died" in caplog.text
    assert [info.state for info in list_runs()] == ["complete"] * 2
    equal_to_serial(jobs, "ray", monkeypatch, tmp_path)
