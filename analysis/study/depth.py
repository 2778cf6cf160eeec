"""The runs of notebook 12, whole blocks taken out, by what they are for. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.errors import UsageError
from analysis.recipe.recipe import Recipe
from analysis.study.grids import asked_once, grids
from analysis.study.job import Job, grid


@dataclass(frozen=True)
class Depth:
    """Runs about decoders that lose whole blocks."""

    criteria: list[Job]  # every criterion with every repair; some answer tasks with the first seed
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
    """Runs of `recipes`, those of the methods `asked` answering `documents` questions of each of `tasks` with the first
    seed; the masks alone (LR) of the same with each of `searched_samples` calibration windows; the recipes `writers` on
    the model `writer`, which answers `tasks` and `written` with every seed. common: what else `grid` takes. Raises
    UsageError as `grid` does, and where none of the recipes is LR's.
    """
    alone = [recipe for recipe in recipes if recipe.method == "LR"]
    if not alone:
        raise UsageError("runs of depth: the mask alone (LR) is not among the methods; everything is compared with it")
    chosen, others = ([r for r in recipes if (r.method in asked) is wanted] for wanted in (True, False))
    questioned = asked_once(grid(recipes=chosen, **common), tasks, documents) if chosen else []
    searched = [samples for samples in searched_samples if samples != common["samples"]]
    same = {name: value for name, value in common.items() if name != "samples"}
    return Depth(
        criteria=[*questioned, *(grid(recipes=others, **common) if others else [])],
        searched=grids("samples", searched, recipes=alone, **same) if searched else [],
        written=grid(recipes=writers, tasks=[*tasks, *written], documents=documents, **common | {"model": writer}),
    )
