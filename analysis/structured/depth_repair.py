"""What the projection before a cut becomes, in closed form, where blocks or halves of blocks are gone.

A group is one block that stays with the blocks around it that are gone (or whose own other half is gone). Its last
projection that stays computes z = W x + b, which the block adds to the residual stream r. What should come out of the
group is t, the output of the dense blocks of the group, on the dense stream or on the sparse one; so z should be y =
t - r, in mean square over calibration tokens. Four repairs change W and b alone, and the model stays an ordinary one:

    refit    W and b by ridge regression of y on x towards what they are: W' = W + D (the step of LIAR with every column
             kept, `repair.py`).
    replace  one linear map of z, M z, M by ridge regression towards the identity, W' = M W, b' = M b: the class of
             ReplaceMe (2505.02819), which shrinks M towards 0 or not at all. Whatever M, M W is a W' that refit can
             take too.
    patch    M diagonal, without a penalty (form=scale), or M the identity and b' = mean of y - W x (form=bias).

The fifth leaves no ordinary model:

    ghost    a linear map of the residual stream at the cut, by ridge regression from the state h before the removed run
             to t, towards the identity (Ghosted Layers, 2605.15491: I + (H'H + penalty)^-1 H'(T - H)). It acts on
             residual and branch alike, so it cannot be multiplied into a block with a norm in front, and stays a matrix
             of its own.

Where something stands between projection and residual stream (a norm behind the half, a multiplier), z is not what is
added, and there is no closed form: `check_added` refuses such models.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from analysis import distributed
from analysis.errors import UnsupportedModel
from analysis.masks.notes import Note
from analysis.models.anatomy import Anatomy, Block, Matrix
from analysis.models.block_arguments import Call
from analysis.models.replay import Recording, run
from analysis.models.sub_blocks import half_output
from analysis.models.widths import consumer_of
from analysis.recipe.parts import Repair
from analysis.streams.moments import Accumulator, Sums
from analysis.streams.streams import call_of, chunks, unit_output
from analysis.structured.repair import Repaired, repair
from analysis.structured.targets import SEARCHED, consumer_inputs

ADDED = 1e-3  # relative: how far a half's output may be from residual + projection


def last_projection(block: Block, kind: str) -> Matrix:
    """The last projection of a block that stays: its MLP's, or its attention's where MLP halves go. Raises
    UnsupportedModel for a mixture of experts.
    """
    matrix = consumer_of(block, "attention" if kind == "mlp" else "mlp")
    if any(other.expert is not None and other.half == matrix.half for other in block.matrices):
        raise UnsupportedModel(
            f"{block.name}: its MLP is a mixture of experts, no one projection, so what is gone cannot be folded into"
            " it; take LR or BR+GP without repair"
        )
    return matrix


@torch.inference_mode()
def cut_sums(
    block: Block, matrix: Matrix, group: Sequence[Block], recording: Recording, hidden: Tensor, source: Tensor
) -> Sums:
    """Sums, float64, of the inputs x of a projection and of what it should give, y = t - r.

    block   the block it is in, of the model that the student stream `hidden` (N, T, H) runs through, at its input
    group   consecutive dense blocks that give t, on `source` (N, T, H) at the input of their first
    """
    device = matrix.weight().device
    count, length = recording.mask.shape
    sums = Accumulator(Sums.PARTS, matrix.columns, matrix.rows, precision=torch.float64, device=device)
    for rows in distributed.own(chunks(count, length, device)):
        real, student = recording.counts[rows].to(device), hidden[rows].to(device)
        call = call_of(recording, block.index, student, rows)
        inputs, residual = consumer_inputs(block, matrix, student, call)
        modules = [one.module for one in group]
        target = unit_output(modules, group[0].index, recording, source[rows].to(device), rows)
        sums.add(inputs[real], target[real].double() - residual[real].double())
    distributed.reduce(sums, device)
    return Sums.of(sums, f"{block.name}.{matrix.name}")


@torch.inference_mode()
def ghost_sums(run: Sequence[Block], recording: Recording, hidden: Tensor, source: Tensor) -> Sums:
    """Sums, float64, of the state in front of removed blocks and of the one that the dense blocks give.

    run     the removed blocks, consecutive, of the dense model, on `source` (N, T, H) at the input of the first
    hidden  (N, T, H) the student stream there
    """
    device, width = next(run[0].module.parameters()).device, hidden.shape[2]
    sums = Accumulator(Sums.PARTS, width, precision=torch.float64, device=device)
    for rows in distributed.own(chunks(hidden.shape[0], hidden.shape[1], device)):
        real = recording.counts[rows].to(device)
        modules, states = [block.module for block in run], source[rows].to(device)
        target = unit_output(modules, run[0].index, recording, states, rows)
        sums.add(hidden[rows].to(device)[real], target[real])
    distributed.reduce(sums, device)
    return Sums.of(sums, f"{run[0].name}.ghost")


def repair_projection(
    how: Repair, weight: Tensor, bias: Tensor | None, sums: Sums, held_out: Sums | None, name: str
) -> Repaired:
    """A projection (weight (out, in), bias (out,) or None), or the identity for a ghost, after the repair that a recipe
    names.

    held_out: sums of validation text, on which penalty=held-out chooses. Raises NumericalError naming the projection
    for what is not finite or cannot be solved.
    """
    everything = torch.ones(weight.shape[1], dtype=torch.bool)
    penalty = SEARCHED if isinstance(how.penalty, str) else how.penalty
    if how.name in ("refit", "ghost"):
        moves = bias is not None
        return repair(
            "liar", weight, bias, everything, sums, penalty=penalty, held_out=held_out, create_bias=moves, name=name
        )
    if how.name == "patch" and how.form == "bias":
        return repair("bias", weight, bias, everything, sums, name=name)
    if how.name == "patch":
        return _folded(_scales(through(sums, weight, bias)), weight, bias, sums)
    outputs, judged = through(sums, weight, bias), None if held_out is None else through(held_out, weight, bias)
    unit = torch.eye(len(weight), dtype=torch.float64, device=weight.device)
    kept = torch.ones(len(weight), dtype=torch.bool)
    linear = repair("liar", unit, None, kept, outputs, penalty=penalty, held_out=judged, create_bias=False, name=name)
    return replace(
        _folded(linear.weight, weight, bias, sums, held_out),
        penalty=linear.penalty,
        condition=linear.condition,
        notes=linear.notes,
    )


def through(sums: Sums, weight: Tensor, bias: Tensor | None) -> Sums:
    """The sums of z = weight x + bias and y, from those of x and y."""
    weight = weight.double()
    bias = torch.zeros_like(sums.outputs) if bias is None else bias.double()
    moved = weight @ sums.inputs
    gram = weight @ sums.gram @ weight.T + torch.outer(moved, bias) + torch.outer(bias, moved)
    gram = gram + sums.tokens * torch.outer(bias, bias)
    cross = sums.cross @ weight.T + torch.outer(sums.outputs, bias)
    return replace(sums, gram=(gram + gram.T) / 2, inputs=moved + sums.tokens * bias, cross=cross)


def _scales(sums: Sums) -> Tensor:
    """The diagonal (out, out) of least squares: y_i on z_i alone; 1 where z_i is always zero."""
    energy = sums.gram.diagonal()
    return torch.diag(torch.where(energy > 0, sums.cross.diagonal() / energy.clamp(min=1e-300), 1.0))


def _folded(linear: Tensor, weight: Tensor, bias: Tensor | None, sums: Sums, held_out: Sums | None = None) -> Repaired:
    """The projection with a map `linear` (out, out) of its outputs multiplied into it."""
    new = (linear @ weight.double()).to(weight.dtype)
    new_bias = None if bias is None else (linear @ bias.double()).to(bias.dtype)
    judged = None if held_out is None else held_out.loss(new, new_bias)
    before, after = sums.loss(weight, bias), sums.loss(new, new_bias)
    notes: tuple[Note, ...] = ()
    return Repaired(new, new_bias, before, after, judged, sums.scale, None, None, notes)


@torch.inference_mode()
def check_added(parts: Anatomy, kind: str, recording: Recording, rows: Tensor) -> None:
    """Raise UnsupportedModel where the last projections that stay are not added to the residual stream as they are;
    tried on the windows `rows`.
    """
    hidden = recording.hidden[rows]
    for block in parts.blocks:
        matrix = last_projection(block, kind)
        hidden = hidden.to(matrix.weight().device)
        call = recording.call(block.index, rows, hidden.device)
        real = recording.mask[rows].to(hidden.device)
        after = run(block.module, hidden, call)
        behind = half_output(block, "attention", hidden, call) if kind == "mlp" else after
        added = _added(block, matrix, hidden, call)
        error = float((added - behind)[real].norm() / behind[real].norm())
        if not error <= ADDED:
            raise UnsupportedModel(
                f"{parts.model_type}: what {block.name}.{matrix.name} gives is not added to the residual stream as it"
                f" is (a norm or a factor stands between, relative difference {error:.2g}), so what is gone cannot be"
                " folded into it; take LR or BR+GP without repair"
            )
        hidden = after


def _added(block: Block, matrix: Matrix, hidden: Tensor, call: Call) -> Tensor:
    """Residual stream + output of a projection, in the block as it is."""
    inputs, residual = consumer_inputs(block, matrix, hidden, call)
    return residual + block.module.get_submodule(matrix.name)(inputs)
