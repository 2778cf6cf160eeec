"""Masks of single weights, chosen for the blocks of a unit that have none yet."""

from analysis.masks.choose import choose_mask, wanted_statistics
from analysis.measure.cost import Meter
from analysis.models.anatomy import Block, Matrix
from analysis.pruning.state import Walk, generator
from analysis.reconstruction.schedule import Visit
from analysis.streams.collect import Statistics
from analysis.streams.streams import advance, input_statistics


def _choose_masks(walk: Walk, meter: Meter, visit: Visit) -> None:
    """Choose the masks of the unit's blocks that have none yet, and put their pruned weights in place.

    All matrices of a block take their statistics from one forward of the block with its weights still unpruned, on the
    statistics stream run through the unit's earlier blocks as they stand, without the windows added to the calibration
    text unless the recipe says otherwise (Shin et al. 2024, released code).
    """
    wanted = wanted_statistics(walk.recipe.criterion, walk.recipe.refinement)
    side = walk.dense if walk.recipe.statistics == "dense" else walk.pruned
    streams, hidden, passed = walk.calibration, walk.calibration.of(walk.recipe.statistics)[: walk.shown], None
    tokens = int(streams.mask[: walk.shown].sum())
    unmasked = walk.unmasked(visit)
    for index in visit.blocks:
        block = side.blocks[index]
        if index in unmasked:
            statistics = {}
            if wanted is not None:
                with meter.stage(visit.index, "statistics", tokens=tokens):
                    statistics = input_statistics(block, block.matrices, streams, hidden, wanted, walk.precision)
            with meter.stage(visit.index, "mask"):
                for matrix in walk.pruned.blocks[index].matrices:
                    _choose_mask(walk, walk.pruned.blocks[index], matrix, statistics.get(matrix.name))
        if wanted is not None and unmasked and index < unmasked[-1]:
            with meter.stage(visit.index, "statistics", tokens=tokens):
                hidden = passed = advance([block.module], index, streams.recording, hidden, out=passed)


def _choose_mask(walk: Walk, block: Block, matrix: Matrix, statistics: Statistics | None) -> None:
    name, recipe = f"{block.name}.{matrix.name}", walk.recipe
    source = generator(recipe.seed, "mask", name)
    chosen = choose_mask(
        recipe.criterion, recipe.pattern, matrix.weight(), statistics, source, name=name, refinement=recipe.refinement
    )
    if chosen.weight is not None:
        matrix.assign(chosen.weight)
    matrix.weight().mul_(chosen.mask).add_(0.0)  # quicker than masked_fill_; the sum makes +0 of -0
    where = walk.keep(block, matrix, chosen.mask)
    walk.note(where, chosen.notes)
    if (refined := chosen.refined) is not None:
        losses = {"error_before": refined.loss_before, "error_after": refined.loss_after, "steps": refined.steps}
        walk.rows["layers"].append({**where, "action": recipe.refinement.name, **losses})
