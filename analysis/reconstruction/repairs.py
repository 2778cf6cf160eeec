"""One consumer of removed structures, repaired on the streams that a recipe names.

Student and target both sparse: the block's own dense output on what the pruned model hands it. Sparse and dense: the
dense model's output, the error that the residual stream inherited included. Both dense: the dense block's output on the
dense stream.
"""

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor

from analysis.models.anatomy import Block
from analysis.models.structures import Pair, column_mask, remove, structure_of_column
from analysis.recipe import Recipe
from analysis.reconstruction.streams import Streams, input_statistics
from analysis.reconstruction.structured import Repaired, repair
from analysis.reconstruction.sums import Sums, one_stream, two_streams

METHODS = {"compensate": "bias", "scale": "scale", "liar": "liar"}
SEARCHED = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # penalties that penalty=held-out tries


def reads_two_streams(recipe: Recipe) -> bool:
    """Whether a repair runs the halves of a block apart."""
    return recipe.repair.name != "none" and (recipe.student, recipe.target) == ("sparse", "dense")


def consumer_sums(dense: Block, pruned: Block, name: str, streams: Streams, recipe: Recipe) -> Sums:
    """Sums of one consumer (by its name within the block) on the streams at the block's input, float64.

    pruned: the block with its earlier half repaired; where student and target are both sparse, the producers of this
    half must still be whole.
    """
    ours, theirs = (next(matrix for matrix in block.matrices if matrix.name == name) for block in (pruned, dense))
    if reads_two_streams(recipe):
        return two_streams(dense, pruned, ours, streams)
    block, matrix = (pruned, ours) if recipe.student == "sparse" else (dense, theirs)
    statistics = input_statistics(block, [matrix], streams, streams.of(recipe.student), "gram", torch.float64)
    return one_stream(theirs.weight(), theirs.module.bias, statistics[name])


def remove_and_repair(
    dense: Block,
    pruned: Block,
    pair: Pair,
    mask: Tensor,
    calibration: Streams,
    held_out: Sequence[Streams],
    recipe: Recipe,
) -> tuple[Repaired | None, int]:
    """Take the structures that `mask` (count,) removes out of one half of the pruned block, its consumer repaired as
    the recipe says.

    pair  of the pruned model. held_out: looked at only where held-out error chooses the penalty.
    Gives the repair, None where the recipe has none, and the bytes of the sums it held. Raises as `repair`.
    """
    repaired, held = None, 0
    if recipe.repair.name != "none":
        name, searched = pair.consumer.name, recipe.repair.penalty == "held-out"
        sums = consumer_sums(dense, pruned, name, calibration, recipe)
        outside = (
            reduce(add, (consumer_sums(dense, pruned, name, streams, recipe) for streams in held_out))
            if searched
            else None
        )
        held = sums.nbytes + (outside.nbytes if outside else 0)
        matrix = next(matrix for matrix in dense.matrices if matrix.name == name)
        repaired = repair(
            METHODS[recipe.repair.name],
            matrix.weight(),
            matrix.module.bias,
            column_mask(pair, mask),
            sums,
            owner=structure_of_column(pair),
            penalty=SEARCHED if searched else recipe.repair.penalty,
            held_out=outside,
            create_bias=recipe.repair.bias,
            name=pair.name,
        )
        repaired.install(pair.consumer)
    remove([pair], {pair.name: mask})
    return repaired, held
