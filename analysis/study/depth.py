"""The runs of notebook 12, whole blocks taken out, by what they are for. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.errors import UsageError
from analysis.pruning.checks import shrink_problem
from analysis.recipe.recipe import Recipe
from analysis.study.grids import grids
from analysis.study.job import Job, grid


@dataclass(frozen=True)
class Depth:
    """Runs about decoders that lose whole blocks."""

    criteria: list[Job]  # every criterion with every repair; some answer tasks
    searched: list[Job]  # masks alone, chosen on other amounts of text
    written: list[Job]  # another model, which answers in writing as well

    @property
    def every(self) -> list[Job]:
        return [*self.criteria, *self.searched, *self.written]


def depth(
    recipes: Sequence[Recipe],
    *,
    asked: Sequence[str],
    tasks: Sequence[str],
    documents: int,
    searched_samples: Sequence[int],
    writer: str,
    writers: Sequence[Recipe],
    written: Sequence[str],
    **common: Any,
) -> Depth:
    """Runs of `recipes`, those of the methods `asked` answering `documents` questions of each of `tasks`; the masks
    alone (LR) of the same with each of `searched_samples` calibration windows; the recipes `writers` on the model
    `writer`, which answers `tasks` and `written`. common: what else `grid` takes. Raises UsageError as `grid` does, and
    where none of the recipes is LR's.
    """
    alone = [recipe for recipe in recipes if recipe.method == "LR"]
    if not alone:
        raise UsageError("runs of depth: the mask alone (LR) is not among the methods; everything is compared with it")
    chosen, others = ([r for r in recipes if (r.method in asked) is wanted] for wanted in (True, False))
    questions: dict[str, Any] = {"tasks": tasks, "documents": documents}
    searched = [samples for samples in searched_samples if samples != common["samples"]]
    same = {name: value for name, value in common.items() if name != "samples"}
    return Depth(
        criteria=[*grid(recipes=chosen, **questions, **common), *grid(recipes=others, **common)],
        searched=grids("samples", searched, recipes=alone, **same),
        written=grid(recipes=writers, tasks=[*tasks, *written], documents=documents, **common | {"model": writer}),
    )


def patterns(shares: Sequence[str]) -> list[str]:
    """Patterns that take these shares of the blocks out. Raises UsageError for a number of blocks."""
    if numbers := [share for share in shares if not share.endswith("%")]:
        raise UsageError(
            f"shares of blocks: {numbers[0]!r} is a number; the figures compare shares of the model, give a per cent"
            " such as 25%"
        )
    return [f"blocks-{share}" for share in shares]


@dataclass(frozen=True)
class Speeds:
    """Runs that compare what is cut out at the same speed."""

    timed: list[Job]  # one of every pattern that makes a model smaller, measuring it
    compared: list[Job]  # whole structures, and single weights


def speed_runs(blocks: Sequence[Recipe], narrower: Sequence[Recipe], single: Sequence[Recipe], **common: Any) -> Speeds:
    """Runs of recipes that take out blocks, cut out whole structures and prune single weights. Of every pattern that
    makes a model smaller the first recipe that can be shrunk is timed, with every seed; runs of `blocks` for their
    perplexity are those of `depth`. common: what else `grid` takes. Raises UsageError as `grid` does, and where nothing
    can be timed.
    """
    smaller = [recipe for recipe in (*blocks, *narrower) if shrink_problem(recipe) is None]
    first = {str(recipe.pattern): recipe for recipe in reversed(smaller)}
    if not first:
        raise UsageError("speeds: none of the recipes makes a model smaller; give patterns of blocks or structures")
    return Speeds(
        timed=grid(recipes=list(reversed(first.values())), shrink=True, **common),
        compared=grid(recipes=[*narrower, *single], **common),
    )
