"""What is selected on is not what is reported: the windows that `select=held-out` and `penalty=held-out` choose on."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from analysis.errors import UsageError
from analysis.pruning.checks import check_windows, misfits, validation_problem
from analysis.recipe.recipe import Recipe
from analysis.schema import VALIDATION
from analysis.windows import Windows, disjoint, repeated, with_partners

SHARE = 4  # of so many calibration windows one is set aside


def with_validation(
    model: nn.Module, recipe: Recipe, calibration: Windows, validation: Windows | None, held_out: dict[str, Windows]
) -> tuple[Windows, list[Windows], dict[str, Windows]]:
    """Calibration windows, validation windows (none where the recipe selects on nothing) and held-out windows, no text
    in two of them.

    validation: windows given for it; None: the last quarter of the calibration text's own windows is set aside, of
    which those that share text with what is left are dropped (sentence pairs go whole). Raises UsageError where there
    is nothing to set aside or nothing to select, OverlapError where text is shared.
    """
    if validation is not None:
        if problem := validation_problem(recipe):
            raise UsageError(f"validation: {problem}")
        validation = check_windows(model, recipe, calibration, {VALIDATION: validation}, label_taken=False)[VALIDATION]
        return calibration, [validation], disjoint(validation, held_out, side=VALIDATION)
    if not recipe.selects:
        return calibration, [], held_out
    if problems := misfits(recipe, windows=calibration.own):
        raise UsageError(f"recipe {recipe}: " + "; ".join(problems))
    return *set_aside(calibration), held_out


def set_aside(calibration: Windows) -> tuple[Windows, list[Windows]]:
    """Calibration windows, and the last quarter of its own ones, at least one, set aside; of sentence pairs whole ones.

    Raises UsageError where nothing is left on one of the two sides.
    """
    own = calibration.own
    aside = torch.zeros(len(calibration), dtype=torch.bool)
    aside[with_partners(np.arange(own - max(1, own // SHARE), own), calibration)] = True
    if bool(aside.all()):
        raise UsageError(
            f"validation: all {own} windows of {calibration.label!r} would be set aside; give more windows, or a"
            " validation text of its own"
        )
    rest, validation = (calibration.take(rows.nonzero().flatten()) for rows in (~aside, aside))
    shared = with_partners(repeated(rest, validation)[0], validation)
    if len(shared) == len(validation):
        raise UsageError(
            f"validation: every one of the {len(validation)} windows set aside from {calibration.label!r} repeats what"
            " is left of it; give more windows, or a validation text of its own"
        )
    kept = torch.ones(len(validation), dtype=torch.bool)
    kept[torch.from_numpy(shared)] = False
    validation = validation.take(kept.nonzero().flatten())
    provenance = {**validation.provenance, "set aside from": "calibration"}
    return rest, [replace(validation, provenance=provenance)]
