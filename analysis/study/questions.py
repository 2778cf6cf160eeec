"""The runs of the notebooks that ask more than one grid of them, by what they are for. No torch.

Each function takes recipes (made by `study.grids.recipes`) and the arguments of `study.sweep.grid`, and returns jobs
for `run_study`; `Study.part` takes the runs of one part out of the study again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.errors import UsageError
from analysis.recipe.recipe import Recipe
from analysis.study.grids import grids, paired, timed
from analysis.study.job import Job, grid


@dataclass(frozen=True)
class GeneratedText:
    """Runs about self-generated calibration text (notebook 03)."""

    added: list[Job]  # each text added to the calibration text, in several amounts
    settings: list[Job]  # texts generated with other settings, added likewise
    longer: list[Job]  # nothing added, more epochs instead
    alone: list[Job]  # each source as the calibration text

    @property
    def every(self) -> list[Job]:
        return [*self.added, *self.settings, *self.longer, *self.alone]


def generated_text(
    recipes: Sequence[Recipe],
    longer: Sequence[Recipe],
    *,
    calibration: str,
    samples: int,
    added: Sequence[str],
    added_samples: Sequence[int],
    asked_samples: Sequence[int],
    settings: Sequence[str],
    settings_samples: int,
    sources: Sequence[str],
    sources_samples: int,
    tasks: Sequence[str],
    documents: int,
    **common: Any,
) -> GeneratedText:
    """Runs of `recipes` with text added to `samples` windows of `calibration`, and with other calibration texts.

    added: sources, each in `added_samples` and `asked_samples` windows; settings: sources in `settings_samples`
    windows; sources: calibration texts of `sources_samples` windows. longer: the recipes, with more epochs, of the runs
    with nothing added. tasks, documents: asked of those runs and at `asked_samples`, because asking takes longer than
    pruning a small model. common: what else `grid` takes. Raises UsageError as `grid` does, and where a list of sources
    is empty.
    """
    plain = {"recipes": recipes, "calibration": calibration, "samples": samples, **common}
    with_tasks = plain | {"tasks": tasks, "documents": documents}
    return GeneratedText(
        added=[
            *grids("added", added, added_samples=asked_samples, **with_tasks),
            *grids("added", added, added_samples=added_samples, **plain),
        ],
        settings=grids("added", settings, added_samples=settings_samples, **plain),
        longer=grid(**with_tasks | {"recipes": longer}),
        alone=grids("calibration", sources, recipes=recipes, samples=sources_samples, **common),
    )


@dataclass(frozen=True)
class StructuredEncoder:
    """Runs about the repair of encoders without heads or neurons (notebook 09)."""

    repairs: list[Job]  # every task
    parts: list[Job]  # every task, repairs taken apart
    criteria: list[Job]  # the first tasks
    examples: list[Job]  # every task, with other numbers of calibration examples

    @property
    def every(self) -> list[Job]:
        return [*self.repairs, *self.parts, *self.criteria, *self.examples]


def structured_encoder(
    models: Sequence[str],
    calibration: Sequence[str],
    held_out: Sequence[str],
    *,
    repairs: Sequence[Recipe],
    parts: Sequence[Recipe],
    criteria: Sequence[Recipe],
    criteria_tasks: int,
    examples: Sequence[Recipe],
    examples_samples: Sequence[int],
    **common: Any,
) -> StructuredEncoder:
    """Four lists of recipes on tasks, each a model with its calibration and held-out text (as in `paired`).

    criteria: recipes for the first `criteria_tasks` tasks only. examples: recipes run with each of `examples_samples`
    calibration examples. Runs of the criterion and the method of the first of
    `repairs` measure size and speed. common: what else `grid` takes. Raises UsageError as `paired` does, and where
    `repairs` is empty.
    """
    if not repairs:
        raise UsageError("runs on encoders: no repairs given; give at least one recipe")
    criterion, method = repairs[0].criterion.name, repairs[0].method

    def jobs(recipes: Sequence[Recipe], tasks: int | None = None, **more: Any) -> list[Job]:
        texts = models[:tasks], calibration[:tasks], held_out[:tasks]
        return paired(*texts, recipes=recipes, **common | more)

    same, others = ([n for n in examples_samples if (n == common["samples"]) is alike] for alike in (True, False))
    return StructuredEncoder(
        repairs=timed(jobs(repairs), criterion, method),
        parts=timed(jobs(parts), criterion, method),
        criteria=timed(jobs(criteria, criteria_tasks), criterion, method),
        examples=[
            *(timed(jobs(examples), criterion, method) if same else []),
            *(jobs(examples, samples=others) if others else []),
        ],
    )


def structured_decoder(
    recipes: Sequence[Recipe], questioned: Sequence[Recipe], *, tasks: Sequence[str], documents: int, **common: Any
) -> list[Job]:
    """Runs of those of `recipes` that are not among `questioned`, then of these, which answer `documents` questions of
    each task (notebook 10). common: what else `grid` takes.
    """
    silent = [recipe for recipe in recipes if recipe not in questioned]
    asked = grid(recipes=questioned, tasks=tasks, documents=documents, **common)
    return [*grid(recipes=silent, **common), *asked]
