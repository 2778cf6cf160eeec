"""Criterion and pattern in, mask out: the one call the pruning loop makes for each matrix."""

import torch
from torch import Tensor

from analysis.errors import NumericalError, UsageError
from analysis.masks.criteria import magnitude_scores, random_scores, wanda_scores
from analysis.masks.patterns import check_mask, choose
from analysis.masks.sparsegpt import Note, sparsegpt
from analysis.masks.statistics import Statistics
from analysis.recipe import Criterion, Pattern

WANTED = {"random": None, "magnitude": None, "wanda": "diagonal", "sparsegpt": "gram"}


def wanted_statistics(criterion: Criterion) -> str | None:
    """What `collect` must gather for this criterion: "gram", "diagonal", or None for nothing at all."""
    return WANTED[criterion.name]


def choose_mask(
    criterion: Criterion,
    pattern: Pattern,
    weight: Tensor,
    statistics: Statistics | None,
    generator: torch.Generator,
    *,
    name: str = "matrix",
) -> tuple[Tensor, Tensor | None, list[Note]]:
    """Which weights of one matrix stay, and what SparseGPT makes of them.

    weight      (out, in), any float dtype; never modified
    statistics  of the matrix's input; None is enough for "random" and "magnitude"
    generator   source of random scores; untouched by the other criteria
    name        of the matrix, for errors

    Returns the mask (out, in) bool, True = kept; the updated weight in `weight`'s dtype with zeros where the mask is False, or
    None where kept weights stay as they are; and the rules that had to be used. Counts are exact and checked.
    Raises NumericalError for non-finite weights and failed factorisations, UsageError for a pattern that does not fit.
    """
    pattern = pattern.resolve(criterion.name)
    wanted = wanted_statistics(criterion)
    if wanted is not None and statistics is None:
        raise UsageError(f"{criterion.name} needs the statistics of {name}'s input; collect them with want={wanted!r}")
    if not bool(weight.isfinite().all()):
        raise NumericalError(f"choose_mask: {name} holds weights that are not finite; the model is broken or its dtype too narrow")
    updated, notes = None, []
    if criterion.name == "sparsegpt":
        swept = sparsegpt(weight, statistics, pattern, damping=criterion.damping, columns=criterion.columns, name=name)
        mask, updated, notes = swept.mask, swept.weight if criterion.update else None, list(swept.notes)
    else:
        mask = choose(_scores(criterion, weight, statistics, generator), pattern, name=name)
    check_mask(mask, pattern, name=name, columns=criterion.columns)
    return mask, updated, notes


def _scores(criterion: Criterion, weight: Tensor, statistics: Statistics | None, generator: torch.Generator) -> Tensor:
    if criterion.name == "random":
        return random_scores(tuple(weight.shape), generator).to(weight.device)
    if criterion.name == "magnitude":
        return magnitude_scores(weight)
    return wanda_scores(weight, statistics.diagonal, statistics.tokens)
