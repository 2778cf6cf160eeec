"""Real runs by every executor, with a word from outside: a process killed in the middle, a run that fails, a driver
that sees all of it; and what is kept equals the serial study to the last bit.
"""

import importlib
import sys

import pandas as pd
import pytest

from analysis import schema
from analysis.errors import NumericalError
from analysis.recipe.words import CRITERION_WORDS
from analysis.study.executor import Local, chosen
from analysis.study.grids import grid
from analysis.study.run import work
from analysis.study.store import list_runs
from analysis.study.sweep import run_study
from tests.helpers import fakes

RAY = pytest.param(
    "ray",
    marks=pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
)  # Ray's own


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


@pytest.fixture
def bars(monkeypatch):
    """What bars have shown: their total when they begin, then a word for every step."""
    shown = []

    def bar(steps, *, total, **_):
        shown.append(total)
        for step in steps:
            shown.append("step")
            yield step

    monkeypatch.setattr("analysis.study.sweep.bar", bar)
    return shown


class Nobody:
    """An executor that must not be asked."""

    @property
    def alone(self):
        return self

    def map(self, function, items):
        pytest.fail("computed again")


def executor(named):
    """The executor of that name, two at a time; skips where its package is missing."""
    for package in {"slurm[where=local]": ["submitit"], "ray": ["ray"]}.get(named, []):
        pytest.importorskip(package, reason=f"{package} is not installed")
    return chosen(named) or Local(2)


@pytest.mark.slow
@pytest.mark.parametrize("named", ["local", "slurm[where=local]", RAY])
def test_a_process_killed_in_the_middle_loses_nothing(named, home, outside, bars, monkeypatch, tmp_path, caplog):
    """It is killed whenever it has kept the first visit, so the second try ends only by going on after that one."""
    monkeypatch.setattr("analysis.study.remote.POLL", 0.1)
    monkeypatch.setattr("analysis.study.ray_cluster.cores", lambda: 2)
    monkeypatch.setattr("analysis.study.sweep.work", fakes.troubled)
    monkeypatch.setattr("analysis.study.sweep.work_elsewhere", fakes.troubled)
    texts = dict(calibration="lab:stories", held_out={"stories": "lab:stories"}, samples=2, length=32)
    recipes = ["magnitude-50% LR", "random-50% LR", f"{outside}-50% LR"]
    killed, failing, other = jobs = grid(model="lab/tiny", recipes=recipes, device="cpu", **texts)

    with pytest.raises(NumericalError, match="^job random-50% LR on lab/tiny.*: block 0: not finite") as caught:
        run_study(jobs, executor=executor(named))
    assert "in troubled" in caught.value.__notes__[0], "the worker's traceback"
    assert "item 1 of 3 is tried once more: " in caplog.text and "item 3" not in caplog.text
    assert bars == [3, "step", "step"]
    assert sorted(info.state for info in list_runs()) == ["complete", "complete"]

    apart = run_study([killed, other], executor=Nobody())
    monkeypatch.setattr("analysis.study.sweep.work", work)
    monkeypatch.setenv("ANALYSIS_HOME", str(tmp_path / "here"))
    serial = run_study([killed, other], workers=1, progress=False)
    assert not serial.cost.equals(apart.cost), "done again"
    for name in schema.TABLES.keys() - {"cost"}:
        pd.testing.assert_frame_equal(getattr(apart, name), getattr(serial, name), check_exact=True)
