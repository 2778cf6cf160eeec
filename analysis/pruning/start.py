"""Before the first visit: everything checked, both streams at the first block, the state of the run laid out."""

from functools import partial

import torch

from analysis import distributed
from analysis.errors import UsageError
from analysis.measure.cost import Meter
from analysis.measure.quality import DenseModel
from analysis.models.anatomy import Anatomy, anatomy_of_copy
from analysis.models.load import LoadedModel
from analysis.models.placement import copy_model, skeleton
from analysis.models.replay import verify
from analysis.models.sub_blocks import check_halves
from analysis.models.task_heads import prove_head
from analysis.pruning.checks import check_recipe, check_windows, witnesses
from analysis.pruning.choosers import CHOOSERS
from analysis.pruning.shares import choose_shares
from analysis.pruning.shelf import ShelvedMasks
from analysis.pruning.solvers import REPAIRS, SOLVERS
from analysis.pruning.state import State
from analysis.pruning.validation import with_validation
from analysis.recipe.parts import TRAINED
from analysis.recipe.recipe import Recipe
from analysis.reconstruction.schedule import Visit, held_out_epochs, visits
from analysis.schema import CALIBRATION, VALIDATION
from analysis.streams.streams import open_streams
from analysis.structured.pairs import structures_of_copy
from analysis.windows import Windows


def open_run(
    dense_model: DenseModel,
    recipe: Recipe,
    calibration: Windows,
    held_out: dict[str, Windows],
    *,
    validation: Windows | None = None,
    held_out_every: int | str = "auto",
    measure: bool,
    precision: torch.dtype,
) -> State:
    """The state before the first visit: the model taken apart, its replay proven, a copy made, both streams opened. The
    model is in evaluation mode.

    Raises what `prune` raises before any work.
    """
    model = dense_model.model
    held_out = check_windows(model, recipe, calibration, held_out)
    calibration, judged, held_out = with_validation(model, recipe, calibration, validation, held_out)
    if recipe.tokens != "all" and calibration.pictures is None:
        raise UsageError(f"recipe {recipe}: tokens={recipe.tokens}: the calibration text has no pictures; leave it out")
    dense = dense_model.parts
    if not isinstance(dense_model.source, LoadedModel):
        prove_head(model, type(model).__name__)
    plan = visits(len(dense.blocks), recipe.unit)
    check_recipe(dense, model, recipe)
    chooser, repair, solver = CHOOSERS[recipe.pattern.kind], REPAIRS[recipe.repair.name], SOLVERS[recipe.solver.name]
    meter = Meter(next(model.parameters()).device)
    structures = chooser.find(model, dense, recipe, meter)
    pruned_model = copy_model(model)
    apart = measure or any("dense" in part.reads(recipe) for part in (chooser, repair, solver))
    with meter.stage(-1, "record", tokens=sum(w.tokens for w in (calibration, *judged, *held_out.values()))):
        opened = partial(open_streams, model, dense, apart=apart, tokens=recipe.tokens)
        streams = opened(CALIBRATION, calibration)
        if (text := calibration.digest()) not in dense_model.proven:
            # one by one, each as short as it may be run
            verify(model, dense, streams.recording, rows=witnesses(calibration), batch=1)
            dense_model.proven.add(text)
        if any(part.halves(recipe) for part in (chooser, repair, solver)):
            check_halves(dense, streams.recording, witnesses(calibration))
        validating = [opened(VALIDATION, windows) for windows in judged]
        others = [opened(label, windows) for label, windows in held_out.items()]
    pruned = anatomy_of_copy(dense, pruned_model)
    state = State(
        recipe=recipe,
        dense_model=dense_model,
        dense=dense,
        model=pruned_model,
        pruned=pruned,
        structures=structures_of_copy(structures, pruned),
        calibration=streams,
        validation=validating[0] if validating else None,
        held_out=others,
        every=_every(held_out_every, recipe, dense, plan, calibration, held_out),
        shown=len(calibration) if recipe.added == "all" else calibration.own,
        outputs={
            split.label: dense_model.outputs_on(split.recording.windows, split.dense, len(dense.blocks))
            for split in (streams, *validating, *others)
        },
        meter=meter,
        precision=precision,
        measure=measure,
        masks={} if skeleton(model) is None else ShelvedMasks(),
    )
    state.rows["cost"] = meter.rows
    state.shares = distributed.from_main(choose_shares(state))
    repair.prepare(state)
    solver.prepare(state)
    return state


def _every(
    every: int | str,
    recipe: Recipe,
    dense: Anatomy,
    plan: list[Visit],
    calibration: Windows,
    held_out: dict[str, Windows],
) -> int | str:
    """How often gradient units look at held-out text; a recipe without them never does."""
    if recipe.solver.name not in TRAINED:
        return 1
    sizes = [sum(matrix.rows * matrix.columns for matrix in block.matrices) for block in dense.blocks]
    return held_out_epochs(
        every,
        recipe.solver.epochs,
        trained=calibration.tokens,
        held_out=sum(windows.tokens for windows in held_out.values()),
        operations=2.0 * sum(sizes[index] for visit in plan for index in visit.blocks),
    )
