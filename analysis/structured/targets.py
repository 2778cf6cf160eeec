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

from analysis import distributed
from analysis.models.anatomy import Block, Matrix
from analysis.models.block_arguments import Call
from analysis.models.replay import run
from analysis.models.sub_blocks import half_output, matrix_inputs, module_inputs
from analysis.recipe.recipe import Recipe
from analysis.streams.moments import Accumulator, Sums, one_stream
from analysis.streams.streams import Streams, call_of, input_statistics, row_batches
from analysis.structured.pairs import Pair, column_mask, remove, structure_of_column
from analysis.structured.repair import Repaired, repair

REPAIR_UPDATES = {"compensate": "bias", "scale": "scale", "liar": "liar"}
SEARCHED = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # penalties that penalty=held-out tries


def reads_two_streams(recipe: Recipe) -> bool:
    """Whether a repair runs the halves of a block apart."""
    return recipe.repair.name != "none" and (recipe.student, recipe.target) == ("sparse", "dense")


def consumer_sums(dense: Block, pruned: Block, name: str, streams: Streams, recipe: Recipe) -> Sums:
    """Sums of one consumer (by its name within the block) on the streams at the block's input, float64.

    pruned: the block with its earlier half repaired; where student and target are both sparse, the producers of this
    half must still be whole.
    """
    consumer, dense_consumer = (
        next(matrix for matrix in block.matrices if matrix.name == name) for block in (pruned, dense)
    )
    if reads_two_streams(recipe):
        return two_streams(dense, pruned, consumer, streams)
    block, matrix = (pruned, consumer) if recipe.student == "sparse" else (dense, dense_consumer)
    statistics = input_statistics(block, [matrix], streams, streams.of(recipe.student), "gram", torch.float64)
    return one_stream(dense_consumer.weight(), _bias(dense_consumer), statistics[name])


def _bias(matrix: Matrix) -> Tensor | None:
    return dict(matrix.module.named_parameters(recurse=False)).get("bias")


def remove_and_repair(
    dense: Block,
    pruned: Block,
    pair: Pair,
    mask: Tensor,
    calibration: Streams,
    validation: Sequence[Streams],
    recipe: Recipe,
) -> tuple[Repaired | None, int]:
    """Take the structures that `mask` (count,) removes out of one half of the pruned block, its consumer repaired as
    the recipe says.

    pair  of the pruned model. validation: looked at only where its error chooses the penalty.
    Gives the repair, None where the recipe has none, and the bytes of the sums it held. Raises as `repair`.
    """
    repaired, held_bytes = None, 0
    if recipe.repair.name != "none":
        name, penalty = pair.consumer.name, recipe.repair.penalty
        sums = consumer_sums(dense, pruned, name, calibration, recipe)
        held_out_sums = (
            reduce(add, (consumer_sums(dense, pruned, name, streams, recipe) for streams in validation))
            if isinstance(penalty, str)
            else None
        )
        held_bytes = sums.nbytes + (held_out_sums.nbytes if held_out_sums else 0)
        matrix = next(matrix for matrix in dense.matrices if matrix.name == name)
        repaired = repair(
            REPAIR_UPDATES[recipe.repair.name],
            matrix.weight(),
            _bias(matrix),
            column_mask(pair, mask),
            sums,
            owner=structure_of_column(pair),
            penalty=SEARCHED if isinstance(penalty, str) else penalty,
            held_out=held_out_sums,
            create_bias=recipe.repair.bias,
            name=pair.name,
        )
        repaired.install(pair.consumer)
    remove([pair], {pair.name: mask})
    return repaired, held_bytes


@torch.inference_mode()
def two_streams(dense: Block, pruned: Block, matrix: Matrix, streams: Streams) -> Sums:
    """Sums of one consumer whose inputs are the pruned block's on the sparse stream, and whose y is the dense block's
    on the dense stream.

    matrix  the consumer, of either block. The pruned block's earlier half is repaired already; whether its own rows are
            still there does not matter

    Where the block adds the consumer's output to the residual as it is, or before its norm, the difference of the two
    residual streams (dense - sparse) is added to y, so that the repair makes up for the error inherited there too, as
    Kwon et al. do: the block's total error is then what is minimised. Elsewhere (a norm between consumer and residual)
    y is the consumer's output alone.
    """
    device = matrix.weight().device
    sums = Accumulator(Sums.PARTS, matrix.columns, matrix.rows, precision=torch.float64, device=device)
    adds = None
    for rows in distributed.own(row_batches(streams.recording, len(streams.mask), device)):
        real, dense_hidden, sparse_hidden = (
            tensor[rows][:, : streams.recording.longest(rows)].to(device)
            for tensor in (streams.counts, streams.dense, streams.sparse)
        )
        call = call_of(streams.recording, dense.index, dense_hidden, rows)
        student, sparse_residual = consumer_inputs(pruned, matrix, sparse_hidden, call)
        dense_inputs, dense_residual = consumer_inputs(dense, matrix, dense_hidden, call)
        target = dense.module.get_submodule(matrix.name)(dense_inputs)
        if adds is None:
            after = (
                run(dense.module, dense_hidden, call)
                if matrix.half == "mlp"
                else half_output(dense, "attention", dense_hidden, call)
            )
            adds = _adds_to(dense, matrix.half, dense_residual, target, after)
        if adds:
            target = target.double() + dense_residual.double() - sparse_residual.double()
        sums.add(student[real], target[real])
    distributed.reduce(sums, device)
    return Sums.of(sums, f"{dense.name}.{matrix.name}")


def consumer_inputs(block: Block, matrix: Matrix, hidden: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """Inputs (B, T, in) of a consumer when its block runs on `hidden` (B, T, H), and the residual stream (B, T, H) that
    its half adds to.
    """
    if matrix.half == "attention":
        return matrix_inputs(block, [matrix.name], hidden, call)[matrix.name], hidden
    if block.parallel:
        return matrix_inputs(block, [matrix.name], hidden, call)[matrix.name], half_output(
            block, "attention", hidden, call
        )
    entry = next(child.name for child in block.children if child.half == "mlp")
    inputs = module_inputs(block, [entry, matrix.name], hidden, call)
    return inputs[matrix.name], inputs[entry]


def _adds_to(block: Block, half: str, residual: Tensor, output: Tensor, after: Tensor) -> bool:
    """Whether a half's result `after` is residual + consumer's output, or one of the half's norms of that sum (norms
    within heads are of another width). All (B, T, H).
    """
    total = residual + output
    norms = (block.attention if half == "attention" else block.mlp).norms
    modules = [block.module.get_submodule(name) for name in norms]
    fitting = [
        module for module in modules if all(parameter.numel() == total.shape[-1] for parameter in module.parameters())
    ]
    candidates = [total, *(module(total) for module in fitting)]
    return any(float((candidate - after).norm()) <= 1e-3 * float(after.norm()) for candidate in candidates)
