"""A study by several workers: the same tables in the same order, errors by their names, and nobody left behind."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from analysis import paths, schema
from analysis.errors import AnalysisError, NumericalError, UsageError
from analysis.study.job import Job
from analysis.study.store import list_runs
from analysis.study.sweep import run_study
from tests.helpers.fakes import lines, tables
from tests.helpers.processes import alive, wait_until


def pids(log: Path) -> set[int]:
    return {int(line.split()[-1]) for line in lines(log, "prune")}


@pytest.mark.slow
def test_workers_share_the_jobs_and_the_order_stays(home, calls, staff, job_args):
    staff(seconds=1.5, slow="LR")
    jobs = [Job(**job_args | {"recipe": f"wanda-50% {method}"}) for method in ("LR", "BR", "BR+GP", "BR+CR")]
    study = run_study(jobs, workers=2)
    assert study.jobs == tuple(jobs) and list(study.blocks.recipe.unique()) == [job.recipe.label for job in jobs]
    assert len(lines(calls, "prune")) == 4 and len(pids(calls)) == 2 and os.getpid() not in pids(calls)
    assert len(lines(calls, "load")) == 2, "one model for each worker"
    assert not any(map(alive, pids(calls)))
    alone = run_study(jobs, workers=1)
    assert len(lines(calls, "prune")) == 4
    for name in schema.TABLES:
        pd.testing.assert_frame_equal(getattr(alone, name), getattr(study, name), check_exact=True)


@pytest.mark.long
@pytest.mark.slow
def test_jobs_that_time_a_model_come_first_and_alone(home, calls, staff, job_args, monkeypatch):
    staff()
    monkeypatch.setattr("analysis.pruning.structures.check_pattern_shrinks", lambda model, pattern: None)
    monkeypatch.setattr("analysis.measure.size.size_table", lambda models, windows: tables()["size"])
    jobs = [Job(**job_args | {"recipe": f"wanda-50% {method}"}) for method in ("LR", "BR")]
    timed = [Job(**job_args | {"recipe": f"flap-neurons-{share}% LR", "shrink": True}) for share in (30, 50)]
    study = run_study([jobs[0], timed[0], jobs[1], timed[1]], workers=2)
    first, last = lines(calls, "prune")[:2], lines(calls, "prune")[2:]
    assert [line.split()[1] for line in first] == ["flap-neurons-30%", "flap-neurons-50%"] and {
        int(line.split()[-1]) for line in first
    } == {os.getpid()}
    assert len(last) == 2 and os.getpid() not in {int(line.split()[-1]) for line in last}
    assert study.jobs == (jobs[0], timed[0], jobs[1], timed[1]) and list(study.size["pattern"].unique()) == [
        "50%",
        "neurons-30%",
        "neurons-50%",
    ]


@pytest.mark.slow
def test_no_process_where_none_is_needed(home, calls, job_args, monkeypatch):
    monkeypatch.setattr("analysis.study.pool.hire", lambda *options: pytest.fail("a worker was started"))
    jobs = [Job(**job_args | {"seed": seed}) for seed in range(3)]
    run_study(jobs[:1], workers=4)
    run_study(jobs[:2], workers=4)
    run_study(jobs, workers=1)
    run_study(jobs, workers=4)
    assert pids(calls) == {os.getpid()} and len(lines(calls, "prune")) == 3


@pytest.mark.slow
def test_workers_are_as_many_as_fit_unless_told(home, calls, staff, job_args, monkeypatch):
    staff()
    monkeypatch.setattr("analysis.study.pool.cores", lambda: 2)
    jobs = [Job(**job_args | {"device": "cpu", "seed": seed}) for seed in range(2)]
    run_study(jobs)
    assert len(lines(calls, "prune")) == 2 and os.getpid() not in pids(calls)
    run_study([Job(**job_args | {"device": "cuda", "seed": seed}) for seed in range(2)])
    assert os.getpid() in pids(calls) and len(lines(calls, "prune")) == 4
    for wrong in (0, -1, True, 1.5, "2"):
        with pytest.raises(UsageError, match="workers must be a whole number of at least 1"):
            run_study(jobs, workers=wrong)


@pytest.mark.slow
def test_a_job_failing_in_a_worker_is_named_and_the_others_are_kept(home, calls, staff, job_args):
    staff(fail="BR+GP", seconds=1.0, slow="BR")
    jobs = [Job(**job_args | {"recipe": f"wanda-50% {method}"}) for method in ("BR+GP", "BR")]
    with pytest.raises(NumericalError) as caught:
        run_study(jobs, workers=2)
    assert str(caught.value) == f"job {jobs[0]}: block 0 mlp.down_proj: not finite"
    assert sorted(info.state for info in list_runs()) == ["complete", "incomplete"]
    staff()
    run_study(jobs, workers=2)
    assert sorted(" ".join(line.split()[2:4]) for line in lines(calls, "prune")) == [
        "BR fresh",
        "BR+GP fresh",
        "BR+GP resumed",
    ]


@pytest.mark.slow
def test_a_worker_that_dies_names_its_job(home, calls, staff, job_args):
    staff(die="BR")
    jobs = [Job(**job_args | {"recipe": f"wanda-50% {method}"}) for method in ("LR", "BR")]
    with pytest.raises(
        AnalysisError, match=r"^job wanda-50% BR on .*: its worker process was ended by SIGKILL.*fewer workers"
    ):
        run_study(jobs, workers=2)
    assert sorted(info.state for info in list_runs()) == ["complete", "incomplete"]
    staff()
    run_study(jobs, workers=2)
    run_study(jobs)
    assert len(lines(calls, "prune")) == 4, "once more by another worker, and then the repeat"


@pytest.mark.slow
def test_an_interrupt_ends_the_workers_of_a_script_without_a_guard(home, calls, staff, job_args, tmp_path):
    """The script is not run again by its workers, and a second call goes on from its checkpoints."""
    jobs = [Job(**job_args | {"seed": seed}) for seed in range(3)]
    (tmp_path / "script.py").write_text(f"""
from analysis.study import pool
from analysis.study.job import Job
from analysis.study.sweep import run_study
print("once")
fake = "from pathlib import Path; from tests.helpers import fakes; fakes.install(Path({str(calls)!r}), seconds=60); "
pool.WORKER = fake + pool.WORKER
run_study([Job(**job) for job in {[job.to_dict() for job in jobs]!r}], workers=2)
""")
    env = {**os.environ, "ANALYSIS_HOME": str(home), "PYTHONPATH": str(paths.ROOT)}
    heard = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # tests run in the background of a shell inherit a deaf ear
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heard,
    )
    wait_until(lambda: len(lines(calls, "prune")) == 2 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=20)
    assert out == "once\n" and error.splitlines()[-1] == "KeyboardInterrupt", error
    assert "study interrupted: 0 of 3 runs are stored" in error
    wait_until(lambda: not any(map(alive, pids(calls))))
    staff()
    run_study(jobs, workers=2)
    assert sorted(line.split()[3] for line in lines(calls, "prune")) == ["fresh"] * 3 + ["resumed"] * 2


@pytest.mark.long
@pytest.mark.slow
def test_one_bar_counts_the_jobs(home, calls, staff, job_args, monkeypatch):
    drawn = []

    def bar(done, **options):
        drawn.append((options["desc"], options["total"]))
        for item in done:
            drawn.append("a step")
            yield item

    monkeypatch.setattr("analysis.study.sweep.bar", bar)
    staff()
    jobs = [Job(**job_args | {"seed": seed}) for seed in range(4)]
    run_study(jobs[:1], progress=False)
    assert drawn == []
    run_study(jobs, workers=2)
    assert drawn == [("study: 3 of 4 runs to do", 3)] + 3 * ["a step"]
    run_study(jobs, workers=2)
    assert len(drawn) == 4
