"""Nothing of a run outlives it: a study's worker does hundreds of them in one process."""

import gc

import pytest
import torch

from analysis.pruning.loop import prune
from tests.helpers.recipes import MEASURED, RECIPES, STEPS, model
from tests.helpers.small import windows

TRAINED = [recipe for recipe in RECIPES if STEPS in recipe and ("masklora" in recipe or "distill" in recipe)]


def living() -> int:
    """How many tensors there are. By type: to ask an object for its class wakes some that are deprecated."""
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [MEASURED, *TRAINED])
def test_no_tensor_outlives_a_run(recipe):
    dense, calibration, held_out = model(), windows(4, seed=1), windows(2, seed=2, label="held-out")
    prune(dense, recipe, calibration, {"held-out": held_out})  # whatever is kept once, for all runs
    before = living()
    prune(dense, recipe, calibration, {"held-out": held_out})
    assert living() == before
