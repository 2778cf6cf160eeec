"""What is selected on is not what is reported: the windows that `select=held-out` and `penalty=held-out` choose on."""

from dataclasses import replace

import torch
from torch import nn

from analysis.errors import UsageError
from analysis.pruning.checks import check_windows, misfits, validation_problem
from analysis.recipe.recipe import Recipe
from analysis.schema import VALIDATION
from analysis.windows import Windows, disjoint, repeated

SHARE = 4  # of so many calibration windows one is set aside


def with_validation(
    model: nn.Module, recipe: Recipe, calibration: Windows, validation: Windows | None, held_out: dict[str, Windows]
) -> tuple[Windows, list[Windows], dict[str, Windows]]:
    """Calibration windows, validation windows (none where the recipe selects on nothing) and held-out windows, no text
    in two of them.

    validation: windows given for it; None: the last quarter of the calibration text's own windows is set aside, of
    which those that share text with what is left are dropped. Raises UsageError where there is nothing to set aside or
    nothing to select, OverlapError where text is shared.
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
    """Calibration windows, and the last quarter of its own ones, at least one, set aside."""
    own, rows = calibration.own, torch.arange(len(calibration))
    aside = (rows >= own - max(1, own // SHARE)) & (rows < own)
    rest, validation = calibration.take(rows[~aside]), calibration.take(rows[aside])
    shared, _ = repeated(rest, validation)
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
