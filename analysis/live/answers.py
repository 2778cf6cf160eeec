"""Tables that are no run's: each answers one question, is made by the worker and kept in the cache by what was asked.

    masks = answer(Masks(Ground("lab", "lab:stories", 8, 128), ("wanda-50% LR", "wanda+swaps-50% LR")))

A question is a frozen dataclass with `identity()`, JSON-ready, everything that decides its answer, and `table()`, which
loads torch and computes it.
"""

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from analysis import paths, storage
from analysis.live.worker import worker
from analysis.recipe.recipe import Recipe
from analysis.study.job import Job

if TYPE_CHECKING:
    from analysis.pruning.state import Pruned
    from analysis.study.run import Inputs

VERSION = 1  # of what answers hold


class Question(Protocol):
    """What can be asked."""

    def identity(self) -> Any:
        """Everything that decides the answer, JSON-ready. Raises AnalysisError for contents that are not there."""

    def table(self) -> pd.DataFrame:
        """The answer, computed."""


@dataclass(frozen=True)
class Ground:
    """What recipes are carried out on: a model and the windows that masks and reconstruction see."""

    model: str
    calibration: str
    samples: int
    length: int
    seed: int = 0

    def job(self, recipe: str) -> Job:
        """The run of one recipe on it. Raises RecipeError or UsageError."""
        texts: dict[str, Any] = {"calibration": self.calibration, "samples": self.samples, "length": self.length}
        return Job(model=self.model, recipe=Recipe.parse(recipe), seed=self.seed, **texts)

    def identity(self, recipes: tuple[str, ...]) -> list[Any]:
        """Everything that decides what these recipes make of it."""
        return [self.job(recipe).identity() for recipe in recipes or ("magnitude-0% LR",)]


def answer(question: Question) -> pd.DataFrame:
    """The answer to a question: kept, or made by the worker now. Raises what making it raises, `worker.Stopped` where
    it was stopped.
    """
    key = storage.identity_digest([VERSION, type(question).__name__, question.identity()])[:32]
    file = paths.cache() / "answers" / f"{key}.parquet"
    if (known := _read(file)) is None:
        worker().ask(keep, (question, file))
        known = _read(file)
    assert known is not None  # written whole or not at all
    return known


def _read(file: Path) -> pd.DataFrame | None:
    """A kept answer; None where there is none that can be read."""
    try:
        return pd.read_parquet(file)
    except (OSError, ValueError):
        return None


def keep(asked: tuple[Question, Path]) -> None:
    """Done by the worker: answer a question into a file."""
    question, file = asked
    buffer = io.BytesIO()
    question.table().to_parquet(buffer, index=False)
    with storage.explained(file):
        storage.write(file, buffer.getvalue())


def inputs(job: Job) -> "Inputs":
    """The dense model and the windows of a job, kept between questions. Raises AnalysisError."""
    from analysis.study.run import process_bench

    return process_bench().prepare(job)


def pruned(job: Job) -> "Pruned":
    """What a job's recipe makes of its model, nothing measured; kept as long as model and text are what they were.
    Raises AnalysisError as `prune`.
    """
    return _pruned(job, job.digest())


@lru_cache(8)
def _pruned(job: Job, digest: str) -> "Pruned":
    from analysis.pruning.loop import prune

    given = inputs(job)
    return prune(given.dense, job.recipe, given.calibration, measure=False)
