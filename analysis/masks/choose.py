"""Criterion and pattern in, mask out: the one call the pruning loop makes for each matrix."""

from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.errors import NumericalError, UsageError, quoted
from analysis.masks.criteria import SCORES, SWEEPS
from analysis.masks.notes import Note
from analysis.masks.patterns import check_mask, choose
from analysis.masks.refine import Refined, refine
from analysis.recipe.parts import Criterion, Pattern, Refinement
from analysis.recipe.words import CRITERION_WORDS
from analysis.streams.moments import Statistics


@dataclass(frozen=True, eq=False)
class Chosen:
    """Which weights of one matrix stay, and what became of them.

    mask     (out, in) bool, True = kept; counts exact and checked. With zeros=stay what was zero is never kept, and
             where more was zero than the pattern removes, more is gone
    weight   (out, in) SparseGPT's updated weight in the dtype given, zero where the mask is False; None: kept weights
             stay as they are
    notes    the rules that had to be used, the refinement's included
    refined  what the refinement gained; None without one
    """

    mask: Tensor
    weight: Tensor | None
    notes: tuple[Note, ...]
    refined: Refined | None


def wanted_statistics(criterion: Criterion, refinement: Refinement | None = None) -> str | None:
    """What `collect` must gather: "gram" for every refinement, else what the criterion needs, None for nothing at
    all.
    """
    return "gram" if _refines(refinement) else CRITERION_WORDS[criterion.name].evidence


def choose_mask(
    criterion: Criterion,
    pattern: Pattern,
    weight: Tensor,
    statistics: Statistics | None,
    generator: torch.Generator,
    *,
    name: str = "matrix",
    refinement: Refinement | None = None,
) -> Chosen:
    """Which weights of one matrix stay, and what SparseGPT makes of them.

    weight      (out, in), any float dtype; never modified
    statistics  of the matrix's input; None is enough where `wanted_statistics` wants nothing
    generator   source of random scores; untouched by the other criteria
    name        of the matrix, for errors
    refinement  improves the chosen mask on the weight as given, before any update; SparseGPT's update is then made for
                the refined mask, and its scores, where Frank-Wolfe needs some, are Wanda's

    Raises NumericalError for non-finite weights and failed factorisations, UsageError for a pattern that does not fit
    or missing statistics.
    """
    pattern = pattern.resolve(criterion.name)
    wanted = wanted_statistics(criterion, refinement)
    if wanted is not None and statistics is None:
        user = criterion if CRITERION_WORDS[criterion.name].evidence is not None or refinement is None else refinement
        raise UsageError(f"{user.name} needs the statistics of {name}'s input; collect them with want={wanted!r}")
    if not (bool(weight.sum().isfinite()) or bool(weight.isfinite().all())):  # a sum is quick, but may overflow
        raise NumericalError(
            f"choose_mask: {name} holds weights that are not finite; the model is broken or its dtype too narrow"
        )
    options, columns = criterion.options(), criterion.columns
    gone = weight == 0 if pattern.zeros == "stay" else None
    sweep, update, scores = SWEEPS.get(criterion.name), options.pop("update", True), None
    updated: Tensor | None = None
    notes: tuple[Note, ...] = ()
    refined = None
    if sweep is not None:
        swept = sweep(weight, statistics, pattern, **options, name=name, gone=gone)
        mask, updated, notes = swept.mask, swept.weight if update else None, swept.notes
    else:
        scores = checked_scores(criterion, weight, statistics, generator, name)
        mask = choose(scores if gone is None else scores.masked_fill(gone, -torch.inf), pattern, name=name)
    if sweep is None or gone is None:
        check_mask(mask, pattern, name=name, columns=columns)
    if gone is not None:
        mask = mask & ~gone
    if refinement is not None and _refines(refinement) and statistics is not None:
        if scores is None:
            scores = checked_scores(criterion, weight, statistics, generator, name)
        refined = refine(refinement, weight, statistics, mask, pattern, scores, name=name, columns=columns)
        mask, notes = refined.mask, notes + refined.notes
        check_mask(mask, pattern, name=name, columns=columns)
        if sweep is not None and updated is not None:
            updated = sweep(weight, statistics, pattern, **options, name=name, mask=mask).weight
    return Chosen(mask, updated, notes, refined)


def checked_scores(
    criterion: Criterion, weight: Tensor, statistics: Statistics | None, generator: torch.Generator, name: str
) -> Tensor:
    """The scores (out, in) of a criterion's function. Raises NumericalError naming the matrix for scores that are no
    numbers, UsageError for those of another shape.
    """
    options = {key: value for key, value in criterion.options().items() if key != "update"}
    try:
        scores = SCORES[criterion.name](weight, statistics, generator, **options)
    except NumericalError as error:
        raise NumericalError(f"criterion {criterion.name} of {name}: {error}") from None
    if not isinstance(scores, Tensor) or scores.shape != weight.shape or scores.is_complex():
        found = f"a tensor {tuple(scores.shape)} {scores.dtype}" if isinstance(scores, Tensor) else quoted(scores)
        raise UsageError(
            f"criterion {criterion.name} of {name}: the scores must be numbers of shape {tuple(weight.shape)}, got"
            f" {found}"
        )
    if not bool(scores.sum().isfinite()) and bool(scores.isnan().any()):
        raise NumericalError(f"criterion {criterion.name} of {name}: {int(scores.isnan().sum())} scores are no numbers")
    return scores if scores.is_floating_point() else scores.double()


def _refines(refinement: Refinement | None) -> bool:
    return refinement is not None and refinement.name != "none"
