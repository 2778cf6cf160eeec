"""The runs of notebook 13, models that read pictures, by what they are for. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.errors import UsageError
from analysis.recipe.recipe import Recipe
from analysis.study.depth import patterns
from analysis.study.grids import recipes, retrained, structured
from analysis.study.job import Job, grid


@dataclass(frozen=True)
class Pictured:
    """Runs about models that read pictures, whose language part is made smaller."""

    recovered: list[Job]  # every share and recovery; some answer questions
    data: list[Job]  # some of them on fewer windows
    counted: list[Job]  # text or pictures alone in statistics and losses

    @property
    def every(self) -> list[Job]:
        return [*self.recovered, *self.data, *self.counted]


def pictured(
    chosen: Sequence[Recipe],
    *,
    asked: Sequence[str],
    tasks: Sequence[str],
    documents: int,
    share: str,
    fewer: Sequence[int],
    fewer_methods: Sequence[str],
    counted: Sequence[Recipe],
    **common: Any,
) -> Pictured:
    """Runs of `chosen`, those of the methods `asked` answering `documents` questions of each of `tasks`; those of them
    that take out `share` ("25%") and whose method is LR or one of `fewer_methods`, with each of `fewer` calibration
    windows; runs of `counted`. common: what else `grid` takes. Raises UsageError as `grid` does, and where no recipe
    leaves what stays as it is (LR), or none is of that share.
    """
    if not any(recipe.method == "LR" for recipe in chosen):
        raise UsageError(
            "runs of pictures: no recipe leaves what stays as it is (LR); every recovery is compared with it"
        )
    some = [recipe for recipe in chosen if str(recipe.pattern).partition("-")[2] == share]
    if not some:
        raise UsageError(f"runs of pictures: no pattern takes out {share}; give one of the shares that are run")
    again = [recipe for recipe in some if recipe.method in ("LR", *fewer_methods)]
    numbers = [number for number in fewer if number != common["samples"]]
    speaking, silent = ([r for r in chosen if (r.method in asked) is wanted] for wanted in (True, False))
    return Pictured(
        recovered=[
            *grid(recipes=speaking, tasks=tasks, documents=documents, **common),
            *grid(recipes=silent, **common),
        ],
        data=grid(recipes=again, **common | {"samples": numbers}),
        counted=grid(recipes=counted, **common),
    )


def cut(
    way: str,
    criterion: str,
    shares: Sequence[str],
    repairs: Sequence[str],
    retraining: Sequence[str],
    rates: Sequence[float],
    **solver: Any,
) -> list[Recipe]:
    """Recipes that take each of the shares out of the language part by "depth" (whole blocks) or by "width" (heads and
    neurons, of what all of them weigh together), with each of the repairs and each of `grids.RETRAINING` at its rate.

        cut("depth", "influence", ["12.5%", "25%"], ["LR", "replace+GP"], ["projector"], [1e-3], epochs=3)

    solver: as in `recipes`. Raises UsageError for another way and as `retrained` does, RecipeError as `recipes` does.
    """
    if way not in ("depth", "width"):
        raise UsageError(f"cut: way {way!r} is none; give depth or width")
    shapes = patterns(shares) if way == "depth" else structured(["structures"], shares, ["global"])
    return recipes([criterion], shapes, [*repairs, *retrained(retraining, rates)], **solver)


def counted(masks: Sequence[str], tokens: Sequence[str], methods: Sequence[str], **solver: Any) -> list[Recipe]:
    """Every mask and method with each of the tokens that may count in statistics and local losses.

        counted(["wanda-50%", "influence-blocks-25%"], ["all", "text"], ["LR", "BR+GP"], lr=2e-3)

    solver: as in `recipes`. Raises RecipeError for a word that is none, or where no token is looked at.
    """
    made = []
    for mask in masks:
        criterion, _, pattern = mask.partition("-")
        options = f"{pattern[:-1]}," if pattern.endswith("]") else f"{pattern}["
        patterns = [pattern if which == "all" else f"{options}tokens={which}]" for which in tokens]
        made += recipes([criterion], patterns, methods, **solver)
    return made
